/*
 * The origin of the benchmarks: an HTTP/1.1 server that costs next to nothing, so that the proxy is what is
 * measured. One thread, one epoll, edge-triggered; answers are built once, at start.
 *
 *   / and /small   200 and 128 bytes  /16k   200 and 16 KiB          /1m    200 and 1 MiB
 *   /128k          200 and 128 KiB    /256k  200 and 256 KiB
 *   /500   500 (proves that the suite notices)                        other  404
 *   /echo-length   200 and the number of bytes that the request's body had
 *
 * The longest prefix of the path that has an answer wins (`/16k/x` is `/16k`; `/x` is 404). Honours keep-alive,
 * pipelining, HEAD, `Connection: close`, HTTP/1.0 and request bodies, with a Content-Length or chunked, which are
 * read and dropped; the answer follows the whole body. What is no request is answered with 400 and a close.
 * Relayed TCP is measured against the same program.
 *
 * Each port can be told to be slow or to fail (origin_behaviour.h) by datagrams to the control socket: a line
 * `PORT COMMAND`, answered by a line, `ok`, the counts or `error: ...`. A connection whose request is held is
 * read no further, so pipelined requests stay in order, and one after the other takes its delay. A request that
 * was begun keeps its slot for its time, though its client may have gone, as the work of a server would.
 *
 * usage: origin [--control PATH] [--seed N] PORT [PORT...]
 *                                             (on 127.0.0.1; several ports are several endpoints)
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
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "origin_answers.h"
#include "origin_behaviour.h"
#include "origin_control.h"
#include "origin_delay.h"
#include "origin_request.h"

enum {
    SCRATCH_BYTES = 64 * 1024,  /* also the longest request head */
    EVENTS_A_TURN = 512,
    QUEUE_LENGTH = 64,          /* pipelined requests that wait for an answer on one connection */
};

enum mode {
    SERVING,    /* reads requests */
    FLUSHING,   /* reads no further until its queue is sent */
    WAITING,    /* its request waits for a slot */
    WORKING,    /* its request waits for its answer's time; it is in the heap */
    HANGING,    /* its request has a slot for good; reads and drops */
    CLOSING,    /* will be closed once its queue is sent */
    ENDING,     /* a FIN goes out once its queue is sent, then it drains */
    DRAINING,   /* reads and drops until the client closes: to close with bytes unread would be a reset */
    RESETTING,  /* an RST goes out once its queue is sent */
    DEAD,
};

struct connection {
    int fd;                     /* -1 for a listener's record */
    enum mode mode;
    struct port *port;          /* NULL for the control socket's record */
    char *partial;              /* owned: the start of a request head that is not whole yet, or NULL */
    size_t partial_bytes;
    char *own_message;          /* owned: room for an answer of this connection alone, or NULL */
    struct request request;
    struct iovec queue[QUEUE_LENGTH];
    int queued;
    uint64_t arrived;           /* ns: when the request that waits for a slot was whole */
    LIST_ENTRY(connection) of_port;
    TAILQ_ENTRY(connection) of_waiting;
    struct connection *next_dead;
};

struct port {
    int number, listener;
    struct connection *record;  /* what epoll knows the listener by */
    bool listening;
    bool special;               /* anything but an answer at once to every request */
    struct behaviour behaviour;
    uint64_t random;
    uint64_t requests, delayed, failed;
    int waiting, serving;
    LIST_HEAD(, connection) connections;
    TAILQ_HEAD(, connection) waiting_line;
};

static char scratch[SCRATCH_BYTES];
static struct connection *dead_connections;
static struct due_heap dues;    /* of connections that are or were WORKING */
static int total_waiting;       /* over all ports */
static struct port *ports;
static int port_count;
static int poller, control;
static struct connection control_record = {.fd = -1};  /* what epoll knows the control socket by */

/* ---- connections --------------------------------------------------------------------------------------- */

static void bury(struct connection *connection)
{
    connection->next_dead = dead_connections;
    dead_connections = connection;
}

static void leave_waiting_line(struct connection *connection)
{
    TAILQ_REMOVE(&connection->port->waiting_line, connection, of_waiting);
    connection->port->waiting--;
    total_waiting--;
}

static void kill_connection(struct connection *connection)
{
    enum mode before = connection->mode;
    if (before == DEAD)
        return;
    connection->mode = DEAD;
    close(connection->fd);
    LIST_REMOVE(connection, of_port);
    if (before == WAITING)
        leave_waiting_line(connection);
    else if (before == HANGING)
        connection->port->serving--;
    if (before != WORKING)  /* else the heap holds it, and its slot is taken, until its answer's time */
        bury(connection);
}

