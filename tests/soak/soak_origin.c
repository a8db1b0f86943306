/*
 * The origin of the soak run. A request's path ends in its id; `x-soak: STATUS FORM BYTES` says what its answer is
 * like: FORM is `length`, `chunked`, `close` (ends with the connection) or `none`. The answer repeats the id in
 * `x-chaos-id` and has so many bytes of the id's text (soak_wire.h). The body of a request must be that text too:
 * `x-soak-got: BYTES right` says that each of its bytes was in its place, and otherwise `wrong`.
 *
 * With `Upgrade: websocket` the answer is 101, and from then on all that comes goes back; on the echo port that is
 * so from the first byte.
 *
 * `--counts FILE` is mapped and outlives a killed process: u64 whole requests, wrong bodies, heads that made no
 * sense, tunnels and relays.
 *
 * One thread, one level-triggered epoll; a connection is read no further while its answer is not sent.
 *
 * usage: soak_origin --counts FILE NUMBER PORT ECHO_PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include "soak_wire.h"
#include "../chaos/chaos_poll.h"

enum { ROOM = 64 * 1024, PIECE = 32 * 1024, EVENTS_A_TURN = 256, COUNTERS = 8 };
enum counter { REQUESTS, WRONG_BODIES, BAD_HEADS, ECHOES };
enum stage { READ_HEAD, READ_BODY, SEND_ANSWER, ECHO };

struct connection {
    int fd;
    uint32_t watched;
    bool dead, listens, echoes;         /* of a listener: its connections do */
    enum stage stage;
    char in[ROOM];
    size_t in_from, in_count;
    u64 id, got;
    struct reader body;
    bool wrong, head_only, close_after, finished;
    int status;
    enum framing form;
    u64 wanted, made;
    bool answer_ended;                  /* its last piece is in `out` */
    char out[ROOM];
    size_t out_from, out_count;
    struct connection *next_dead;
};

static struct connection *dead_connections;
static u64 *counters;
static int poller, number;

static void watch(struct connection *connection, uint32_t events)
{
    poll_watch(poller, connection->fd, &connection->watched, events, connection);
}

static void end(struct connection *connection)
{
    if (connection->dead)
        return;
    connection->dead = true;
    close(connection->fd);
    connection->next_dead = dead_connections;
    dead_connections = connection;
}

/* ---- the request ----------------------------------------------------------------------------------------- */

static bool take_wish(struct connection *connection, const char *head, size_t bytes)
{
    char form[16] = "length", text[64] = "";
    size_t length = 0;
    const char *wish = head_field(head, bytes, "x-soak", &length);
    connection->status = 200;
    connection->wanted = BLOCK;
    if (wish && length < sizeof text) {
        memcpy(text, wish, length);
        if (sscanf(text, "%d %15s %llu", &connection->status, form, &connection->wanted) != 3)
            return false;
    }
    connection->form = strcmp(form, "length") == 0 ? COUNTED : strcmp(form, "chunked") == 0 ? CHUNKED
                     : strcmp(form, "close") == 0 ? ENDLESS : NO_BODY;
    return true;
}

/* A head with its empty line. */
static bool take_head(struct connection *connection, const char *head, size_t bytes)
{
    const char *line_end = memmem(head, bytes, "\r\n", 2), *path = memchr(head, ' ', bytes), *path_end;
    uint64_t id;
    if (!path || !(path_end = memchr(path + 1, ' ', (size_t)(line_end - path - 1)))
        || path_end - path < ID_BYTES + 2 || !id_read(path_end - ID_BYTES, &id) || !take_wish(connection, head, bytes)
        || !reader_of_head(&connection->body, head, bytes, NO_BODY))
        return false;
    connection->id = id;
    connection->got = 0;
    connection->wrong = false;
    connection->head_only = memcmp(head, "HEAD ", 5) == 0;
    connection->echoes = field_is(head, bytes, "upgrade", "websocket");
    connection->close_after = connection->form == ENDLESS || field_is(head, bytes, "connection", "close");
    connection->stage = READ_BODY;
    return true;
}

static void take_body(struct connection *connection)
{
    while (connection->body.state == READING && connection->in_from < connection->in_count) {
        const char *data;
        size_t data_bytes;
        connection->in_from += reader_step(&connection->body, connection->in + connection->in_from,
                                           connection->in_count - connection->in_from, &data, &data_bytes);
        connection->wrong |= text_check(data, connection->id, connection->got, data_bytes) != BODY_RIGHT;
        connection->got += data_bytes;
    }
}

/* ---- the answer ------------------------------------------------------------------------------------------ */

