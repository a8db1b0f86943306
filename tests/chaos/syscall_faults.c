/*
 * Preloaded into fastmesh: makes system calls of its workers fail as a kernel may. Every thread but the first is
 * concerned, so that the control plane's own sockets are left alone. FASTMESH_SYSCALL_FAULTS says which, in percent
 * of the calls: `seed=7,short=20,again=10,emfile=5,enomem=5`.
 *
 *   short    send, recv and splice of a polled descriptor move one byte, where more was asked for
 *   again    they fail with EAGAIN, three times in a row
 *   emfile   accept4, socket and pipe2 fail with EMFILE
 *   enomem   they and epoll_ctl(EPOLL_CTL_ADD) fail with ENOMEM
 *
 * It begins with the first client that a worker accepts: before, fastmesh starts and may give up. At the end a line
 * on stderr says how often it struck: `syscall faults: short 12 again 3 refused 4`.
 *
 * An edge-triggered poller is told of no new edge where none is: after a made-up EAGAIN or a short transfer the
 * descriptor is armed again, as the kernel's own edge would.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DESCRIPTORS = 65536, STORM = 3 };

static struct {
    uint64_t seed;
    unsigned shorter, again, emfile, enomem;    /* percent */
} faults;
static struct watched { int poller; struct epoll_event event; } watched[DESCRIPTORS];
static uint64_t threads, shortened, put_off, refused;
static bool serving;    /* a worker has accepted: until then fastmesh starts, and may give up */
static __thread uint64_t random_state;
static __thread unsigned storm;
static __thread enum { UNKNOWN, FIRST, OTHER } thread_kind;

static unsigned setting(const char *text, const char *name)
{
    const char *found = strstr(text, name);
    return found ? (unsigned)strtoul(found + strlen(name), NULL, 10) : 0;
}

__attribute__((constructor)) static void read_settings(void)
{
    const char *text = getenv("FASTMESH_SYSCALL_FAULTS");
    if (!text)
        text = "";
    faults.seed = setting(text, "seed=");
    faults.shorter = setting(text, "short=");
    faults.again = setting(text, "again=");
    faults.emfile = setting(text, "emfile=");
    faults.enomem = setting(text, "enomem=");
}

__attribute__((destructor)) static void tell(void)
{
    dprintf(STDERR_FILENO, "syscall faults: short %llu again %llu refused %llu\n", (unsigned long long)shortened,
            (unsigned long long)put_off, (unsigned long long)refused);
}

/* The libc's function of this name. */
static void *original(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static bool is_first_thread(void)
{
    if (thread_kind == UNKNOWN)
        thread_kind = gettid() == getpid() ? FIRST : OTHER;
    return thread_kind == FIRST;
}

/* Whether this call is to fail; false on the first thread. */
static bool strikes(unsigned percent)
{
    uint64_t mixed;
    if (!percent || !__atomic_load_n(&serving, __ATOMIC_RELAXED) || is_first_thread())
        return false;
    if (!random_state)
        random_state = faults.seed + 1000003 * __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
    mixed = random_state += 0x9e3779b97f4a7c15u;    /* splitmix64 (Steele, Lea, Flood 2014) */
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return (mixed ^ (mixed >> 31)) % 100 < percent;
}

static bool is_known(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS && watched[fd].poller > 0;
}

static void arm_again(int fd)
{
    static int (*real)(int, int, int, struct epoll_event *);
    int before = errno;
    if (!real)
        real = original("epoll_ctl");
    real(watched[fd].poller, EPOLL_CTL_MOD, fd, &watched[fd].event);
    errno = before;
}

/* How much may be moved of what was asked for; 0: the call fails with EAGAIN. */
static size_t allowed(int fd, size_t count)
{
    if (!is_known(fd) || count == 0)
        return count;
    if (storm || strikes(faults.again)) {
        storm = storm ? storm - 1 : STORM - 1;
        arm_again(fd);
        errno = EAGAIN;
        __atomic_add_fetch(&put_off, 1, __ATOMIC_RELAXED);
        return 0;
    }
    if (count > 1 && strikes(faults.shorter)) {
        arm_again(fd);
        __atomic_add_fetch(&shortened, 1, __ATOMIC_RELAXED);
        return 1;
    }
    return count;
}

static bool no_room(void)
{
    if (strikes(faults.emfile))
        errno = EMFILE;
    else if (strikes(faults.enomem))
        errno = ENOMEM;
    else
        return false;
    __atomic_add_fetch(&refused, 1, __ATOMIC_RELAXED);
    return true;
}

/* ---- what moves bytes ------------------------------------------------------------------------------------ */

ssize_t send(int fd, const void *bytes, size_t count, int flags)
{
    static ssize_t (*real)(int, const void *, size_t, int);
    size_t most = allowed(fd, count);
    if (!real)
        real = original("send");
    return most || !count ? real(fd, bytes, most, flags) : -1;
}

ssize_t recv(int fd, void *bytes, size_t count, int flags)
{
    static ssize_t (*real)(int, void *, size_t, int);
    size_t most = allowed(fd, count);
    if (!real)
        real = original("recv");
    return most || !count ? real(fd, bytes, most, flags) : -1;
}

ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags)
{
    static ssize_t (*real)(int, off64_t *, int, off64_t *, size_t, unsigned);
    size_t most = allowed(is_known(from) ? from : to, count);
    if (!real)
        real = original("splice");
    return most || !count ? real(from, from_at, to, to_at, most, flags) : -1;
}

/* ---- what makes descriptors ------------------------------------------------------------------------------ */

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    static int (*real)(int, struct sockaddr *, socklen_t *, int);
    if (!real)
        real = original("accept4");
    if (!is_first_thread())
        __atomic_store_n(&serving, true, __ATOMIC_RELAXED);
    return no_room() ? -1 : real(fd, address, length, flags);
}

int socket(int domain, int type, int protocol)
{
    static int (*real)(int, int, int);
    if (!real)
        real = original("socket");
    return no_room() ? -1 : real(domain, type, protocol);
}

int pipe2(int fds[2], int flags)
{
    static int (*real)(int[2], int);
    if (!real)
        real = original("pipe2");
    return no_room() ? -1 : real(fds, flags);
}

/* ---- what is polled -------------------------------------------------------------------------------------- */

int epoll_ctl(int poller, int operation, int fd, struct epoll_event *event)
{
    static int (*real)(int, int, int, struct epoll_event *);
    bool edges = event && event->events & EPOLLET && !(event->events & EPOLLEXCLUSIVE);
    int result;
    if (!real)
        real = original("epoll_ctl");
    if (operation == EPOLL_CTL_ADD && edges && strikes(faults.enomem)) {
        __atomic_add_fetch(&refused, 1, __ATOMIC_RELAXED);
        errno = ENOMEM;
        return -1;
    }
    result = real(poller, operation, fd, event);
    if (result == 0 && fd >= 0 && fd < DESCRIPTORS) {
        if (operation == EPOLL_CTL_DEL || !edges)
            watched[fd].poller = 0;
        else
            watched[fd] = (struct watched){poller, *event};
    }
    return result;
}

int close(int fd)
{
    static int (*real)(int);
    if (!real)
        real = original("close");
    if (fd >= 0 && fd < DESCRIPTORS)
        watched[fd].poller = 0;
    return real(fd);
}
