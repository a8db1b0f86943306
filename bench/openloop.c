/*
 * The open-loop load of the benchmarks: HTTP/1.1 requests at a constant rate, whatever the answers do.
 *
 * Request i is due at start + i / rate, and its latency counts from then. While no connection is idle a due
 * request waits, and that time counts too: a stall of the other side is seen in every request that it would
 * have delayed. One thread, one epoll, edge-triggered. Connections are opened beforehand, used in turn (the
 * one that was idle longest first) and opened anew when closed; one that cannot be opened, or that was closed
 * before it carried a request, is opened again by the next request that takes it.
 *
 * A request ends in one of these ways:
 *   answered   a whole answer with status 2xx or 3xx
 *   status     a whole answer with another one (status_NNN counts each)
 *   connect    its connection could not be opened
 *   reset      its connection broke after it was sent
 *   cut        its connection ended before the whole answer
 *   protocol   the answer cannot be parsed
 *   timeout    no whole answer in time, counted from when it was due; its connection is closed
 *
 * The latency histogram holds the answered, and those that timed out, at the time-out; `refused` those that ended
 * in `status`, of which `retry_after` had that field; the other failures are only counted. Lateness is this program's own error: how long after its time a request was sent for which a
 * connection was idle in time. `closed` counts idle connections that the other side closed, `stray` those that
 * got bytes that nobody had asked for, and were closed for it.
 *
 * Prints one line `RESULT name=number ...`. The histogram file holds, in ns, lines `latency VALUE COUNT`,
 * `refused VALUE COUNT` and `late VALUE COUNT`, and for each 100 ms of due time `slice INDEX ANSWERED FAILED MAX_LATENCY`. INT and TERM
 * end it early: nothing more falls due, what is due is finished.
 *
 * usage: openloop --port P --rate R --seconds S --connections N [--path /] [--timeout-ms 5000]
 *        [--warm-seconds W] [--method GET] [--body-bytes B] [--header 'K: V']... [--histogram FILE] [--close]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "openloop_answer.h"
#include "openloop_histogram.h"

enum { SCRATCH_BYTES = 64 * 1024, EVENTS_A_TURN = 256, SECOND = 1000 * 1000 * 1000, SLICE_NS = SECOND / 10 };
static const u64 NEVER = UINT64_MAX;

static struct {
    int port, connections;
    double rate, seconds, warm_seconds;
    u64 timeout_ns;
    size_t body_bytes;
    const char *path, *method, *histogram, **headers;   /* the headers end with NULL */
    bool close;
} options = {.path = "/", .method = "GET", .timeout_ns = 5ull * SECOND};

static char *request_bytes;
static size_t request_length;
static char scratch[SCRATCH_BYTES];
static u64 now;                 /* CLOCK_MONOTONIC in ns, read anew after everything that takes time */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static u64 read_clock(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (u64)time.tv_sec * SECOND + (u64)time.tv_nsec;
}

static struct timespec timespec_of(u64 ns)
{
    return (struct timespec){(time_t)(ns / SECOND), (long)(ns % SECOND)};
}

/* ---- the account ----------------------------------------------------------------------------------------- */

struct slice { u64 answered, failed, max_latency; };

enum kind { ANSWERED, CONNECT, RESET, CUT, STATUS, TIMEOUT, PROTOCOL, KINDS };
static const char *const kind_names[] = {"answered", "connect", "reset", "cut", "status", "timeout", "protocol"};

static struct histogram latency, refused, lateness;
static struct slice *slices;
static u64 ended[KINDS], statuses[1000], answer_bytes, retry_after, stray, closed, last_end;

/* Requests are numbered as they fall due, and taken in that order. The first `warm` ones are not counted. */
static u64 start_ns, warm, total, due, taken;

static u64 due_time(u64 request)
{
    return start_ns + (u64)((double)request * SECOND / options.rate);
}

