/* Masking signals in a thread of the data plane. */
#ifndef FM_SIGNALS_H
#define FM_SIGNALS_H
#include <pthread.h>
#include <signal.h>

/* Blocks in the calling thread all signals but those that a fault in it raises, so that the control thread
 * gets them. */
static inline void fm_block_signals(void)
{
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    sigdelset(&set, SIGABRT);
    sigdelset(&set, SIGTRAP);
    pthread_sigmask(SIG_BLOCK, &set, 0);
}
#endif
