/*
 * An origin that shows whose request it answers. A request's path ends in its id (chaos_id.h); the answer repeats
 * the id in `x-chaos-id` and in a body of as many bytes as `x-chaos-bytes` asks for (an id's line if it is absent),
 * and names the origin in `x-origin`. A request's body must be that of its id.
 *
 * `--seen FILE` is a table in which each whole head is counted by its id. The control socket takes `fail STATUS`
 * (each answer has it, and an id as always), `mix` (each answer is that of the request before, to prove that the
 * load sees it), `normal`, and `count`:
 *
 *   requests 12 wrong 0 bad 0     whole requests, those whose body was not theirs, and heads that made no sense
 *
 * One thread, one level-triggered epoll; it reads no further while an answer is not sent.
 *
 * usage: id_origin [--control PATH] [--seen FILE] [--address A] NUMBER PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>

#include "../../bench/origin_behaviour.h"
#include "../../bench/origin_control.h"
#include "chaos_id.h"
#include "chaos_poll.h"

enum { ROOM = 64 * 1024, EVENTS_A_TURN = 256, MOST_BODY = 16 * 1024 * 1024, HEAD_ROOM = 512 };

struct connection {
    int fd;
    uint32_t watched;
    bool dead, close_after, in_body;
    char in[ROOM];
    size_t in_count;
    uint64_t id;
    size_t wanted, body_left, body_seen;
    char *out;          /* owned */
    size_t out_room, out_count, out_sent;
    struct connection *next_dead;
};

static struct connection control_record, listener_record, *dead_connections;
static struct id_table seen;
static int poller, number, fail_status;
static bool mixes;
static uint64_t previous_id;
static uint64_t requests, wrong_bodies, bad_heads;

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

/* ---- the answer ------------------------------------------------------------------------------------------ */

static void flush_answer(struct connection *connection)
{
    while (connection->out_sent < connection->out_count) {
        ssize_t sent = send(connection->fd, connection->out + connection->out_sent,
                            connection->out_count - connection->out_sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            if (errno != EAGAIN)
                end(connection);
            break;
        }
        connection->out_sent += (size_t)sent;
    }
    if (connection->dead)
        return;
    if (connection->out_sent == connection->out_count && connection->close_after)
        end(connection);
    else
        watch(connection, connection->out_sent < connection->out_count ? EPOLLOUT : EPOLLIN);
}

static void answer(struct connection *connection)
{
    char id[ID_LINE] = {0};
    int head;
    size_t needed = HEAD_ROOM + connection->wanted;
    uint64_t shown;
    requests++;
    if (connection->out_room < needed) {
        connection->out = checked(realloc(connection->out, needed));
        connection->out_room = needed;
    }
    shown = mixes ? previous_id : connection->id;
    previous_id = connection->id;
    id_write(id, shown);
    head = snprintf(connection->out, HEAD_ROOM,
        "HTTP/1.1 %d %s\r\nContent-Length: %zu\r\nx-chaos-id: %s\r\nx-origin: %d\r\n%s\r\n",
        fail_status ? fail_status : 200, fail_status ? "Failure" : "OK", connection->wanted, id, number,
        connection->close_after ? "Connection: close\r\n" : "");
    id_body_write(connection->out + head, shown, connection->wanted);
    connection->out_count = (size_t)head + connection->wanted;
    connection->out_sent = 0;
    flush_answer(connection);
}

/* ---- the request ----------------------------------------------------------------------------------------- */

/* The value of a field in a head that ends in an empty line and a NUL; NULL: there is none. */
static const char *field(const char *head, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0 && line[2 + length] == ':')
            return line + 3 + length + strspn(line + 3 + length, " ");
    return NULL;
}

static bool whole_field(const char *head, const char *name, size_t fallback, size_t *value)
{
    const char *text = field(head, name);
    *value = text ? strtoul(text, NULL, 10) : fallback;
    return *value <= MOST_BODY && (!text || (*text >= '0' && *text <= '9'));
}

/* A head with a NUL in the place of its last byte. */
static bool take_head(struct connection *connection, const char *head)
{
    const char *path = strchr(head, ' '), *path_end = path ? strchr(path + 1, ' ') : NULL, *connection_field;
    if (!path_end || path_end - path < ID_BYTES + 2 || !id_read(path_end - ID_BYTES, &connection->id)
        || !whole_field(head, "content-length", 0, &connection->body_left)
        || !whole_field(head, "x-chaos-bytes", ID_LINE, &connection->wanted) || field(head, "transfer-encoding"))
        return false;
    connection_field = field(head, "connection");
    connection->close_after = connection_field && strncasecmp(connection_field, "close", 5) == 0;
    connection->in_body = true;
    connection->body_seen = 0;
    id_table_count(&seen, connection->id);
    return true;
}

