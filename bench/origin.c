/*
 * The origin of the benchmarks: an HTTP/1.1 server that costs next to nothing, so that the proxy is what is
 * measured. One thread, one epoll, edge-triggered; answers are built once, at start.
 *
 *   /      200 and 128 bytes          /16k   200 and 16 KiB          /1m    200 and 1 MiB
 *   /500   500 (proves that the suite notices)                        other  404
 *
 * The longest prefix of the path that has an answer wins (`/16k/x` is `/16k`; `/x` is 404). Honours keep-alive,
 * pipelining, HEAD, `Connection: close`, HTTP/1.0 and request bodies with a Content-Length (read and dropped).
 * Relayed TCP is measured against the same program.
 *
 * usage: origin PORT [PORT...]                (on 127.0.0.1; several ports are several endpoints)
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
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    SCRATCH_BYTES = 64 * 1024,  /* also the longest request head */
    EVENTS_A_TURN = 512,
    QUEUE_LENGTH = 64,          /* pipelined requests that wait for an answer on one connection */
};

struct answer {
    const char *path;
    int status;
    size_t body_bytes;
    char *keep, *close;             /* whole messages, without and with `Connection: close` */
    size_t keep_head, close_head;   /* bytes of their heads */
};

static struct answer answers[] = {
    {.path = "/", .status = 200, .body_bytes = 128},
    {.path = "/16k", .status = 200, .body_bytes = 16 * 1024},
    {.path = "/1m", .status = 200, .body_bytes = 1024 * 1024},
    {.path = "/500", .status = 500, .body_bytes = 32},
    {.path = NULL, .status = 404, .body_bytes = 32},
};
enum { ANSWERS = sizeof answers / sizeof answers[0], NOT_FOUND = ANSWERS - 1 };

struct connection {
    int fd;                     /* -1 for a listener's record */
    int listener;
    bool closing;               /* close once the queue is empty */
    bool dead;
    char *partial;              /* owned: the start of a request head that is not whole yet, or NULL */
    size_t partial_bytes;
    uint64_t body_left;         /* of a request: bytes to drop before the next head */
    struct iovec queue[QUEUE_LENGTH];
    int queued;
    struct connection *next_dead;
};

static char scratch[SCRATCH_BYTES];
static struct connection *dead_connections;
static int poller;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static char *build_message(const struct answer *answer, const char *extra, size_t *head_bytes)
{
    char date[64];
    time_t now = time(NULL);
    struct tm utc;
    char *message = malloc(512 + answer->body_bytes);
    if (!message)
        die("malloc");
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &utc));
    *head_bytes = (size_t)snprintf(message, 512,
        "HTTP/1.1 %d %s\r\nServer: origin\r\nDate: %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n",
        answer->status, answer->status == 200 ? "OK" : answer->status == 404 ? "Not Found" : "Internal Server Error",
        date, answer->body_bytes, extra);
    memset(message + *head_bytes, 'x', answer->body_bytes);
    return message;
}

static void build_answers(void)
{
    for (int i = 0; i < ANSWERS; i++) {
        answers[i].keep = build_message(&answers[i], "", &answers[i].keep_head);
        answers[i].close = build_message(&answers[i], "Connection: close\r\n", &answers[i].close_head);
    }
}

static const struct answer *find_answer(const char *path, size_t length)
{
    for (int i = NOT_FOUND - 1; i > 0; i--) {
        size_t prefix = strlen(answers[i].path);
        if (length >= prefix && memcmp(path, answers[i].path, prefix) == 0
            && (length == prefix || path[prefix] == '/' || path[prefix] == '?'))
            return &answers[i];
    }
    if (length >= 1 && path[0] == '/' && (length == 1 || path[1] == '?'))
        return &answers[0];
    return &answers[NOT_FOUND];
}

/* ---- connections --------------------------------------------------------------------------------------- */

static void kill_connection(struct connection *connection)
{
    if (connection->dead)
        return;
    connection->dead = true;
    close(connection->fd);
    connection->next_dead = dead_connections;
    dead_connections = connection;
}

static void free_dead_connections(void)
{
    while (dead_connections) {
        struct connection *connection = dead_connections;
        dead_connections = connection->next_dead;
        free(connection->partial);
        free(connection);
    }
}

/* Sends what is queued. False: it did not all go out, or the connection is gone. */
static bool flush_queue(struct connection *connection)
{
    while (connection->queued) {
        struct msghdr message = {.msg_iov = connection->queue, .msg_iovlen = (size_t)connection->queued};
        ssize_t sent = connection->queued == 1
            ? send(connection->fd, connection->queue[0].iov_base, connection->queue[0].iov_len, MSG_NOSIGNAL)
            : sendmsg(connection->fd, &message, MSG_NOSIGNAL);
        int done = 0;
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                kill_connection(connection);
            return false;
        }
        while (done < connection->queued && (size_t)sent >= connection->queue[done].iov_len)
            sent -= (ssize_t)connection->queue[done++].iov_len;
        connection->queued -= done;
        memmove(connection->queue, connection->queue + done, sizeof(struct iovec) * (size_t)connection->queued);
        if (connection->queued) {
            connection->queue[0].iov_base = (char *)connection->queue[0].iov_base + sent;
            connection->queue[0].iov_len -= (size_t)sent;
        }
    }
    if (connection->closing)
        kill_connection(connection);
    return !connection->dead;
}