static void reset_connection(struct connection *connection)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    kill_connection(connection);
}

static void free_dead_connections(void)
{
    while (dead_connections) {
        struct connection *connection = dead_connections;
        dead_connections = connection->next_dead;
        free(connection->partial);
        free(connection->own_message);
        free(connection);
    }
}

/* What was put off until the queue was sent. False: the connection is gone. */
static bool after_flush(struct connection *connection)
{
    if (connection->mode == FLUSHING) {
        connection->mode = SERVING;
    } else if (connection->mode == CLOSING) {
        kill_connection(connection);
    } else if (connection->mode == RESETTING) {
        reset_connection(connection);
    } else if (connection->mode == ENDING) {
        shutdown(connection->fd, SHUT_WR);
        connection->mode = DRAINING;
    }
    return connection->mode != DEAD;
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
    return connection->mode == SERVING || after_flush(connection);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

/* There is room for one, which must be sent before there can be another: hence FLUSHING. */
static struct message echo_message(struct connection *connection)
{
    if (!connection->own_message)
        connection->own_message = checked(malloc(NUMBER_ROOM));
    connection->mode = FLUSHING;
    return number_message(connection->own_message, connection->request.body_bytes, connection->request.close_after);
}

/* Queues the answer to the connection's request, or of its body a half. */
static void queue_answer(struct connection *connection, const struct answer *answer, bool whole)
{
    const struct request *request = &connection->request;
    struct message message = answer == &answers[ECHO] ? echo_message(connection)
        : request->close_after ? answer->close : answer->keep;
    size_t length = message.head + (request->is_head ? 0 : message.body);
    if (!whole)  /* without a body, of the head: what comes must not be an answer */
        length = request->is_head ? message.head / 2 : message.head + message.body / 2;
    connection->queue[connection->queued++] = (struct iovec){.iov_base = message.bytes, .iov_len = length};
    if (request->close_after)
        connection->mode = CLOSING;
}

static void refuse_request(struct connection *connection)
{
    connection->request = (struct request){.close_after = true};
    queue_answer(connection, &answers[BAD_REQUEST], true);
    connection->mode = ENDING;
}

static void fail(struct connection *connection)
{
    struct port *port = connection->port;
    port->failed++;
    switch (port->behaviour.failure) {
    case FAIL_STATUS:
        queue_answer(connection, failure_answer(port->behaviour.fail_status), true);
        break;
    case FAIL_CUT:
        queue_answer(connection, connection->request.answer, false);
        connection->mode = ENDING;
        break;
    case FAIL_CLOSE:
        connection->mode = ENDING;
        break;
    case FAIL_HANG:
        connection->mode = HANGING;
        port->serving++;
        break;
    default:
        connection->mode = RESETTING;
        break;
    }
}

/* The request has its slot since `start`: it fails, or is answered now or when its delay has passed. */
static void begin(struct connection *connection, uint64_t start)
{
    struct port *port = connection->port;
    const struct behaviour *behaviour = &port->behaviour;
    if (behaviour->failure != FAIL_NOTHING && random_share(&port->random) < behaviour->fail_share) {
        fail(connection);
    } else if (behaviour->delay.shape != DELAY_NONE && random_share(&port->random) < behaviour->delay_share) {
        connection->mode = WORKING;
        port->delayed++;
        port->serving++;
        if (!due_push(&dues, start + draw_delay(&behaviour->delay, &port->random), connection))
            die("malloc");
    } else {
        queue_answer(connection, connection->request.answer, true);
    }
}

static void on_request(struct connection *connection)
{
    struct port *port = connection->port;
    port->requests++;
    if (!port->special) {
        queue_answer(connection, connection->request.answer, true);
    } else if (port->behaviour.slots && (port->waiting || port->serving >= port->behaviour.slots)) {
        connection->mode = WAITING;
        connection->arrived = now_ns();
        TAILQ_INSERT_TAIL(&port->waiting_line, connection, of_waiting);
        port->waiting++;
        total_waiting++;
    } else {
        begin(connection, now_ns());
    }
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Answers or holds all whole requests in the bytes; returns how many bytes were used. */
static size_t consume(struct connection *connection, const char *bytes, size_t count)
{
    struct request *request = &connection->request;
    size_t used = 0;
    while (used < count && connection->queued < QUEUE_LENGTH && connection->mode == SERVING) {
        const char *from = bytes + used, *end;
        bool is_request = true;
        if (body_to_come(request)) {
            used += take_body(request, from, count - used);
        } else {
            end = memmem(from, count - used, "\r\n\r\n", 4);
            if (!end)
                break;
            is_request = read_head(request, from, (size_t)(end - from) + 4);
            used += (size_t)(end - from) + 4;
        }
        if (!is_request || body_is_wrong(request))
            refuse_request(connection);
        else if (!body_to_come(request))
            on_request(connection);
    }
    return used;
}

static void keep_partial(struct connection *connection, const char *bytes, size_t count)
{
    char *kept = count ? memcpy(checked(malloc(count)), bytes, count) : NULL;
    free(connection->partial);
    connection->partial = kept;
    connection->partial_bytes = count;
}

static void drain(struct connection *connection)
{
    ssize_t count;
    do
        count = recv(connection->fd, scratch, sizeof scratch, 0);
    while (count > 0 || (count < 0 && errno == EINTR));
    if (count == 0 || errno != EAGAIN)
        kill_connection(connection);
}

/* `events`: what was reported of it; EPOLLRDHUP stands for "read until there is no more". */
static void on_ready(struct connection *connection, uint32_t events)
{
    while (flush_queue(connection)) {
        size_t kept = connection->partial_bytes, total, used;
        ssize_t count;
        if (connection->mode == DRAINING || connection->mode == HANGING) {
            drain(connection);
            return;
        }
        if (connection->mode != SERVING) {  /* it is held: what it sends stays in the kernel */
            if (events & (EPOLLHUP | EPOLLERR))
                kill_connection(connection);
            return;
        }
        memcpy(scratch, connection->partial ? connection->partial : scratch, kept);
        /* A head without an end in so many bytes ends the connection, as the end of the stream does. */
        count = kept == sizeof scratch ? 0 : recv(connection->fd, scratch + kept, sizeof scratch - kept, 0);
        if (count < 0 && errno != EAGAIN && errno != EINTR) {
            kill_connection(connection);
            return;
        }
        total = kept + (count < 0 ? 0 : (size_t)count);
        used = consume(connection, scratch, total);
        if (count == 0 && !used) {  /* else what was kept back held requests, or bodies */
            kill_connection(connection);
            return;
        }
        if (used < total || kept)
            keep_partial(connection, scratch + used, total - used);
        if (count < 0 && !connection->queued && connection->mode == SERVING)
            return;
        if (count > 0 && total < sizeof scratch && used == total
            && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
            flush_queue(connection);
            return;
        }
    }
}

/* ---- held requests ------------------------------------------------------------------------------------- */

/* Begins what waits on the port, as far as there are slots, which were free since `since`. */
static void begin_waiting(struct port *port, uint64_t since)
{
    const struct behaviour *behaviour = &port->behaviour;
    while (port->waiting && (!behaviour->slots || port->serving < behaviour->slots)) {
        struct connection *first = TAILQ_FIRST(&port->waiting_line);
        leave_waiting_line(first);
        first->mode = SERVING;
        begin(first, first->arrived > since ? first->arrived : since);
        on_ready(first, EPOLLRDHUP);
    }
}

/* Answers what is due. A slot goes on to the next request as of the time when it fell free, not of now: so
 * what this program is late by does not lessen the slots' capacity. */
static void answer_due(uint64_t now)
{
    while (dues.count && dues.entries[0].at <= now) {
        struct due due = due_pop(&dues);
        struct connection *connection = due.item;
        struct port *port = connection->port;
        port->serving--;
        if (connection->mode == DEAD) {
            bury(connection);
        } else {
            connection->mode = SERVING;
            queue_answer(connection, connection->request.answer, true);
            on_ready(connection, EPOLLRDHUP);
        }
        begin_waiting(port, due.at);
    }
}

/* ---- ports --------------------------------------------------------------------------------------------- */

static void watch(int fd, uint32_t events, struct connection *connection)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static struct connection *new_connection(int fd, struct port *port)
{
    struct connection *connection = checked(calloc(1, sizeof *connection));
    connection->fd = fd;
    connection->port = port;
    return connection;
}

static void accept_all(struct port *port)
{
    while (port->listening) {
        int on = 1, fd = accept4(port->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            struct connection *connection = new_connection(fd, port);
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            LIST_INSERT_HEAD(&port->connections, connection, of_port);
            watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, connection);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            die("accept4");
        }
    }
}

static void start_listening(struct port *port)
{
    if (listen(port->listener, 4096) < 0)
        die("listen");
    watch(port->listener, EPOLLIN, port->record);
    port->listening = true;
}

/* A shutdown ends listening as a close would, but the port's number stays ours. */
static void stop_listening(struct port *port)
{
    if (epoll_ctl(poller, EPOLL_CTL_DEL, port->listener, NULL) < 0 || shutdown(port->listener, SHUT_RD) < 0)
        die("shutdown");
    port->listening = false;
    for (struct connection *next, *one = LIST_FIRST(&port->connections); one; one = next) {
        next = LIST_NEXT(one, of_port);
        reset_connection(one);
    }
}

static void open_port(struct port *port, int number, uint64_t seed)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    *port = (struct port){.number = number, .listener = fd, .random = seed};
    LIST_INIT(&port->connections);
    TAILQ_INIT(&port->waiting_line);
    port->record = new_connection(-1, port);
    start_listening(port);
}

