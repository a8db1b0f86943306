/*
 * A TCP proxy that spoils connections on purpose (toxic_plan.h): fastmesh is its client, an origin its target. What
 * is drawn for a connection comes from a seeded sequence; commands come by datagrams to the control socket, a line
 * `PORT COMMAND`, answered by `ok`, the counts or `error: ...`.
 *
 * `--seen FILE` is a table (chaos_id.h) in which each request that the client sent is counted once its id was read
 * here, whether it was passed on or not: as an origin sees it, that request has been received. The id is found as
 * "/id..." followed by a blank, which is in no body.
 *
 * One thread, one level-triggered epoll. Each way holds one piece; it is read on when that is sent.
 *
 * usage: toxic --control PATH [--seen FILE] [--seed N] [--address A] LISTEN:TARGET [LISTEN:TARGET...]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/queue.h>

#include "../../bench/origin_control.h"
#include "chaos_id.h"
#include "toxic_plan.h"

enum { PIECE = 16 * 1024, GARBAGE_ROOM = 4096, EVENTS_A_TURN = 256, CARRIED = ID_BYTES + 1 };
static const uint64_t LONGEST_END_NS = 5000000000u;     /* a half-closed connection that nobody ends */

enum mode { PASSING, STALLED, WAITING_TO_END, SWALLOWING, DEAD };

struct pair;

/* One of a pair's two sockets, as epoll knows it. */
struct end {
    int fd;             /* -1: closed, or not opened yet */
    uint32_t watched;
    bool known;         /* to epoll */
    bool finished;      /* its FIN was read */
    struct pair *pair;
};

/* What goes one way. */
struct flow {
    char bytes[PIECE + GARBAGE_ROOM];
    size_t count, sent;
    uint64_t passed;    /* bytes of the stream before those that are held */
    uint64_t ready_at;  /* ns: not to be sent before */
    int pieces;
    bool trips;         /* the toxic acts once what is held is sent */
    bool fin_sent;
};

struct pair {
    struct gate *gate;
    struct end client, target;
    struct flow flows[2];
    struct toxic toxic;
    int offset;
    enum mode mode;
    bool connecting;
    char carried[CARRIED];      /* the end of what the client sent last: an id may lie across pieces */
    size_t carried_bytes;
    int timers;                 /* entries in the heap */
    LIST_ENTRY(pair) of_gate;
    struct pair *next_dead;
};

struct gate {
    int port, target, listener;
    struct end record;          /* what epoll knows the listener by */
    bool listening;
    struct plan plan;
    uint64_t accepted, applied;
    int open;
    LIST_HEAD(, pair) pairs;
};

static struct gate *gates;
static int gate_count, poller;
static struct end control = {.fd = -1};
static struct pair *dead_pairs;
static struct due_heap dues;
static struct id_table seen;
static uint64_t random_state = 1;
static const char *address = "127.0.0.1";

static void watch(struct end *end, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = end};
    if (end->fd < 0 || (end->known && end->watched == events))
        return;
    if (epoll_ctl(poller, end->known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, end->fd, &event) < 0)
        die("epoll_ctl");
    end->known = true;
    end->watched = events;
}