static size_t take_body(struct connection *connection, const char *bytes, size_t count)
{
    size_t step = count < connection->body_left ? count : connection->body_left;
    if (id_body_check(bytes, connection->body_seen, step, connection->id) != BODY_RIGHT)
        wrong_bodies++;
    connection->body_seen += step;
    connection->body_left -= step;
    return step;
}

/* Takes what it has of requests, until an answer does not go out at once. */
static void consume(struct connection *connection)
{
    size_t used = 0;
    while (!connection->dead && connection->out_sent == connection->out_count
           && (used < connection->in_count || (connection->in_body && !connection->body_left))) {
        char *from = connection->in + used;
        if (!connection->in_body) {
            char *head_end = memmem(from, connection->in_count - used, "\r\n\r\n", 4);
            if (!head_end)
                break;
            head_end[3] = '\0';
            used += (size_t)(head_end - from) + 4;
            if (!take_head(connection, from)) {
                bad_heads++;
                end(connection);
                return;
            }
        } else if (connection->body_left) {
            used += take_body(connection, from, connection->in_count - used);
        }
        if (connection->in_body && !connection->body_left) {
            connection->in_body = false;
            answer(connection);
        }
    }
    memmove(connection->in, connection->in + used, connection->in_count - used);
    connection->in_count -= used;
    if (connection->in_count == ROOM && !connection->in_body && connection->out_sent == connection->out_count) {
        bad_heads++;
        end(connection);
    }
}

static void on_readable(struct connection *connection)
{
    ssize_t count = recv(connection->fd, connection->in + connection->in_count, ROOM - connection->in_count, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        end(connection);
        return;
    }
    connection->in_count += (size_t)count;
    consume(connection);
}

static void on_event(struct connection *connection, uint32_t events)
{
    if (connection->dead)
        return;
    if (connection->out_sent < connection->out_count) {
        if (events & (EPOLLHUP | EPOLLERR))
            end(connection);
        else
            flush_answer(connection);
        if (!connection->dead && connection->out_sent == connection->out_count)
            consume(connection);
    } else {
        on_readable(connection);
    }
}

/* ---- control and start ----------------------------------------------------------------------------------- */

static void on_control(void)
{
    struct command command;
    struct words words;
    char text[128] = "ok";
    bool good = true;
    if (!receive_command(control_record.fd, &command))
        return;
    if (!split_words(command.text, &words) || words.count == 0)
        good = false;
    else if (words.count == 1 && strcmp(words.word[0], "count") == 0)
        snprintf(text, sizeof text, "requests %llu wrong %llu bad %llu", (unsigned long long)requests,
            (unsigned long long)wrong_bodies, (unsigned long long)bad_heads);
    else if (words.count == 1 && strcmp(words.word[0], "normal") == 0)
        fail_status = mixes = 0;
    else if (words.count == 1 && strcmp(words.word[0], "mix") == 0)
        mixes = true;
    else
        good = words.count == 2 && strcmp(words.word[0], "fail") == 0
            && parse_whole(words.word[1], 400, 599, &fail_status);
    answer_command(control_record.fd, &command, good ? "" : "error: ",
        good ? text : "unknown command; known: fail STATUS, mix, normal, count");
}

static void accept_all(void)
{
    for (;;) {
        int on = 1, fd = accept4(listener_record.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct connection *connection;
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection = checked(calloc(1, sizeof *connection));
        connection->fd = fd;
        watch(connection, EPOLLIN);
    }
}

static void listen_on(const char *where, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, where, &address.sin_addr) != 1)
        die("address");
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0)
        die("bind");
    listener_record.fd = fd;
    watch(&listener_record, EPOLLIN);
}

static bool set_up(int argc, char **argv)
{
    const char *address = "127.0.0.1", *control = NULL;
    int port, i = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--control") == 0)
            control = argv[i + 1];
        else if (strcmp(argv[i], "--seen") == 0)
            seen = id_table_open(argv[i + 1]);
        else if (strcmp(argv[i], "--address") == 0)
            address = argv[i + 1];
        else
            return false;
    }
    if (argc - i != 2 || !parse_whole(argv[i], 0, 15, &number) || !parse_whole(argv[i + 1], 1, 65535, &port))
        return false;
    listen_on(address, port);
    if (control) {
        control_record.fd = open_control(control);
        watch(&control_record, EPOLLIN);
    }
    return true;
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS_A_TURN];
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        die("epoll_create1");
    if (!set_up(argc, argv)) {
        fprintf(stderr, "usage: %s [--control PATH] [--seen FILE] [--address A] NUMBER PORT\n", argv[0]);
        return 2;
    }
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_A_TURN, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == &listener_record)
                accept_all();
            else if (connection == &control_record)
                on_control();
            else
                on_event(connection, events[i].events);
        }
        while (dead_connections) {
            struct connection *connection = dead_connections;
            dead_connections = connection->next_dead;
            free(connection->out);
            free(connection);
        }
    }
}