static void set_behaviour(struct port *port, const struct behaviour *behaviour)
{
    port->behaviour = *behaviour;
    port->special = is_special(behaviour);
    if (behaviour->failure == FAIL_REFUSE && port->listening)
        stop_listening(port);
    else if (behaviour->failure != FAIL_REFUSE && !port->listening)
        start_listening(port);
}

/* ---- control ------------------------------------------------------------------------------------------- */

/* Does what the words say, and writes the answer. */
static bool obey(struct words *words, struct complaint *answer)
{
    const char *name = words->count ? words->word[0] : "";
    struct port *port = ports;
    struct behaviour behaviour;
    int number = 0;
    parse_whole(name, 1, 65535, &number);
    while (port < ports + port_count && port->number != number)
        port++;
    if (port == ports + port_count)
        return complain(answer, "'%.40s' is no port of this origin; a command is PORT COMMAND", name);
    if (words->count == 2 && strcmp(words->word[1], "count") == 0) {
        snprintf(answer->text, sizeof answer->text, "requests %llu delayed %llu failed %llu waiting %d serving %d",
            (unsigned long long)port->requests, (unsigned long long)port->delayed,
            (unsigned long long)port->failed, port->waiting, port->serving);
        return true;
    }
    behaviour = port->behaviour;
    if (!parse_behaviour(words, &behaviour, answer))
        return false;
    set_behaviour(port, &behaviour);
    strcpy(answer->text, "ok");
    return true;
}

