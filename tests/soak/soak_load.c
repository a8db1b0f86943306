/*
 * The load of the soak run: all kinds of traffic (soak_kinds.h) at once through one proxy, each begun at its own rate
 * whether what was begun before has ended or not, and every byte that comes back checked. One thread, one
 * level-triggered epoll.
 *
 * A request ends in one of these ways:
 *
 *   ok         the answer is the right one: id, status, length, each byte of the body, and the origin had the same
 *              to say of the body that was sent; it came in its turn
 *   wrong      an id, or bytes, of another request
 *   corrupt    bytes that are nobody's, or too many or too few of them
 *   protocol   bytes that are no answer, or behind the last one
 *   status     another status than is due
 *   truncated  the connection ended inside of the answer
 *   reset      it ended before any byte of it
 *   timeout    no whole answer in time
 *   connect    the connection could not be opened
 *
 * `wrong`, `corrupt` and `protocol` are mismatched, the others failed. In a tunnel or a relay each message is a
 * request whose answer is the same bytes; so are its opening and its end, together.
 *
 * Prints `FAIL ...` for each of the first that went wrong and cannot be explained. INT and TERM: nothing new is begun,
 * what was begun is finished, tunnels and relays are ended; then it ends itself, with `END`.
 *
 * `--longest`: seconds that a tunnel or a relay lasts at most; without it some stay to the end.
 *
 * usage: soak_load --counts FILE --port P --relay-port P [--seed N] [--longest S] KIND=RATE...
 *        (a second; the others 0)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "soak_session.h"

enum { SCRATCH = 64 * 1024, TICK_MS = 5, MOST_USES = 2000, SMALL_BUFFER = 16 * 1024 };
static const u64 IDLE_NS = 5000000000u;     /* the proxy waits for a minute: it never ends one that is in use */

static struct sockaddr_in target, relay_target;
static char scratch[SCRATCH];

/* ---- answers --------------------------------------------------------------------------------------------- */

/* A final head was read. Returns what is wrong with it, OK if nothing is. */
static enum result take_head(struct session *session)
{
    const struct ask *ask = &session->plan.asks[session->reading];
    const char *head = session->head;
    size_t bytes = session->head_bytes, length = 0;
    const char *id = head_field(head, bytes, "x-chaos-id", &length);
    uint64_t number = ask->id;
    u64 counted;
    bool none = strcmp(ask->method, "HEAD") == 0 || session->status == 204 || session->status == 304;
    if (id && (length != ID_BYTES || !id_read(id, &number)))
        return CORRUPT;
    if (number != ask->id)
        return WRONG;
    if (!reader_of_head(&session->body, head, bytes, ENDLESS))
        return PROTOCOL;
    id = head_field(head, bytes, "content-length", &length);
    if (none && session->status == 200 && strcmp(ask->method, "HEAD") == 0
        && (!id || !decimal(id, length, &counted) || counted != ask->wanted))
        return CORRUPT;
    if (none)
        reader_begin(&session->body, NO_BODY, 0);
    session->close_after = field_is(head, bytes, "connection", "close") || head[7] == '0' || ask->old
        || session->body.framing == ENDLESS;
    session->in_body = true;
    session->body_seen = 0;
    return OK;
}

/* What the origin said of the body that it was sent. */
static bool body_arrived(const struct session *session, const struct ask *ask)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%llu right", ask->body);
    return field_is(session->head, session->head_bytes, "x-soak-got", wanted);
}

static enum result judge_local(const struct session *session, const struct ask *ask)
{
    char location[64] = "/elsewhere?";
    size_t length = 0;
    if (session->status != ask->status
        || (*ask->local && !field_is(session->head, session->head_bytes, "x-fastmesh-error", ask->local)))
        return STATUS;
    if (head_field(session->head, session->head_bytes, "x-chaos-id", &length))
        return CORRUPT;
    id_write(location + strlen(location), ask->id);
    if (ask->status == 308 && !field_is(session->head, session->head_bytes, "location", location))
        return WRONG;
    return ask->text && session->body_seen != strlen(ask->text) ? CORRUPT : OK;
}

static enum result judge(const struct session *session, const struct ask *ask)
{
    size_t length = 0;
    bool to_head = strcmp(ask->method, "HEAD") == 0;
    if (ask->local)
        return judge_local(session, ask);
    if (session->status != ask->status)
        return STATUS;
    if (!head_field(session->head, session->head_bytes, "x-chaos-id", &length) || !body_arrived(session, ask))
        return CORRUPT;
    return to_head || session->body_seen == ask->wanted ? OK : CORRUPT;
}