static void account_for(u64 request, enum kind kind, int status)
{
    u64 due_ns = due_time(request), took = kind == TIMEOUT ? options.timeout_ns : now - due_ns;
    struct slice *slice = &slices[request < warm ? 0 : (due_ns - due_time(warm)) / SLICE_NS];
    if (request < warm)
        return;
    last_end = now;
    ended[kind]++;
    statuses[status] += kind == STATUS;
    slice->answered += kind == ANSWERED;
    slice->failed += kind != ANSWERED;
    if (kind == ANSWERED || kind == TIMEOUT) {
        record_value(&latency, took);
        if (took > slice->max_latency)
            slice->max_latency = took;
    } else if (kind == STATUS) {
        record_value(&refused, took);
    }
}

/* ---- connections ----------------------------------------------------------------------------------------- */

struct connection {
    struct connection *previous, *next;     /* in the ring of the idle or of the busy */
    int fd;
    uint32_t number, generation;            /* tells events of an earlier socket */
    enum { CLOSED, CONNECTING, OPEN } phase;    /* who is CONNECTING and not busy is in no ring */
    bool busy, carried;                     /* carried: a request went out over this socket */
    size_t sent;
    u64 request, due_ns, idle_since;
    struct answer answer;
};

/* The idle stand in the order in which they became idle, the busy in that of their due times. */
static struct connection idle = {.previous = &idle, .next = &idle}, busy = {.previous = &busy, .next = &busy};
static struct connection *connections;
static int poller;
static struct sockaddr_in target;

static void append(struct connection *ring, struct connection *connection)
{
    connection->previous = ring->previous;
    connection->next = ring;
    ring->previous->next = connection;
    ring->previous = connection;
}

static void take_out(struct connection *connection)
{
    connection->previous->next = connection->next;
    connection->next->previous = connection->previous;
}

static void make_idle(struct connection *connection)
{
    connection->idle_since = now;
    append(&idle, connection);
}

static void end_request(struct connection *connection, enum kind kind)
{
    int status = connection->answer.status;
    take_out(connection);
    connection->busy = false;
    if (kind == ANSWERED && status >= 400) {
        kind = STATUS;
        retry_after += connection->request >= warm && connection->answer.retry_after;
    }
    account_for(connection->request, kind, status);
}

static void close_socket(struct connection *connection)
{
    close(connection->fd);
    connection->generation++;
    connection->phase = CLOSED;
}

static void on_connect_failure(struct connection *connection)
{
    close_socket(connection);
    if (connection->busy)
        end_request(connection, CONNECT);
    make_idle(connection);
}