static void wake_at(struct pair *pair, uint64_t at)
{
    pair->timers++;
    if (!due_push(&dues, at, pair))
        die("malloc");
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

static void close_end(struct end *end, bool by_reset)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (end->fd < 0)
        return;
    if (by_reset)
        setsockopt(end->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(end->fd);
    end->fd = -1;
}

static void kill_pair(struct pair *pair, bool by_reset)
{
    if (pair->mode == DEAD)
        return;
    close_end(&pair->client, by_reset);
    close_end(&pair->target, true);
    pair->mode = DEAD;
    pair->gate->open--;
    LIST_REMOVE(pair, of_gate);
    if (!pair->timers) {        /* else the heap holds it */
        pair->next_dead = dead_pairs;
        dead_pairs = pair;
    }
}

/* A FIN to the client; what it sends is read, so that no RST follows. */
static void cut(struct pair *pair)
{
    close_end(&pair->target, true);
    shutdown(pair->client.fd, SHUT_WR);
    pair->mode = SWALLOWING;
    watch(&pair->client, EPOLLIN);
    wake_at(pair, now_ns() + LONGEST_END_NS);
}

static void act(struct pair *pair)
{
    switch (pair->toxic.kind) {
    case RESET:
        kill_pair(pair, true);
        break;
    case CUT: case GARBAGE_INSTEAD:
        cut(pair);
        break;
    case SLOW_CLOSE:
        close_end(&pair->target, true);
        pair->mode = WAITING_TO_END;
        watch(&pair->client, EPOLLIN);
        wake_at(pair, now_ns() + (uint64_t)pair->toxic.amount);
        break;
    default:                    /* STALL: only its end is looked for */
        pair->mode = STALLED;
        watch(&pair->client, EPOLLRDHUP);
        watch(&pair->target, 0);
        break;
    }
}

/* ---- what passes ----------------------------------------------------------------------------------------- */

/* Counts the ids that became whole with these bytes. */
static void count_ids(struct pair *pair, const char *bytes, size_t count)
{
    char text[CARRIED + PIECE], *at = text;
    size_t total = pair->carried_bytes + count;
    uint64_t number;
    memcpy(text, pair->carried, pair->carried_bytes);
    memcpy(text + pair->carried_bytes, bytes, count);
    while ((at = memmem(at, (size_t)(text + total - at), "/id", 3)) && (size_t)(text + total - at) > CARRIED) {
        if (id_read(at + 1, &number) && at[CARRIED] == ' ')
            id_table_count(&seen, number);
        at++;
    }
    pair->carried_bytes = total < CARRIED ? total : CARRIED;
    memcpy(pair->carried, text + total - pair->carried_bytes, pair->carried_bytes);
}

/* No hex digits, which could make another's id of the one that they stand in. */
static void add_garbage(struct flow *flow, size_t bytes)
{
    for (size_t i = 0; i < bytes && flow->count < sizeof flow->bytes; i++) {
        char byte = (char)next_random(&random_state);
        flow->bytes[flow->count++] = isxdigit((unsigned char)byte) ? '\xff' : byte;
    }
}

/* What the toxic does to a piece that was just read. */
static void spoil(struct pair *pair, enum way way)
{
    struct flow *flow = &pair->flows[way];
    const struct toxic *toxic = &pair->toxic;
    uint64_t end = flow->passed + flow->count, offset = (uint64_t)pair->offset;
    size_t kept = offset > flow->passed ? (size_t)(offset - flow->passed) : 0;
    flow->pieces++;
    if (toxic->kind == LATENCY) {
        double wait = toxic->amount + toxic->jitter * (2 * random_share(&random_state) - 1);
        flow->ready_at = now_ns() + (uint64_t)(wait > 0 ? wait : 0);
    }
    if (toxic->way != way || toxic->kind == NONE)
        return;
    if (toxic->kind == GARBAGE_BEHIND) {
        if (flow->pieces == pair->offset)
            add_garbage(flow, (size_t)toxic->amount);
    } else if (toxic->kind == GARBAGE_INSIDE) {
        if (end >= offset && kept <= flow->count) {
            char rest[PIECE];
            size_t rest_bytes = flow->count - kept;
            memcpy(rest, flow->bytes + kept, rest_bytes);
            flow->count = kept;
            add_garbage(flow, (size_t)toxic->amount < GARBAGE_ROOM ? (size_t)toxic->amount : GARBAGE_ROOM);
            memcpy(flow->bytes + flow->count, rest, rest_bytes);
            flow->count += rest_bytes;
            pair->toxic.kind = NONE;
        }
    } else if (toxic->kind != LATENCY && toxic->kind != BANDWIDTH && end >= offset) {
        flow->count = kept;
        flow->trips = true;
        if (toxic->kind == GARBAGE_INSTEAD)
            add_garbage(flow, (size_t)toxic->amount);
    }
}

/* Sends what is held, as far as it goes. False: nothing more is to be done now. */
static bool send_piece(struct pair *pair, enum way way, struct end *to)
{
    struct flow *flow = &pair->flows[way];
    while (flow->sent < flow->count) {
        size_t most = flow->count - flow->sent;
        ssize_t sent;
        if (flow->ready_at > now_ns()) {
            wake_at(pair, flow->ready_at);
            return false;
        }
        if (pair->toxic.kind == BANDWIDTH && (double)most > pair->toxic.amount / 100)
            most = (size_t)(pair->toxic.amount / 100) + 1;
        sent = send(to->fd, flow->bytes + flow->sent, most, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            if (errno != EAGAIN)
                kill_pair(pair, true);
            return false;
        }
        flow->sent += (size_t)sent;
        if (pair->toxic.kind == BANDWIDTH)
            flow->ready_at = now_ns() + (uint64_t)((double)sent * 1e9 / pair->toxic.amount);
    }
    flow->passed += flow->count;
    flow->count = flow->sent = 0;
    if (flow->trips)
        act(pair);
    return pair->mode == PASSING;
}

/* Moves one way what can be moved. */
static void pass(struct pair *pair, enum way way)
{
    struct flow *flow = &pair->flows[way];
    struct end *from = way == REQUEST ? &pair->client : &pair->target;
    struct end *to = way == REQUEST ? &pair->target : &pair->client;
    while (pair->mode == PASSING) {
        ssize_t count;
        if ((flow->count || flow->trips) && !send_piece(pair, way, to))
            return;
        if (from->finished) {
            if (!flow->fin_sent)
                shutdown(to->fd, SHUT_WR);
            flow->fin_sent = true;
            if (pair->flows[REQUEST].fin_sent && pair->flows[RESPONSE].fin_sent)
                kill_pair(pair, false);
            return;
        }
        count = recv(from->fd, flow->bytes, PIECE, 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            if (errno != EAGAIN)
                kill_pair(pair, true);
            return;
        }
        if (count == 0) {
            from->finished = true;
            continue;
        }
        if (way == REQUEST)
            count_ids(pair, flow->bytes, (size_t)count);
        flow->count = (size_t)count;
        spoil(pair, way);
    }
}

/* What epoll is to tell of an end: reading while its way holds nothing, writing while the other way waits for it. */
static uint32_t wanted(const struct end *end, const struct flow *from, const struct flow *to)
{
    bool may_read = !from->count && !end->finished, waits = to->count && to->ready_at <= now_ns();
    return (may_read ? EPOLLIN : 0u) | (waits ? EPOLLOUT : 0u);
}

static void pass_both(struct pair *pair)
{
    if (pair->connecting)
        return;
    pass(pair, REQUEST);
    pass(pair, RESPONSE);
    if (pair->mode != PASSING)
        return;
    watch(&pair->client, wanted(&pair->client, &pair->flows[REQUEST], &pair->flows[RESPONSE]));
    watch(&pair->target, wanted(&pair->target, &pair->flows[RESPONSE], &pair->flows[REQUEST]));
}

static void swallow(struct pair *pair)
{
    char bytes[PIECE];
    ssize_t count = recv(pair->client.fd, bytes, sizeof bytes, 0);
    if (count > 0)
        count_ids(pair, bytes, (size_t)count);
    else if (count == 0 || (errno != EAGAIN && errno != EINTR))
        kill_pair(pair, false);
}

static void on_connected(struct pair *pair)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(pair->target.fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error) {
        kill_pair(pair, true);  /* as near as one comes to being refused after having accepted */
        return;
    }
    pair->connecting = false;
    pass_both(pair);
}

