/*
 * The relay floor: what any proxy on this machine has to pay at least.
 *
 * Relays bytes one to one between each client connection and its own upstream connection, which is opened
 * when the client is accepted. It parses nothing, pools nothing and counts nothing: one thread, one epoll,
 * edge-triggered, one recv and one send per message. CPU per request of a proxy divided by that of this
 * program is the price of being a proxy at all.
 *
 * usage: relay_floor LISTEN_PORT [LISTEN_PORT] ORIGIN_PORT          (all on 127.0.0.1)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SCRATCH_BYTES = 128 * 1024, EVENTS_A_TURN = 512 };

struct pair;

/* One direction ends in a side: bytes are read from one side and written to the other. */
struct side {
    int fd;
    bool readable;      /* the socket may hold more bytes than were read */
    bool ended;         /* its end of stream was read and passed on */
    char *rest;         /* owned: bytes that this side's socket did not take yet, or NULL */
    size_t rest_from, rest_to;
    struct side *other;
    struct pair *pair;
};

struct pair {
    struct side client, upstream;
    bool dead;
    struct pair *next_dead;
};

static char scratch[SCRATCH_BYTES];
static struct pair *dead_pairs;     /* freed at the end of the turn: a later event of the turn may name them */
static int poller;
static struct sockaddr_in origin_address;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void kill_pair(struct pair *pair)
{
    if (pair->dead)
        return;
    pair->dead = true;
    close(pair->client.fd);
    close(pair->upstream.fd);
    pair->next_dead = dead_pairs;
    dead_pairs = pair;
}

static void free_dead_pairs(void)
{
    while (dead_pairs) {
        struct pair *pair = dead_pairs;
        dead_pairs = pair->next_dead;
        free(pair->client.rest);
        free(pair->upstream.rest);
        free(pair);
    }
}

static void pass_on_end(struct side *from)
{
    from->ended = true;
    from->readable = false;
    if (from->other->ended)
        kill_pair(from->pair);
    else
        shutdown(from->other->fd, SHUT_WR);
}

/* Keeps what `to` did not take; reading from the other side stops until it has gone out. */
static void keep_rest(struct side *to, const char *bytes, size_t count)
{
    to->rest = malloc(count);
    if (!to->rest)
        die("malloc");
    memcpy(to->rest, bytes, count);
    to->rest_from = 0;
    to->rest_to = count;
}

/* False: the socket is broken. A full socket is no error: *taken is then what went out. */
static bool send_some(int fd, const char *bytes, size_t count, size_t *taken)
{
    ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR && errno != ENOTCONN)
        return false;
    *taken = sent < 0 ? 0 : (size_t)sent;
    return true;
}

/* Reads from `from` and writes at once to the other side. A short read ends it unless an end was reported. */
static void relay(struct side *from, bool end_reported)
{
    struct side *to = from->other;
    while (!to->rest && !from->ended) {
        ssize_t count = recv(from->fd, scratch, sizeof scratch, 0);
        size_t taken;
        if (count == 0) {
            pass_on_end(from);
            return;
        }
        if (count < 0) {
            if (errno == EINTR)
                continue;
            from->readable = false;
            if (errno != EAGAIN && errno != ENOTCONN)
                kill_pair(from->pair);
            return;
        }
        if (!send_some(to->fd, scratch, (size_t)count, &taken)) {
            kill_pair(from->pair);
            return;
        }
        if (taken < (size_t)count)
            keep_rest(to, scratch + taken, (size_t)count - taken);
        if ((size_t)count < sizeof scratch && !end_reported) {
            from->readable = false;
            return;
        }
    }
}

static void flush_rest(struct side *to)
{
    size_t taken;
    if (!send_some(to->fd, to->rest + to->rest_from, to->rest_to - to->rest_from, &taken)) {
        kill_pair(to->pair);
        return;
    }
    to->rest_from += taken;
    if (to->rest_from < to->rest_to)
        return;
    free(to->rest);
    to->rest = NULL;
    if (to->other->readable)
        relay(to->other, true);
}

static void on_event(struct side *side, uint32_t events)
{
    const uint32_t end = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
    if (side->pair->dead)
        return;
    if (events & (EPOLLIN | end)) {
        side->readable = true;
        relay(side, events & end);
    }
    if (!side->pair->dead && side->rest && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        flush_rest(side);
}

static void watch(struct side *side)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = side};
    int on = 1;
    setsockopt(side->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, side->fd, &event) < 0)
        die("epoll_ctl");
}

static void open_pair(int client_fd)
{
    int upstream_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pair *pair = calloc(1, sizeof *pair);
    if (upstream_fd < 0 || !pair)
        die("open a pair");
    pair->client = (struct side){.fd = client_fd, .other = &pair->upstream, .pair = pair};
    pair->upstream = (struct side){.fd = upstream_fd, .other = &pair->client, .pair = pair};
    if (connect(upstream_fd, (struct sockaddr *)&origin_address, sizeof origin_address) < 0 && errno != EINPROGRESS) {
        perror("connect to the origin");
        kill_pair(pair);
        return;
    }
    watch(&pair->client);
    watch(&pair->upstream);
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            open_pair(fd);
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR && errno != ECONNABORTED)
            die("accept4");
    }
}

static int listen_on(int port)
{
    struct sockaddr_in address = loopback(port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0)
        die("listen");
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
    return fd;
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS_A_TURN];
    int listeners[2], ports = argc - 2;
    if (ports < 1 || ports > 2) {
        fprintf(stderr, "usage: %s LISTEN_PORT [LISTEN_PORT] ORIGIN_PORT\n", argv[0]);
        return 2;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        die("epoll_create1");
    origin_address = loopback(atoi(argv[argc - 1]));
    for (int i = 0; i < ports; i++)
        listeners[i] = listen_on(atoi(argv[1 + i]));
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_A_TURN, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                on_event(events[i].data.ptr, events[i].events);
            else
                for (int k = 0; k < ports; k++)
                    accept_all(listeners[k]);
        }
        free_dead_pairs();
    }
}