static void end_ask(struct session *session)
{
    const struct ask *ask = &session->plan.asks[session->reading];
    enum result result = judge(session, ask);
    count_result(session, ask, result);
    session->reading++;
    session->in_body = false;
    session->head_bytes = 0;
    session->status = 0;
    if (session->reading == session->plan.count)
        end_session(session);
    else if (session->close_after)
        leave(session);                     /* it was announced: what is not answered was not taken */
}

static enum result take_body(struct session *session, const char *data, size_t bytes)
{
    const struct ask *ask = &session->plan.asks[session->reading];
    u64 from = session->body_seen;
    enum body_verdict verdict;
    session->body_seen += bytes;
    if (ask->local) {
        u64 room = ask->text ? strlen(ask->text) : 0;
        return !ask->text || (session->body_seen <= room && memcmp(data, ask->text + from, bytes) == 0) ? OK : CORRUPT;
    }
    if (session->status != ask->status)     /* a line of text of the proxy */
        return OK;
    verdict = text_check(data, ask->id, from, bytes);
    return verdict == BODY_OF_ANOTHER ? WRONG : verdict == BODY_CORRUPT || session->body_seen > ask->wanted ? CORRUPT : OK;
}

/* ---- echoes ---------------------------------------------------------------------------------------------- */

static void begin_echo(struct session *session)
{
    session->echoing = true;
    session->echo_end_ns = now + session->plan.echo_ns;
    session->message_ns = now;
}

static void begin_message(struct session *session)
{
    u64 bytes = chance(0.1) ? draw_between(1, OUT_ROOM) : draw_between(1, 2000);
    text_write(session->out, session->plan.asks[0].id, session->echo_made, (size_t)bytes);
    session->out_from = 0;
    session->out_count = (size_t)bytes;
    session->echo_made += bytes;
    session->begun_ns = now;
    session->deadline_ns = now + (u64)(session->kind->patience * 1e9);
    session->message_ns = now + draw_between(20, 400) * 1000000;
    session->kind->counts->sent++;
    session->plan.count = session->reading + 2;     /* the message, and the session itself */
    session->plan.asks[session->reading + 1] = session->plan.asks[0];
    session->making = session->plan.count;
    send_more(session);
}

static enum result take_echo(struct session *session, const char *bytes, size_t count)
{
    enum body_verdict verdict = text_check(bytes, session->plan.asks[0].id, session->echo_seen, count);
    session->echo_seen += count;
    if (verdict != BODY_RIGHT || session->echo_seen > session->echo_made)
        return verdict == BODY_OF_ANOTHER ? WRONG : CORRUPT;
    if (session->echo_seen == session->echo_made) {
        count_result(session, &session->plan.asks[0], OK);
        session->plan.count = session->reading + 1;
        session->message_ns = now + draw_between(20, 400) * 1000000;
    }
    return OK;
}

static void look_after_echo(struct session *session)
{
    if (session->echo_seen < session->echo_made || session->finishing)
        return;
    if (now >= session->echo_end_ns || stopped) {
        session->finishing = true;
        session->begun_ns = now;
        session->deadline_ns = now + (u64)(session->kind->patience * 1e9);
        shutdown(session->fd, SHUT_WR);
    } else if (now >= session->message_ns) {
        begin_message(session);
    } else {
        session->deadline_ns = now + (u64)(session->kind->patience * 1e9);
    }
}

/* ---- events ---------------------------------------------------------------------------------------------- */

/* Takes bytes of a head; sets `used`. */
static enum result take_head_bytes(struct session *session, const char *bytes, size_t count, size_t *used)
{
    size_t before = session->head_bytes, room = HEAD_ROOM - before, step = count < room ? count : room, whole;
    char *end;
    memcpy(session->head + before, bytes, step);
    end = memmem(session->head, before + step, "\r\n\r\n", 4);
    whole = end ? (size_t)(end - session->head) + 4 : before + step;
    *used = whole - before;
    session->head_bytes = whole;
    session->head[whole] = '\0';
    if (!end)
        return whole == HEAD_ROOM ? PROTOCOL : OK;
    if (sscanf(session->head, "HTTP/1.%*1[01] %3d", &session->status) != 1 || session->status < 100)
        return PROTOCOL;
    if (session->status == 101) {
        if (!session->plan.echoes || !field_is(session->head, whole, "upgrade", "websocket"))
            return PROTOCOL;
        begin_echo(session);
        return OK;
    }
    if (session->status < 200) {
        session->head_bytes = 0;
        return OK;
    }
    return take_head(session);
}

