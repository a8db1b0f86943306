/*
 * A closed loop of HTTP/1.1 requests that checks whose answers it gets: N connections, each with one request at a
 * time, opened anew when they end. Request n has the id base + 2 n, plus 1 for a POST (chaos_id.h), in its path and
 * in `x-chaos-id`; a POST carries the body of its id. A request ends in one of these ways:
 *
 *   ok         2xx; id and body, of the length asked for, are its own
 *   status     another status
 *   wrong      an id or a body that belongs to another request
 *   corrupt    2xx without an id, or with a body that is nobody's, too short or too long
 *   truncated  the connection ended inside of the answer
 *   reset      it ended before any byte of it
 *   protocol   bytes that are no answer, or behind one
 *   timeout    no whole answer in time
 *   connect    the connection could not be opened
 *
 * Prints `RESULT name=number ...` with get_ok, post_ok and so on, what is not 2xx by status and by the code of
 * `x-fastmesh-error`, latencies in us of the ok and of all answers; before it a line `FAIL ...` for each of the
 * first failures. `--slices FILE` gets `slice INDEX OK FAILED O0 ... O15` for each 100 ms, O being the answers of the
 * origins by their `x-origin`. INT and TERM end it early; what was begun is finished.
 *
 * usage: id_load --port P [--address A] [--connections N] [--requests R] [--seconds S] [--post-share 0.2]
 *        [--timeout-ms 5000] [--bytes B[,B...]] [--body-bytes B[,B...]] [--base ID] [--seed N] [--slices FILE]
 *        [--path PREFIX] [--no-echo]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "chaos_load.h"
#include "chaos_poll.h"

enum { SCRATCH = 64 * 1024, MOST_SIZES = 16, ORIGINS = 16, SLICE_NS = 100000000, TICK_MS = 10, FAILURES_SHOWN = 40 };
enum kind { OK, STATUS, WRONG, CORRUPT, TRUNCATED, RESET, PROTOCOL, TIMEOUT, CONNECT, KINDS };
static const char *const kind_names[] = {
    "ok", "status", "wrong", "corrupt", "truncated", "reset", "protocol", "timeout", "connect",
};

struct sizes { size_t size[MOST_SIZES]; int count; };

static struct {
    const char *address, *path, *slices;
    int port, connections;
    u64 requests, base, seed, timeout_ns;
    double seconds, post_share;
    struct sizes bytes, bodies;
    bool no_echo;
} options = {.address = "127.0.0.1", .path = "", .connections = 64, .seed = 1, .timeout_ns = 5000000000ull,
             .bytes = {{ID_LINE}, 1}, .bodies = {{100}, 1}};

struct connection {
    int fd;                     /* -1: closed */
    uint32_t watched;
    bool connecting, busy, post;
    u64 id, begun_ns, retry_ns;
    char *request;              /* owned */
    size_t request_room, request_bytes, sent, wanted;
    struct received raw;
    struct answer answer;
};

struct slice { u64 ok, failed, origin[ORIGINS]; };

static struct connection *connections;
static struct sockaddr_in target;
static char scratch[SCRATCH];
static u64 now, start_ns, begun, counts[2][KINDS], sent_requests[2], statuses[2][1000], open_connections;
static struct slice *slices;
static size_t slice_room, slice_count;
static int poller, failures_shown;
static volatile sig_atomic_t stopped;

/* ---- the account ----------------------------------------------------------------------------------------- */

static u64 latency_ok[LATENCY_SLOTS], latency_all[LATENCY_SLOTS];

static struct slice *slice_now(void)
{
    size_t index = (size_t)((now - start_ns) / SLICE_NS);
    if (index >= slice_room) {
        size_t room = (index + 64) * 2;
        slices = checked(realloc(slices, room * sizeof *slices));
        memset(slices + slice_room, 0, (room - slice_room) * sizeof *slices);
        slice_room = room;
    }
    if (index >= slice_count)
        slice_count = index + 1;
    return &slices[index];
}