static void on_event(struct end *end, uint32_t events)
{
    struct pair *pair = end->pair;
    if (pair->mode == DEAD || end->fd < 0)
        return;
    if (pair->mode == STALLED)
        kill_pair(pair, true);  /* the client has given up, or the origin is gone */
    else if (pair->mode != PASSING)
        swallow(pair);
    else if (events & EPOLLERR && !pair->connecting)
        kill_pair(pair, true);
    else if (pair->connecting && end == &pair->target)
        on_connected(pair);
    else
        pass_both(pair);
}

static void on_due(struct pair *pair)
{
    pair->timers--;
    if (pair->mode == WAITING_TO_END) {
        cut(pair);
    } else if (pair->mode == SWALLOWING) {
        if (!pair->timers)
            kill_pair(pair, false);
    } else if (pair->mode == PASSING) {
        pass_both(pair);
    } else if (pair->mode == DEAD && !pair->timers) {
        pair->next_dead = dead_pairs;
        dead_pairs = pair;
    }
}

/* ---- gates ----------------------------------------------------------------------------------------------- */

static int tcp_socket(void)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        die("socket");
    return fd;
}

static struct sockaddr_in place(int port)
{
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &where.sin_addr) != 1)
        die(address);
    return where;
}

static void begin_pair(struct gate *gate, int fd)
{
    struct sockaddr_in target = place(gate->target);
    struct pair *pair;
    int offset;
    struct toxic toxic = draw_toxic(&gate->plan, &random_state, &offset);
    gate->accepted++;
    gate->applied += toxic.kind != NONE;
    if (toxic.kind == ACCEPT_CLOSE) {
        close(fd);
        return;
    }
    pair = checked(calloc(1, sizeof *pair));
    pair->gate = gate;
    pair->toxic = toxic;
    pair->offset = offset;
    pair->client = (struct end){.fd = fd, .pair = pair};
    pair->target = (struct end){.fd = tcp_socket(), .pair = pair};
    gate->open++;
    LIST_INSERT_HEAD(&gate->pairs, pair, of_gate);
    if (connect(pair->target.fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS) {
        kill_pair(pair, true);
        return;
    }
    pair->connecting = true;
    watch(&pair->target, EPOLLOUT);
}

static void accept_all(struct gate *gate)
{
    while (gate->listening) {
        int on = 1, fd = accept4(gate->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        begin_pair(gate, fd);
    }
}

static void open_gate(struct gate *gate)
{
    struct sockaddr_in where = place(gate->port);
    int on = 1;
    gate->listener = tcp_socket();
    if (setsockopt(gate->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0
        || bind(gate->listener, (struct sockaddr *)&where, sizeof where) < 0)
        die("bind");
    LIST_INIT(&gate->pairs);
    gate->record = (struct end){.fd = gate->listener};
}

/* A shutdown ends listening as a close would, but the port's number stays ours. */
static void set_listening(struct gate *gate, bool listening)
{
    struct pair *next;
    if (listening == gate->listening)
        return;
    gate->listening = listening;
    if (listening) {
        if (listen(gate->listener, 4096) < 0)
            die("listen");
        watch(&gate->record, EPOLLIN);
        return;
    }
    if (epoll_ctl(poller, EPOLL_CTL_DEL, gate->listener, NULL) < 0 || shutdown(gate->listener, SHUT_RD) < 0)
        die("shutdown");
    gate->record.known = false;
    for (struct pair *pair = LIST_FIRST(&gate->pairs); pair; pair = next) {
        next = LIST_NEXT(pair, of_gate);
        kill_pair(pair, true);
    }
}

/* ---- control and start ----------------------------------------------------------------------------------- */

static bool obey(struct words *words, struct complaint *text)
{
    struct gate *gate = gates;
    int port = 0;
    if (words->count)
        parse_whole(words->word[0], 1, 65535, &port);
    while (gate < gates + gate_count && gate->port != port)
        gate++;
    if (gate == gates + gate_count)
        return complain(text, "a command is PORT COMMAND, with a port that is listened on");
    if (words->count == 2 && strcmp(words->word[1], "count") == 0) {
        snprintf(text->text, sizeof text->text, "accepted %llu applied %llu open %d",
            (unsigned long long)gate->accepted, (unsigned long long)gate->applied, gate->open);
        return true;
    }
    if (!parse_toxic(words, &gate->plan, text))
        return false;
    set_listening(gate, !gate->plan.count || gate->plan.toxics[0].kind != REFUSE);
    strcpy(text->text, "ok");
    return true;
}

static void on_control(void)
{
    struct command command;
    struct words words;
    struct complaint text;
    bool good;
    if (!receive_command(control.fd, &command))
        return;
    good = split_words(command.text, &words) ? obey(&words, &text) : complain(&text, "too many words");
    answer_command(control.fd, &command, good ? "" : "error: ", text.text);
}

static bool set_up(int argc, char **argv)
{
    const char *control_path = NULL;
    int i = 1, seed;
    gates = checked(calloc((size_t)argc, sizeof *gates));
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--control") == 0)
            control_path = argv[i + 1];
        else if (strcmp(argv[i], "--seen") == 0)
            seen = id_table_open(argv[i + 1]);
        else if (strcmp(argv[i], "--address") == 0)
            address = argv[i + 1];
        else if (strcmp(argv[i], "--seed") == 0 && parse_whole(argv[i + 1], 0, INT32_MAX, &seed))
            random_state = (uint64_t)seed;
        else
            return false;
    }
    for (; i < argc; i++) {
        struct gate *gate = &gates[gate_count++];
        char *colon = strchr(argv[i], ':');
        if (!colon)
            return false;
        *colon = '\0';
        if (!parse_whole(argv[i], 1, 65535, &gate->port) || !parse_whole(colon + 1, 1, 65535, &gate->target))
            return false;
        open_gate(gate);
        set_listening(gate, true);
    }
    if (!control_path || !gate_count)
        return false;
    control.fd = open_control(control_path);
    watch(&control, EPOLLIN);
    return true;
}

static void free_dead_pairs(void)
{
    while (dead_pairs) {
        struct pair *pair = dead_pairs;
        dead_pairs = pair->next_dead;
        free(pair);
    }
}

static struct gate *gate_of(const struct end *end)
{
    for (struct gate *gate = gates; gate < gates + gate_count; gate++)
        if (end == &gate->record)
            return gate;
    return NULL;
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
    prctl(PR_SET_TIMERSLACK, 1UL);
    if (!set_up(argc, argv)) {
        fprintf(stderr, "usage: %s --control PATH [--seen FILE] [--seed N] [--address A] LISTEN:TARGET...\n", argv[0]);
        return 2;
    }
    for (;;) {
        int count = wait_for_events(events);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct end *end = events[i].data.ptr;
            if (end->pair)
                on_event(end, events[i].events);
            else if (end == &control)
                on_control();
            else
                accept_all(gate_of(end));
        }
        while (dues.count && dues.entries[0].at <= now_ns())
            on_due(due_pop(&dues).item);
        free_dead_pairs();
    }
}