static void on_bytes(struct session *session, const char *bytes, size_t count)
{
    while (count && session->fd >= 0 && session->kind) {
        enum result result = OK;
        size_t used = count, data_bytes;
        const char *data;
        if (session->echoing) {
            result = take_echo(session, bytes, count);
        } else if (session->in_body) {
            used = reader_step(&session->body, bytes, count, &data, &data_bytes);
            result = take_body(session, data, data_bytes);
        } else {
            result = take_head_bytes(session, bytes, count, &used);
        }
        if (session->in_body && session->body.state == BROKEN)
            result = PROTOCOL;
        if (result != OK) {
            fail(session, result);
            return;
        }
        bytes += used;
        count -= used;
        if (session->in_body && session->body.state == WHOLE)
            end_ask(session);
    }
    if (count && session->fd >= 0) {        /* it is idle */
        kinds[0].counts->mismatched++;
        count_cause(kinds[0].counts, "behind an answer", 16);
        printf("FAIL bytes behind an answer: %.*s\n", count < 300 ? (int)count : 300, bytes);
        drop(session, false);
    }
}

static void on_end(struct session *session, bool by_reset)
{
    if (!session->kind)
        drop(session, false);
    else if (session->echoing && session->finishing && !by_reset) {
        count_result(session, &session->plan.asks[0], OK);
        drop(session, false);
    } else if (session->in_body && session->body.framing == ENDLESS && !by_reset) {
        session->close_after = true;
        end_ask(session);
    } else {
        fail(session, session->head_bytes ? TRUNCATED : RESET);
    }
}

static void receive(struct session *session)
{
    struct pace *pace = &session->plan.reading;
    size_t room = session->kind && pace->step ? pace->step : SCRATCH;
    ssize_t count = recv(session->fd, scratch, room, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        on_end(session, count < 0);
        return;
    }
    session->received += (u64)count;
    if (session->kind && pace->step)
        pace->due_ns = now + pace->gap_ns;
    on_bytes(session, scratch, (size_t)count);
    if (session->fd >= 0 && session->kind && !has_left(session))
        watch_what_is_due(session);
}