static void show_failure(const struct connection *connection, enum kind kind)
{
    size_t length = 0;
    const char *code = field(&connection->raw, "x-fastmesh-error", &length);
    if (failures_shown++ >= FAILURES_SHOWN)
        return;
    printf("FAIL at %.3f s after %.1f ms: %s %llx %s status %d %.*s, %zu bytes received\n",
           (double)(now - start_ns) / 1e9, (double)(now - connection->begun_ns) / 1e6,
           connection->post ? "POST" : "GET", connection->id, kind_names[kind], connection->answer.status,
           (int)length, code ? code : "", connection->raw.count);
    if (kind == WRONG || kind == CORRUPT || kind == PROTOCOL)
        printf("     received: %.*s\n", connection->raw.count < 400 ? (int)connection->raw.count : 400,
               connection->raw.bytes);
    fflush(stdout);
}

static void end_request(struct connection *connection, enum kind kind)
{
    u64 us = (now - connection->begun_ns) / 1000;
    struct slice *slice = slice_now();
    size_t length;
    const char *origin;
    connection->busy = false;
    counts[connection->post][kind]++;
    if (kind == OK || kind == STATUS)
        latency_all[latency_slot(us)]++;
    if (kind == OK) {
        latency_ok[latency_slot(us)]++;
        slice->ok++;
        origin = field(&connection->raw, "x-origin", &length);
        if (origin)
            slice->origin[strtoul(origin, NULL, 10) % ORIGINS]++;
        return;
    }
    slice->failed++;
    show_failure(connection, kind);
    if (kind == STATUS) {
        const char *code = field(&connection->raw, "x-fastmesh-error", &length);
        statuses[connection->post][connection->answer.status % 1000]++;
        if (code)
            count_error(code, length);
    }
}

/* ---- connections ----------------------------------------------------------------------------------------- */

static void watch(struct connection *connection, uint32_t events)
{
    poll_watch(poller, connection->fd, &connection->watched, events, connection);
}

static void close_connection(struct connection *connection)
{
    close(connection->fd);
    connection->fd = -1;
    connection->connecting = false;
}

static void send_rest(struct connection *connection)
{
    while (connection->sent < connection->request_bytes) {
        ssize_t sent = send(connection->fd, connection->request + connection->sent,
                            connection->request_bytes - connection->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            watch(connection, EPOLLIN | EPOLLOUT);
            return;
        }
        if (sent < 0)
            break;              /* an answer may still lie there to be read */
        connection->sent += (size_t)sent;
    }
    watch(connection, EPOLLIN);
}

static void write_request(struct connection *connection, u64 id)
{
    char text[ID_LINE] = {0};
    size_t body = connection->post ? options.bodies.size[mixed_random(&options.seed) % (u64)options.bodies.count] : 0;
    size_t needed = 512 + body;
    int head;
    if (connection->request_room < needed) {
        connection->request = checked(realloc(connection->request, needed));
        connection->request_room = needed;
    }
    id_write(text, id);
    connection->wanted = options.bytes.size[mixed_random(&options.seed) % (u64)options.bytes.count];
    head = snprintf(connection->request, 400,
                    "%s %s/%s HTTP/1.1\r\nHost: chaos\r\nx-chaos-id: %s\r\nx-chaos-bytes: %zu\r\n",
                    connection->post ? "POST" : "GET", options.path, text, text, connection->wanted);
    if (connection->post)
        head += snprintf(connection->request + head, 64, "Content-Length: %zu\r\n", body);
    memcpy(connection->request + head, "\r\n", 2);
    id_body_write(connection->request + head + 2, id, body);
    connection->request_bytes = (size_t)head + 2 + body;
}

static bool may_begin(void)
{
    return !stopped && (!options.requests || begun < options.requests)
        && (options.seconds <= 0 || (double)(now - start_ns) < options.seconds * 1e9);
}

static void begin_request(struct connection *connection)
{
    if (!may_begin())
        return;
    connection->post = (double)(mixed_random(&options.seed) >> 11) * 0x1p-53 < options.post_share;
    connection->id = options.base + 2 * begun + connection->post;
    write_request(connection, connection->id);
    begun++;
    sent_requests[connection->post]++;
    connection->busy = true;
    connection->begun_ns = now;
    connection->sent = connection->raw.count = 0;
    begin_answer(&connection->answer, false);
    if (connection->fd >= 0)
        send_rest(connection);
}