static void begin_answer(struct connection *connection)
{
    char id[ID_LINE] = {0}, framing[64] = "";
    id_write(id, connection->id);
    counters[REQUESTS]++;
    counters[WRONG_BODIES] += connection->wrong;
    connection->out_from = connection->made = 0;
    connection->answer_ended = false;
    if (connection->echoes) {
        counters[ECHOES]++;
        connection->out_count = (size_t)snprintf(connection->out, ROOM,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-chaos-id: %s\r\n\r\n", id);
        connection->stage = ECHO;
        return;
    }
    if (connection->form == COUNTED)
        snprintf(framing, sizeof framing, "Content-Length: %llu\r\n", connection->wanted);
    else if (connection->form == CHUNKED)
        snprintf(framing, sizeof framing, "Transfer-Encoding: chunked\r\n");
    connection->out_count = (size_t)snprintf(connection->out, ROOM,
        "HTTP/1.1 %d Soaked\r\n%sx-chaos-id: %s\r\nx-origin: %d\r\nx-soak-got: %llu %s\r\n%s\r\n",
        connection->status, framing, id, number, connection->got, connection->wrong ? "wrong" : "right",
        connection->close_after ? "Connection: close\r\n" : "");
    if (connection->head_only || connection->form == NO_BODY)
        connection->wanted = 0, connection->answer_ended = true;
    connection->stage = SEND_ANSWER;
}

/* Puts the next piece into `out`, which is empty. */
static void go_on_answering(struct connection *connection)
{
    u64 left = connection->wanted - connection->made;
    size_t bytes = left < PIECE ? (size_t)left : PIECE;
    bool chunked = connection->form == CHUNKED;
    connection->out_from = 0;
    connection->out_count = bytes ? piece_write(connection->out, chunked, connection->id, connection->made, bytes) : 0;
    connection->made += bytes;
    if (connection->made < connection->wanted)
        return;
    if (chunked) {
        memcpy(connection->out + connection->out_count, "0\r\n\r\n", 5);
        connection->out_count += 5;
    }
    connection->answer_ended = true;
}

static void end_answer(struct connection *connection)
{
    connection->stage = READ_HEAD;
    if (connection->close_after)
        end(connection);
}

/* ---- turns ----------------------------------------------------------------------------------------------- */

/* False: it cannot go on now. */
static bool send_out(struct connection *connection)
{
    while (connection->out_from < connection->out_count) {
        ssize_t sent = send(connection->fd, connection->out + connection->out_from,
                            connection->out_count - connection->out_from, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            watch(connection, EPOLLOUT);
        else if (sent < 0)
            end(connection);
        if (sent < 0)
            return false;
        connection->out_from += (size_t)sent;
    }
    return true;
}

static bool receive(struct connection *connection)
{
    ssize_t count;
    memmove(connection->in, connection->in + connection->in_from, connection->in_count - connection->in_from);
    connection->in_count -= connection->in_from;
    connection->in_from = 0;
    if (connection->in_count == ROOM) {         /* a head without an end */
        counters[BAD_HEADS]++;
        end(connection);
        return false;
    }
    count = recv(connection->fd, connection->in + connection->in_count, ROOM - connection->in_count, 0);
    if (count < 0 && errno == EAGAIN)
        watch(connection, EPOLLIN);
    else if (count <= 0)
        end(connection);
    if (count <= 0)
        return false;
    connection->in_count += (size_t)count;
    return true;
}

static void echo(struct connection *connection)
{
    connection->out_from = 0;
    connection->out_count = connection->in_count - connection->in_from;
    memcpy(connection->out, connection->in + connection->in_from, connection->out_count);
    connection->in_from = connection->in_count = 0;
}

static void take_what_there_is(struct connection *connection)
{
    char *from = connection->in + connection->in_from;
    size_t count = connection->in_count - connection->in_from;
    if (connection->stage == READ_HEAD) {
        char *head_end = memmem(from, count, "\r\n\r\n", 4);
        if (!head_end)
            return;
        connection->in_from += (size_t)(head_end - from) + 4;
        if (!take_head(connection, from, (size_t)(head_end - from) + 4)) {
            counters[BAD_HEADS]++;
            end(connection);
            return;
        }
    }
    take_body(connection);
    if (connection->body.state == BROKEN) {
        counters[BAD_HEADS]++;
        end(connection);
    } else if (connection->body.state == WHOLE) {
        begin_answer(connection);
    }
}

static void go_on(struct connection *connection)
{
    while (!connection->dead && send_out(connection)) {
        size_t had = connection->in_count - connection->in_from;
        if (connection->stage == SEND_ANSWER && connection->answer_ended)
            end_answer(connection);
        else if (connection->stage == SEND_ANSWER)
            go_on_answering(connection);
        else if (connection->stage == ECHO && had)
            echo(connection);
        else if (connection->stage != ECHO && had) {
            enum stage before = connection->stage;
            take_what_there_is(connection);
            if (!connection->dead && connection->stage == before
                && connection->in_count - connection->in_from == had && !receive(connection))
                return;
        } else if (!receive(connection)) {
            return;
        }
    }
}

static void accept_all(struct connection *listener)
{
    for (;;) {
        int on = 1, fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct connection *connection;
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection = checked(calloc(1, sizeof *connection));
        connection->fd = fd;
        if (listener->echoes) {
            connection->stage = ECHO;
            counters[ECHOES]++;
        }
        watch(connection, EPOLLIN);
    }
}

static void listen_on(const char *port, bool echoes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)strtol(port, NULL, 10))};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct connection *listener = checked(calloc(1, sizeof *listener));
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0)
        die("bind");
    listener->fd = fd;
    listener->listens = true;
    listener->echoes = echoes;
    watch(listener, EPOLLIN);
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS_A_TURN];
    int fd;
    if (argc != 6 || strcmp(argv[1], "--counts") != 0) {
        fprintf(stderr, "usage: %s --counts FILE NUMBER PORT ECHO_PORT\n", argv[0]);
        return 2;
    }
    fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, COUNTERS * sizeof(u64)) < 0)
        die(argv[2]);
    counters = mmap(NULL, COUNTERS * sizeof(u64), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (counters == MAP_FAILED || poller < 0)
        die("mmap or epoll_create1");
    number = (int)strtol(argv[3], NULL, 10);
    listen_on(argv[4], false);
    listen_on(argv[5], true);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_A_TURN, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection->listens)
                accept_all(connection);
            else if (!connection->dead && events[i].events & EPOLLERR)
                end(connection);
            else if (!connection->dead)
                go_on(connection);
        }
        while (dead_connections) {
            struct connection *connection = dead_connections;
            dead_connections = connection->next_dead;
            free(connection);
        }
    }
}