static void open_socket(struct connection *connection)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        die("socket");
    connection->fd = fd;
    connection->carried = false;
    connection->phase = CONNECTING;
    event.data.u64 = (u64)connection->number << 32 | connection->generation;
    if (connect(fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)
        on_connect_failure(connection);
    else if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

/* Ends the socket of a connection that has no request. One that carried nothing is not opened again at once: a
 * server that closes all it accepts would keep us at it. */
static void renew(struct connection *connection)
{
    close_socket(connection);
    if (connection->carried && !options.close && taken < total)
        open_socket(connection);
    else
        make_idle(connection);
}

static void fail(struct connection *connection, enum kind kind)
{
    end_request(connection, kind);
    renew(connection);
}

static void send_request(struct connection *connection)
{
    while (connection->sent < request_length) {
        ssize_t sent = send(connection->fd, request_bytes + connection->sent, request_length - connection->sent,
                            MSG_NOSIGNAL);
        if (sent >= 0) {
            connection->sent += (size_t)sent;
        } else if (errno == EAGAIN) {
            return;
        } else if (connection->carried && connection->sent == 0) {
            close_socket(connection);       /* it had ended while idle; the request never left, so it may go again */
            open_socket(connection);
            return;
        } else {
            fail(connection, RESET);
            return;
        }
    }
    connection->carried = true;
}

static void start_request(struct connection *connection)
{
    take_out(connection);
    append(&busy, connection);
    connection->busy = true;
    connection->sent = 0;
    connection->request = taken++;
    connection->due_ns = due_time(connection->request);
    begin_answer(&connection->answer, strcmp(options.method, "HEAD") == 0);
    now = read_clock();
    if (connection->request >= warm && connection->idle_since <= connection->due_ns)
        record_value(&lateness, now - connection->due_ns);
    if (connection->phase == OPEN)
        send_request(connection);
    else
        open_socket(connection);
}

static void on_end(struct connection *connection, bool broken)
{
    if (connection->busy) {
        fail(connection, broken ? RESET : connection->answer.state == ENDLESS_BODY ? ANSWERED : CUT);
    } else {
        closed++;
        take_out(connection);
        renew(connection);
    }
}

/* Takes what was received. False: the connection was closed. */
static bool on_bytes(struct connection *connection, size_t count)
{
    struct answer *answer = &connection->answer;
    if (!connection->busy) {
        stray++;
        take_out(connection);
        renew(connection);
        return false;
    }
    if (connection->request >= warm)
        answer_bytes += count;
    if (feed_answer(answer, scratch, count) < count || answer->state == BROKEN) {
        fail(connection, PROTOCOL);
        return false;
    }
    if (answer->state != WHOLE)
        return true;
    end_request(connection, ANSWERED);
    if (answer->close || options.close || connection->sent < request_length) {
        renew(connection);
        return false;
    }
    make_idle(connection);
    return true;
}

/* A short read ends it unless an end was reported: what comes later is a new event. */
static void on_readable(struct connection *connection, bool end_reported)
{
    for (;;) {
        ssize_t count = recv(connection->fd, scratch, sizeof scratch, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        now = read_clock();
        if (count <= 0) {
            on_end(connection, count < 0);
            return;
        }
        if (!on_bytes(connection, (size_t)count) || ((size_t)count < sizeof scratch && !end_reported))
            return;
    }
}

static void on_connected(struct connection *connection)
{
    int error = 0;
    socklen_t length = sizeof error;
    now = read_clock();
    connection->phase = OPEN;
    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error)
        on_connect_failure(connection);
    else if (connection->busy)
        send_request(connection);
    else
        make_idle(connection);
}

static void on_event(const struct epoll_event *event)
{
    struct connection *connection = &connections[event->data.u64 >> 32];
    const uint32_t generation = (uint32_t)event->data.u64, end = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
    if (connection->generation != generation)
        return;
    if (connection->phase == CONNECTING) {
        if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            on_connected(connection);
    } else if (connection->busy && connection->sent < request_length && event->events & EPOLLOUT) {
        send_request(connection);
    }
    if (connection->generation == generation && connection->phase == OPEN && event->events & (EPOLLIN | end))
        on_readable(connection, event->events & end);
}

/* ---- time ------------------------------------------------------------------------------------------------ */

/* A sleeper wakes late, by much the same each time: it is woken earlier by about the ninth decile of that, and polls
 * until its time. The most takes a quarter of the CPU, for the origin runs there too. */
static u64 lead, most_lead;
static volatile sig_atomic_t stopped;
static sigset_t signals_while_waiting;  /* none are blocked then */
static int timer = -1;          /* for kernels without epoll_pwait2, the only one that takes a time-out in ns */

static void on_signal(int number)
{
    stopped = number;
}

static int wait_with_timer(struct epoll_event *events, u64 until, bool sleeps)
{
    struct itimerspec at = {.it_value = timespec_of(until)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = NEVER};
    if (timer < 0) {
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
        if (timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event) < 0)
            die("timerfd");
    }
    if (sleeps)
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    return epoll_pwait(poller, events, EVENTS_A_TURN, sleeps ? -1 : 0, &signals_while_waiting);
}