static bool field_is(const char *line, const char *end, const char *name, const char **value)
{
    size_t length = strlen(name);
    if ((size_t)(end - line) <= length || strncasecmp(line, name, length) != 0 || line[length] != ':')
        return false;
    for (line += length + 1; line < end && *line == ' '; line++)
        ;
    *value = line;
    return true;
}

/* Queues the answer to one whole request head. */
static void answer_request(struct connection *connection, const char *head, size_t length)
{
    const char *end = head + length, *line = memchr(head, '\r', length), *value;
    const char *path = memchr(head, ' ', (size_t)(line - head));
    const char *path_end = path ? memchr(path + 1, ' ', (size_t)(line - path - 1)) : NULL;
    const struct answer *answer;
    bool close_after = false, is_head = length > 5 && memcmp(head, "HEAD ", 5) == 0;
    if (!path_end) {
        kill_connection(connection);
        return;
    }
    answer = find_answer(path + 1, (size_t)(path_end - path - 1));
    close_after = line - path_end == 9 && memcmp(path_end + 1, "HTTP/1.0", 8) == 0;
    for (line += 2; line < end - 2; line = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1) {
        if ((*line | 0x20) != 'c')
            continue;
        if (field_is(line, end, "connection", &value))
            close_after = strncasecmp(value, "close", 5) == 0 || (close_after && strncasecmp(value, "keep-alive", 10));
        else if (field_is(line, end, "content-length", &value))
            connection->body_left = strtoull(value, NULL, 10);
    }
    connection->closing = close_after;
    connection->queue[connection->queued++] = (struct iovec){
        .iov_base = close_after ? answer->close : answer->keep,
        .iov_len = (close_after ? answer->close_head : answer->keep_head) + (is_head ? 0 : answer->body_bytes),
    };
}

/* Answers all whole requests in the bytes; returns how many bytes were used. */
static size_t consume(struct connection *connection, const char *bytes, size_t count)
{
    size_t used = 0;
    while (used < count && connection->queued < QUEUE_LENGTH && !connection->closing && !connection->dead) {
        const char *head = bytes + used, *end;
        if (connection->body_left) {
            size_t drop = connection->body_left < count - used ? connection->body_left : count - used;
            connection->body_left -= drop;
            used += drop;
            continue;
        }
        end = memmem(head, count - used, "\r\n\r\n", 4);
        if (!end)
            break;
        answer_request(connection, head, (size_t)(end - head) + 4);
        used += (size_t)(end - head) + 4;
    }
    return used;
}

static void keep_partial(struct connection *connection, const char *bytes, size_t count)
{
    char *kept = count ? malloc(count) : NULL;
    if (count && !kept)
        die("malloc");
    if (count)
        memcpy(kept, bytes, count);
    free(connection->partial);
    connection->partial = kept;
    connection->partial_bytes = count;
}

static void on_readable(struct connection *connection, bool end_reported)
{
    while (flush_queue(connection)) {
        size_t kept = connection->partial_bytes, total, used;
        ssize_t count;
        if (kept == sizeof scratch) {
            kill_connection(connection);
            return;
        }
        memcpy(scratch, connection->partial ? connection->partial : scratch, kept);
        count = recv(connection->fd, scratch + kept, sizeof scratch - kept, 0);
        if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
            kill_connection(connection);
            return;
        }
        total = kept + (count < 0 ? 0 : (size_t)count);
        used = consume(connection, scratch, total);
        if (connection->dead)
            return;
        if (used < total || kept)
            keep_partial(connection, scratch + used, total - used);
        if (count < 0 && !connection->queued)
            return;
        if (count >= 0 && total < sizeof scratch && used == total && !end_reported) {
            flush_queue(connection);
            return;
        }
    }
}

static void watch(int fd, uint32_t events, struct connection *connection)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static struct connection *new_connection(int fd, int listener)
{
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        die("calloc");
    connection->fd = fd;
    connection->listener = listener;
    return connection;
}

static void accept_all(int listener)
{
    for (;;) {
        int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, new_connection(fd, -1));
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            die("accept4");
        }
    }
}

static void listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0)
        die("listen");
    watch(fd, EPOLLIN, new_connection(-1, fd));
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS_A_TURN];
    if (argc < 2) {
        fprintf(stderr, "usage: %s PORT [PORT...]\n", argv[0]);
        return 2;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        die("epoll_create1");
    build_answers();
    for (int i = 1; i < argc; i++)
        listen_on(atoi(argv[i]));
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_A_TURN, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection->fd < 0)
                accept_all(connection->listener);
            else if (!connection->dead)
                on_readable(connection, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
        }
        free_dead_connections();
    }
}
