/*
 * Preloaded into fastmesh: a request for `/burn/<ms>` keeps the thread that reads it busy for so long. A stall of a
 * worker as a fault in its code would make it: it does not return to its loop, and it takes signals.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

__attribute__((noinline)) void burn_on_request(const char *ms)
{
    long long end = now_ms() + atoi(ms);
    while (now_ms() < end)
        ;
}

ssize_t recv(int fd, void *bytes, size_t count, int flags)
{
    static ssize_t (*real)(int, void *, size_t, int);
    static const char mark[] = "GET /burn/";
    ssize_t n;
    if (!real)
        real = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
    n = real(fd, bytes, count, flags);
    if (n > (ssize_t)sizeof(mark) && memcmp(bytes, mark, sizeof(mark) - 1) == 0)
        burn_on_request((const char *)bytes + sizeof(mark) - 1);
    return n;
}