static void on_event(struct session *session, uint32_t events)
{
    if (session->fd < 0)
        return;
    if (session->connecting) {
        int error = 0;
        socklen_t length = sizeof error;
        if (getsockopt(session->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error) {
            fail(session, CONNECT);
            return;
        }
        session->connecting = false;
        if (session->kind->relay)
            begin_echo(session);
    }
    if (events & EPOLLOUT)
        send_more(session);
    if (session->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(session);
}

/* ---- beginning ------------------------------------------------------------------------------------------- */

static struct session *open_session(const struct kind *kind)
{
    struct session *session = checked(calloc(1, sizeof *session));
    int on = 1, small = SMALL_BUFFER;
    session->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (session->fd < 0 || setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        die("socket");
    if (kind->prepare == prepare_slow_reader)
        setsockopt(session->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    session->uses_left = (int)draw_between(1, MOST_USES);
    session->connecting = true;
    return session;
}

static struct session *take_idle(void)
{
    struct session *session = TAILQ_FIRST(&idle);
    idle_count--;
    TAILQ_REMOVE(&idle, session, link);
    memset(&session->plan, 0, sizeof session->plan);
    session->sent = session->received = session->body_seen = 0;
    session->reading = session->making = 0;
    return session;
}

static void begin_session(struct kind *kind)
{
    bool fresh = kind->fresh || TAILQ_EMPTY(&idle);
    struct session *session = fresh ? open_session(kind) : take_idle();
    session->kind = kind;
    kind->prepare(kind, &session->plan);
    if (kind->relay)
        session->making = session->plan.count;  /* nothing is asked */
    kind->begun++;
    kind->counts->active++;
    kind->counts->sent += (u64)session->plan.count;
    session->begun_ns = now;
    session->deadline_ns = now + (u64)(kind->patience * 1e9);
    TAILQ_INSERT_TAIL(&active, session, link);
    if (fresh) {
        const struct sockaddr_in *to = kind->relay ? &relay_target : &target;
        if (connect(session->fd, (const struct sockaddr *)to, sizeof *to) < 0 && errno != EINPROGRESS) {
            fail(session, CONNECT);
            return;
        }
        watch(session, EPOLLOUT);
    } else {
        send_more(session);
    }
}

/* Begins what is due. After a pause (a stopped machine) not all of it at once. */
static void begin_what_is_due(void)
{
    for (struct kind *kind = kinds; kind < kinds + KINDS; kind++) {
        if (kind->rate <= 0)
            continue;
        if (now > kind->due_ns + 200000000)
            kind->due_ns = now;
        while (now >= kind->due_ns) {
            kind->due_ns += (u64)(1e9 / kind->rate * 2 * ((double)(draw() >> 11) * 0x1p-53));
            if ((int)kind->counts->active < kind->most)
                begin_session(kind);
            else if (!kind->relay && strcmp(kind->name, "tunnel") != 0)
                kind->counts->late++;
        }
    }
}

/* Ends what takes too long, goes on with what has waited. */
static void look_after_all(void)
{
    struct session *session, *next;
    for (session = TAILQ_FIRST(&active); session; session = next) {
        next = TAILQ_NEXT(session, link);
        if (now >= session->deadline_ns)
            fail(session, TIMEOUT);
        else if (session->plan.leaves && has_left(session))
            continue;
        else if (session->echoing)
            look_after_echo(session);
        else if (session->plan.sending.step)
            send_more(session);
        else if (session->plan.reading.step)
            watch_what_is_due(session);
    }
    for (session = TAILQ_FIRST(&idle); session; session = next) {
        next = TAILQ_NEXT(session, link);
        if (stopped || now - session->idle_ns >= IDLE_NS)
            drop(session, false);
    }
}

static void free_dead(void)
{
    struct session *session;
    while ((session = TAILQ_FIRST(&dead))) {
        TAILQ_REMOVE(&dead, session, link);
        free(session);
    }
}

static void run(void)
{
    static struct epoll_event events[256];
    u64 next_look = 0;
    start_ns = now = read_clock();
    for (struct kind *kind = kinds; kind < kinds + KINDS; kind++)
        kind->due_ns = now;
    printf("START %llu\n", start_ns);
    fflush(stdout);
    while (!stopped || !TAILQ_EMPTY(&active)) {
        int count;
        if (!stopped)
            begin_what_is_due();
        if (now >= next_look) {
            look_after_all();
            next_look = now + TICK_MS * 1000000;
        }
        free_dead();
        count = epoll_wait(poller, events, 256, 1);
        now = read_clock();
        for (int i = 0; i < count; i++)
            on_event(events[i].data.ptr, events[i].events);
    }
    printf("END\n");
}

static void on_signal(int signal_number)
{
    stopped = signal_number;
}

static bool read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"counts", 1, NULL, 'c'}, {"port", 1, NULL, 'p'}, {"relay-port", 1, NULL, 'r'}, {"seed", 1, NULL, 's'},
        {"longest", 1, NULL, 'l'}, {0},
    };
    struct counts *counts = NULL;
    target.sin_family = relay_target.sin_family = AF_INET;
    target.sin_addr.s_addr = relay_target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) >= 0;) {
        switch (option) {
        case 'c': counts = counts_map(optarg, KINDS); break;
        case 'p': target.sin_port = htons((uint16_t)strtol(optarg, NULL, 10)); break;
        case 'r': relay_target.sin_port = htons((uint16_t)strtol(optarg, NULL, 10)); break;
        case 's': random_state = strtoull(optarg, NULL, 10); break;
        case 'l': longest_echo_ns = (u64)(strtod(optarg, NULL) * 1e9); break;
        default: return false;
        }
    }
    while (optind < argc)
        if (!take_rate(argv[optind++]))
            return false;
    for (int i = 0; counts && i < KINDS; i++) {
        kinds[i].counts = &counts[i];
        strcpy(counts[i].name, kinds[i].name);
    }
    next_id = (mix(random_state) & 0xffff) << 36;
    return counts && target.sin_port;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    if (!read_options(argc, argv)) {
        fprintf(stderr, "soak_load: --counts, --port and known KIND=RATE are needed; see the head of soak_load.c\n");
        return 2;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        die("epoll_create1");
    run();
    return 0;
}