static void send_due(void)
{
    while (due < total && due_time(due) <= now)
        due++;
    while (taken < due && idle.next != &idle)
        start_request(idle.next);
}

/* Waits until then at the latest, and handles what came. Signals come only here. */
static void turn(u64 until)
{
    static struct epoll_event events[EVENTS_A_TURN];
    u64 wake = until - lead, before = read_clock();
    struct timespec left = timespec_of(wake > before ? wake - before : 0);
    int count = -1;
    if (timer < 0)
        count = epoll_pwait2(poller, events, EVENTS_A_TURN, &left, &signals_while_waiting);
    if (timer >= 0 || (count < 0 && (errno == ENOSYS || errno == EPERM)))   /* EPERM: a container's filter */
        count = wait_with_timer(events, wake, wake > before);
    if (count < 0 && errno != EINTR)
        die("epoll_wait");
    now = read_clock();
    if (before < wake && now >= wake)
        lead = now <= until ? lead - lead / 512 : lead + 400 < most_lead ? lead + 400 : most_lead;
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 != NEVER)
            on_event(&events[i]);
        send_due();             /* between events too: many of them must not make a request late */
    }
}

/* Ends what is not answered in time; it may be waiting for a connection still. */
static void expire(void)
{
    while (busy.next != &busy && busy.next->due_ns + options.timeout_ns <= now)
        fail(busy.next, TIMEOUT);
    for (; taken < due && due_time(taken) + options.timeout_ns <= now; taken++)
        account_for(taken, TIMEOUT, 0);
}

/* When there is something to do again even if nothing comes. */
static u64 next_time(void)
{
    u64 next = due < total ? due_time(due) : NEVER;
    u64 first = busy.next != &busy ? busy.next->due_ns : taken < due ? due_time(taken) : NEVER;
    return first != NEVER && first + options.timeout_ns < next ? first + options.timeout_ns : next;
}

/* One after the other, so that no listener's queue overflows. */
static void open_connections(void)
{
    u64 deadline = (now = read_clock()) + options.timeout_ns;
    for (int i = 0; i < options.connections; i++) {
        connections[i].number = (uint32_t)i;
        if (options.close || now >= deadline)
            make_idle(&connections[i]);
        else
            open_socket(&connections[i]);
        while (connections[i].phase == CONNECTING && now < deadline)
            turn(deadline);
    }
}

/* The handlers show the suite that the requests have begun. */
static void catch_signals(void)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, NULL);     /* outside of waiting */
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
}

static u64 slice_count(void)
{
    return total > warm ? (due_time(total - 1) - due_time(warm)) / SLICE_NS + 1 : 0;
}

static void run(void)
{
    start_ns = now = read_clock();
    warm = (u64)(options.rate * options.warm_seconds + 0.5);
    total = warm + (u64)(options.rate * options.seconds + 0.5);
    most_lead = options.rate < 5000 ? 50000 : (u64)(SECOND / 4 / options.rate);
    slices = calloc(slice_count() + 1, sizeof *slices);
    if (!slices)
        die("calloc");
    while (taken < total || busy.next != &busy) {
        turn(next_time());
        if (stopped)
            total = due;                    /* nothing more falls due */
        send_due();
        expire();
    }
}

/* ---- start and end --------------------------------------------------------------------------------------- */

static void refuse(const char *what)
{
    fprintf(stderr, "openloop: %s; see the head of openloop.c\n", what);
    exit(2);
}