/* Opens it for the request that it begins. */
static void open_connection(struct connection *connection)
{
    int on = 1, fd;
    if (!may_begin())
        return;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        die("socket");
    begin_request(connection);
    connection->fd = fd;
    connection->watched = 0;
    connection->connecting = true;
    open_connections++;
    if (connect(fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS) {
        end_request(connection, CONNECT);
        close_connection(connection);
        connection->retry_ns = now + 20000000;
        return;
    }
    watch(connection, EPOLLOUT);
}

static void fail(struct connection *connection, enum kind kind)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    end_request(connection, kind);
    if (kind == TIMEOUT)        /* a FIN would say that it has sent all, and may still want the answer */
        setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close_connection(connection);
    connection->retry_ns = kind == CONNECT ? now + 20000000 : now;
}

/* ---- answers --------------------------------------------------------------------------------------------- */

static enum kind judge(const struct connection *connection)
{
    static const enum kind kinds[] = {[ITS_OWN] = OK, [NO_SUCCESS] = STATUS, [OF_ANOTHER] = WRONG, [NOBODYS] = CORRUPT};
    int status = connection->answer.status;
    if (options.no_echo)
        return status / 100 == 2 ? OK : STATUS;
    return kinds[whose_answer(&connection->raw, status, connection->id, connection->wanted)];
}

static void on_bytes(struct connection *connection, size_t count)
{
    size_t used;
    bool rest_unsent = connection->sent < connection->request_bytes;
    if (!connection->busy) {    /* cannot be: a connection has a request or is closed */
        close_connection(connection);
        return;
    }
    used = feed_answer(&connection->answer, scratch, count);
    keep_received(&connection->raw, scratch, used);
    if (connection->answer.state == BROKEN || used < count) {
        keep_received(&connection->raw, scratch + used, count - used);
        fail(connection, PROTOCOL);
    } else if (connection->answer.state == WHOLE) {
        end_request(connection, judge(connection));
        if (connection->answer.close || rest_unsent || !may_begin())
            close_connection(connection);
        else
            begin_request(connection);
    }
}

static void on_event(struct connection *connection, uint32_t events)
{
    ssize_t count;
    if (connection->fd < 0)
        return;
    if (connection->connecting) {
        int error = 0;
        socklen_t length = sizeof error;
        if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error) {
            fail(connection, CONNECT);
            return;
        }
        connection->connecting = false;
        send_rest(connection);
        return;
    }
    if (events & EPOLLOUT && connection->sent < connection->request_bytes)
        send_rest(connection);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    count = recv(connection->fd, scratch, sizeof scratch, 0);
    if (count > 0)
        on_bytes(connection, (size_t)count);
    else if (count == 0 && connection->answer.state == ENDLESS_BODY)
        fail(connection, judge(connection));
    else if (count == 0 || (errno != EAGAIN && errno != EINTR))
        fail(connection, connection->raw.count ? TRUNCATED : RESET);
}

/* ---- run ------------------------------------------------------------------------------------------------- */

static void on_signal(int signal_number)
{
    stopped = signal_number;
}

/* Ends what takes too long, opens what is closed. Returns how many requests are unanswered. */
static int look_after_all(void)
{
    int busy = 0;
    for (int i = 0; i < options.connections; i++) {
        struct connection *connection = &connections[i];
        if (connection->busy && now - connection->begun_ns >= options.timeout_ns)
            fail(connection, TIMEOUT);
        if (connection->fd < 0 && now >= connection->retry_ns)
            open_connection(connection);
        busy += connection->busy;
    }
    return busy;
}

static void run(void)
{
    static struct epoll_event events[256];
    u64 next_look = 0;
    start_ns = now = read_clock();
    printf("START %llu\n", start_ns);
    fflush(stdout);
    for (;;) {
        int count;
        bool look = now >= next_look;
        if (look) {
            int busy = look_after_all();
            next_look = now + TICK_MS * 1000000;
            if (!busy && !may_begin())
                return;
        }
        count = epoll_wait(poller, events, 256, TICK_MS);
        now = read_clock();
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            on_event(connection, events[i].events);
            if (connection->fd < 0 && now >= connection->retry_ns)
                open_connection(connection);
        }
    }
}