static void on_control(void)
{
    struct command command;
    struct words words;
    struct complaint answer;
    bool good;
    if (!receive_command(control, &command))
        return;
    good = split_words(command.text, &words) ? obey(&words, &answer) : complain(&answer, "too many words");
    answer_command(control, &command, good ? "" : "error: ", answer.text);
}

/* ---- start --------------------------------------------------------------------------------------------- */

/* Opens what the command line says; false: it is wrong. */
static bool set_up(int argc, char **argv)
{
    uint64_t state;
    int seed = 1;
    const char *control_path = NULL;
    ports = checked(calloc((size_t)argc, sizeof *ports));   /* none moves: connections point to them */
    for (int i = 1; i < argc; i++) {
        int number;
        if (strcmp(argv[i], "--control") == 0 && i + 1 < argc)
            control_path = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc && parse_whole(argv[i + 1], 0, INT32_MAX, &seed))
            i++;
        else if (parse_whole(argv[i], 1, 65535, &number))
            ports[port_count++].number = number;
        else
            return false;
    }
    state = (uint64_t)seed;
    for (int i = 0; i < port_count; i++)
        open_port(&ports[i], ports[i].number, next_random(&state));
    if (control_path) {
        control = open_control(control_path);
        watch(control, EPOLLIN, &control_record);
    }
    return port_count > 0;
}

static int wait_for_events(struct epoll_event *events)
{
    if (dues.count) {
        uint64_t at = dues.entries[0].at, now = now_ns(), rest = at > now ? at - now : 0;
        struct timespec span = {.tv_sec = (time_t)(rest / 1000000000u), .tv_nsec = (long)(rest % 1000000000u)};
        return epoll_pwait2(poller, events, EVENTS_A_TURN, &span, NULL);
    }
    return epoll_wait(poller, events, EVENTS_A_TURN, -1);
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS_A_TURN];
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        die("epoll_create1");
    prctl(PR_SET_TIMERSLACK, 1UL);  /* ns; else epoll may be 50 us late */
    for (int i = 0; i < ANSWERS; i++)
        build_answer(&answers[i]);
    if (!set_up(argc, argv)) {
        fprintf(stderr, "usage: %s [--control PATH] [--seed N] PORT [PORT...]\n", argv[0]);
        return 2;
    }
    for (;;) {
        int count = wait_for_events(events);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        if (dues.count)
            answer_due(now_ns());
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection->fd >= 0 && connection->mode != DEAD)
                on_ready(connection, events[i].events);
            else if (connection->fd < 0 && connection->port)
                accept_all(connection->port);
            else if (connection->fd < 0)
                on_control();
        }
        for (int i = 0; i < port_count && total_waiting; i++)
            begin_waiting(&ports[i], now_ns());
        free_dead_connections();
    }
}