static double number_of(const char *text, double least, double most)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !(number >= least && number <= most))
        refuse(text);
    return number;
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", 1, NULL, 'p'}, {"path", 1, NULL, 'u'}, {"rate", 1, NULL, 'r'}, {"seconds", 1, NULL, 's'},
        {"connections", 1, NULL, 'c'}, {"timeout-ms", 1, NULL, 't'}, {"warm-seconds", 1, NULL, 'w'},
        {"method", 1, NULL, 'm'}, {"body-bytes", 1, NULL, 'b'}, {"header", 1, NULL, 'h'},
        {"histogram", 1, NULL, 'f'}, {"close", 0, NULL, 'x'}, {0},
    };
    int option, headers = 0;
    options.headers = calloc((size_t)argc, sizeof *options.headers);
    while ((option = getopt_long(argc, argv, "", known, NULL)) >= 0) {
        switch (option) {
        case 'p': options.port = (int)number_of(optarg, 1, 65535); break;
        case 'u': options.path = optarg; break;
        case 'r': options.rate = number_of(optarg, 0.001, 1e7); break;
        case 's': options.seconds = number_of(optarg, 0.001, 1e5); break;
        case 'c': options.connections = (int)number_of(optarg, 1, 1e6); break;
        case 't': options.timeout_ns = (u64)(number_of(optarg, 1, 60000) * 1e6); break;
        case 'w': options.warm_seconds = number_of(optarg, 0, 1e5); break;
        case 'm': options.method = optarg; break;
        case 'b': options.body_bytes = (size_t)number_of(optarg, 0, 1e9); break;
        case 'h': options.headers[headers++] = optarg; break;
        case 'f': options.histogram = optarg; break;
        case 'x': options.close = true; break;
        default: refuse("unknown option, or no value");
        }
    }
    if (optind < argc || !options.port || !options.connections || options.rate * options.seconds < 0.5)
        refuse("--port, --connections, --rate and --seconds (for one request at least) are needed");
}

static void build_request(void)
{
    FILE *message = open_memstream(&request_bytes, &request_length);
    if (!message)
        die("open_memstream");
    fprintf(message, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n", options.method, options.path, options.port);
    for (const char **header = options.headers; *header; header++)
        fprintf(message, "%s\r\n", *header);
    if (options.close)
        fprintf(message, "Connection: close\r\n");
    if (options.body_bytes)
        fprintf(message, "Content-Length: %zu\r\n", options.body_bytes);
    fprintf(message, "\r\n");
    for (size_t i = 0; i < options.body_bytes; i++)
        fputc('x', message);
    fclose(message);
}

static void write_file(void)
{
    FILE *file = fopen(options.histogram, "w");
    if (!file)
        die(options.histogram);
    write_histogram(file, "latency", &latency);
    write_histogram(file, "refused", &refused);
    write_histogram(file, "late", &lateness);
    for (u64 i = 0; i < slice_count(); i++)
        fprintf(file, "slice %llu %llu %llu %llu\n", i, slices[i].answered, slices[i].failed, slices[i].max_latency);
    if (fclose(file))
        die(options.histogram);
}

static void print_result(bool realtime)
{
    u64 counted = total > warm ? total - warm : 0, from = due_time(warm), to = counted ? due_time(total) : from;
    printf("RESULT intended=%llu", counted);
    for (int kind = 0; kind < KINDS; kind++)
        printf(" %s=%llu", kind_names[kind], ended[kind]);
    for (int status = 0; status < 1000; status++)
        if (statuses[status])
            printf(" status_%d=%llu", status, statuses[status]);
    printf(" retry_after=%llu stray=%llu closed=%llu bytes=%llu duration_us=%llu max_us=%llu late_max_us=%llu "
           "realtime=%d\n", retry_after, stray, closed, answer_bytes, ((last_end > to ? last_end : to) - from) / 1000, latency.max / 1000,
           lateness.max / 1000, realtime);
}

int main(int argc, char **argv)
{
    struct sched_param priority = {.sched_priority = 1};
    /* It shares a core with the origin: being busy there must not make a request late. */
    bool realtime = sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
    prctl(PR_SET_TIMERSLACK, 1);
    read_options(argc, argv);
    build_request();
    target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    if (poller < 0 || !connections)
        die("start");
    open_connections();
    catch_signals();
    run();
    if (options.histogram)
        write_file();
    print_result(realtime);
    return 0;
}