static void read_sizes(char *text, struct sizes *sizes)
{
    char *rest = NULL;
    sizes->count = 0;
    for (char *word = strtok_r(text, ",", &rest); word && sizes->count < MOST_SIZES; word = strtok_r(NULL, ",", &rest))
        sizes->size[sizes->count++] = strtoul(word, NULL, 10);
}

static bool read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", 1, NULL, 'p'}, {"address", 1, NULL, 'a'}, {"connections", 1, NULL, 'c'}, {"requests", 1, NULL, 'r'},
        {"seconds", 1, NULL, 's'}, {"post-share", 1, NULL, 'o'}, {"timeout-ms", 1, NULL, 't'}, {"bytes", 1, NULL, 'b'},
        {"body-bytes", 1, NULL, 'y'}, {"base", 1, NULL, 'i'}, {"seed", 1, NULL, 'e'}, {"slices", 1, NULL, 'f'},
        {"path", 1, NULL, 'u'}, {"no-echo", 0, NULL, 'n'}, {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) >= 0;) {
        switch (option) {
        case 'p': options.port = (int)strtol(optarg, NULL, 10); break;
        case 'a': options.address = optarg; break;
        case 'c': options.connections = (int)strtol(optarg, NULL, 10); break;
        case 'r': options.requests = strtoull(optarg, NULL, 10); break;
        case 's': options.seconds = strtod(optarg, NULL); break;
        case 'o': options.post_share = strtod(optarg, NULL); break;
        case 't': options.timeout_ns = (u64)(strtod(optarg, NULL) * 1e6); break;
        case 'b': read_sizes(optarg, &options.bytes); break;
        case 'y': read_sizes(optarg, &options.bodies); break;
        case 'i': options.base = strtoull(optarg, NULL, 10); break;
        case 'e': options.seed = strtoull(optarg, NULL, 10); break;
        case 'u': options.path = optarg; break;
        case 'f': options.slices = optarg; break;
        case 'n': options.no_echo = true; break;
        default: return false;
        }
    }
    return optind == argc && options.port > 0 && strlen(options.path) < 200 && options.connections > 0 && options.bytes.count && options.bodies.count
        && options.base % 2 == 0 && (options.requests || options.seconds > 0);
}

static void write_slices(void)
{
    FILE *file = fopen(options.slices, "w");
    if (!file)
        die(options.slices);
    for (size_t i = 0; i < slice_count; i++) {
        fprintf(file, "slice %zu %llu %llu", i, slices[i].ok, slices[i].failed);
        for (int origin = 0; origin < ORIGINS; origin++)
            fprintf(file, " %llu", slices[i].origin[origin]);
        fputc('\n', file);
    }
    if (fclose(file))
        die(options.slices);
}

static void print_result(void)
{
    static const char *const methods[] = {"get", "post"};
    printf("RESULT connections=%llu duration_us=%llu", open_connections, (now - start_ns) / 1000);
    for (int method = 0; method < 2; method++) {
        printf(" %s_sent=%llu", methods[method], sent_requests[method]);
        for (int kind = 0; kind < KINDS; kind++)
            printf(" %s_%s=%llu", methods[method], kind_names[kind], counts[method][kind]);
        for (int status = 0; status < 1000; status++)
            if (statuses[method][status])
                printf(" %s_status_%d=%llu", methods[method], status, statuses[method][status]);
    }
    print_errors();
    printf(" ok_p50=%llu ok_p99=%llu ok_max=%llu all_p50=%llu all_p99=%llu all_max=%llu\n", quantile(latency_ok, 0.5),
           quantile(latency_ok, 0.99), quantile(latency_ok, 1), quantile(latency_all, 0.5), quantile(latency_all, 0.99),
           quantile(latency_all, 1));
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    if (!read_options(argc, argv)) {
        fprintf(stderr, "id_load: --port, and --requests or --seconds, are needed; see the head of id_load.c\n");
        return 2;
    }
    target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.address, &target.sin_addr) != 1)
        die(options.address);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = checked(calloc((size_t)options.connections, sizeof *connections));
    for (int i = 0; i < options.connections; i++)
        connections[i].fd = -1;
    run();
    if (options.slices)
        write_slices();
    print_result();
    return 0;
}
