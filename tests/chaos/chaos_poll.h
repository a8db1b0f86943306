/*
 * What is asked of epoll for a descriptor, and asked anew only when it changes. Before this, include what defines
 * `die`.
 */
#ifndef CHAOS_POLL_H
#define CHAOS_POLL_H

#include <stdint.h>
#include <sys/epoll.h>

/* `watched` are the events that were asked for last, 0 before the first time; `of` comes back with each event. */
static inline void poll_watch(int poller, int fd, uint32_t *watched, uint32_t events, void *of)
{
    struct epoll_event event = {.events = events, .data.ptr = of};
    if (*watched == events)
        return;
    if (epoll_ctl(poller, *watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
    *watched = events;
}
#endif
