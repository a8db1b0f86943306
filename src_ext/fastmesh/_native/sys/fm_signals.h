/* Signals in the threads of the data plane: masked, but for those by which one thread asks another. */
#ifndef FM_SIGNALS_H
#define FM_SIGNALS_H
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FM_LOOK_SIGNAL (SIGRTMIN + 5)
#define FM_STACKS_SIGNAL (SIGRTMIN + 6)

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

/* The same, but one more is taken. */
static inline void fm_block_signals_but(int number)
{
    sigset_t set;
    fm_block_signals();
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, 0);
}

/* What a signal handler finds of its thread. Set before the thread can be asked, so that the first access, which
 * may allocate, is not the handler's. */
static __thread void *fm_this_thread;
static inline void fm_set_this_thread(void *it) { fm_this_thread = it; }
static inline void *fm_get_this_thread(void) { return fm_this_thread; }

static inline int fm_handle(int number, void (*handler)(int))
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigfillset(&action.sa_mask);
    return sigaction(number, &action, 0);
}

/* As `top -H` and /proc show it: `worker-3`. */
static inline void fm_name_thread(const char *what, uint32_t number)
{
    char name[16];
    snprintf(name, sizeof(name), "%s-%u", what, number);
    pthread_setname_np(pthread_self(), name);
}

/* Whether the signal may be sent: without a handler it would end the process. */
static inline int fm_is_handled(int number)
{
    struct sigaction action;
    return sigaction(number, 0, &action) == 0 && action.sa_handler != SIG_DFL;
}

static inline uint32_t fm_thread_id(void) { return (uint32_t)syscall(SYS_gettid); }

static inline int fm_ask_thread(uint32_t tid, int number)
{
    return (int)syscall(SYS_tgkill, getpid(), (pid_t)tid, number);
}

/* A look at what belongs to another thread, which may be writing it: the value may be an old one. ThreadSanitizer is
 * not asked, for this is a race, and meant. */
#define FM_PEEK __attribute__((noinline, no_sanitize("thread")))
static FM_PEEK uint8_t fm_peek_u8(const uint8_t *p) { return *(const volatile uint8_t *)p; }
static FM_PEEK int fm_peek_int(const int *p) { return *(const volatile int *)p; }
#endif
