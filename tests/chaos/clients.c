/*
 * Clients that must not notice what happens to a proxy: visitors, each with a connection and one request of its own,
 * and residents, who keep theirs.
 *
 * Visitors come at a constant rate, whatever the answers do, and their latency counts from when they were due. They
 * come from addresses 127.0.0.2 and up in turn (--sources), so that no port is wanted again while an earlier
 * connection of it is in TIME_WAIT. A share of them (--close-share) sends `Connection: close` and waits for the
 * server's end; the others close when they have their answer. A resident thinks between two requests; the times of
 * the N are spread evenly over --think-ms FROM-TO. Before it sends, it looks whether its connection has ended.
 *
 * Requests carry ids (chaos_id.h) as those of id_load.c do, and end in one of these ways:
 *
 *   ok          2xx; id and body are its own
 *   status      another status
 *   wrong       an id or a body that belongs to another request
 *   corrupt     2xx without an id, or with a body that is nobody's, too short or too long
 *   refused     the connection was refused
 *   connect     it could not be opened for another reason
 *   reset       a new connection was reset before any byte of the answer
 *   closed      a new connection was closed before any byte of the answer
 *   lost        a kept connection was closed before any byte of the answer to a request that was sent on it
 *   lost_reset  the same, by a reset
 *   cut         the connection ended inside of the answer
 *   protocol    bytes that are no answer, or behind one
 *   timeout     no whole answer in time
 *   crowded     it was due while 8,192 visitors were there
 *
 * What happens to a connection between requests is no failure, and counted:
 *
 *   said_close  an answer said that its connection ends
 *   late_reset  that was then reset and not closed, or nothing came within the time-out
 *   idle_closed a kept connection was closed that no answer had said it of; idle_reset: by a reset
 *
 * Who loses a connection opens another one; with --stay-away a resident is gone then.
 *
 * Prints `RESULT name=number ...`, names beginning with new_ or kept_; latencies in us; before it a line `FAIL ...`
 * for each of the first failures. INT and TERM end it: what was begun is finished.
 *
 * usage: clients --port P [--new-rate R] [--kept N] [--think-ms F-T] [--seconds S] [--timeout-ms 5000]
 *        [--close-share 0.5] [--sources 64] [--bytes B[,B...]] [--base ID] [--seed N] [--stay-away] [--no-echo]
 *        [--path PREFIX]
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

enum { SCRATCH = 64 * 1024, MOST_VISITORS = 8192, MOST_SIZES = 16, FAILURES_SHOWN = 40, REQUEST_ROOM = 512 };
static const u64 MS = 1000000;

enum kind {
    OK, STATUS, WRONG, CORRUPT, REFUSED, CONNECT, RESET, CLOSED, LOST, LOST_RESET, CUT, PROTOCOL, TIMEOUT, CROWDED,
    KINDS
};
static const char *const kind_names[] = {
    "ok", "status", "wrong", "corrupt", "refused", "connect", "reset", "closed", "lost", "lost_reset", "cut",
    "protocol", "timeout", "crowded",
};

static struct {
    const char *path;
    int port, residents, sources, sizes;
    double new_rate, seconds, close_share, think_from, think_to;     /* think: ms */
    u64 timeout_ns, base, seed;
    size_t size[MOST_SIZES];
    bool stay_away, no_echo;
} options = {.path = "", .sources = 64, .close_share = 0.5, .timeout_ns = 5000000000ull, .seed = 1, .sizes = 1,
             .size = {ID_LINE}};

struct client {
    enum { AWAY, CONNECTING, ASKING, RESTING, LEAVING, GONE } phase;     /* AWAY: a visitor's place is free */
    int fd;
    bool resident, closes, watches_output;
    u64 answers;                /* over this connection */
    u64 think_ns, wake_ns;      /* when it does something next: RESTING, AWAY */
    u64 id, begun_ns;
    size_t wanted, request_bytes, sent;
    char request[REQUEST_ROOM];
    struct received raw;
    struct answer answer;
};

/* Of visitors, and of residents. */
static struct account {
    const char *name;
    u64 sent, ended[KINDS], statuses[1000], opened, said_close, late_reset, idle_closed, idle_reset;
    u64 latency[LATENCY_SLOTS];
} accounts[2] = {{.name = "new"}, {.name = "kept"}};

static struct client *visitors, *residents;
static int visitor_places, poller, failures_shown;
static u64 now, start_ns, asked, visitors_due, next_source;
static char scratch[SCRATCH];
static volatile sig_atomic_t stopped;

static struct account *account_of(const struct client *client)
{
    return &accounts[client->resident];
}

/* ---- the end of a request, and of a connection ----------------------------------------------------------- */

static void show_failure(const struct client *client, enum kind kind)
{
    size_t length;
    const char *code = field(&client->raw, "x-fastmesh-error", &length);
    if (failures_shown++ >= FAILURES_SHOWN)
        return;
    printf("FAIL at %.3f s after %.1f ms: %s %llx %s status %d %.*s, request %llu of its connection, "
           "%zu bytes received\n",
           (double)(now - start_ns) / 1e9, (double)(now - client->begun_ns) / 1e6, account_of(client)->name, client->id,
           kind_names[kind], client->answer.status, (int)length, code ? code : "", client->answers + 1,
           client->raw.count);
    fflush(stdout);
}

static void count_end(struct client *client, enum kind kind)
{
    struct account *account = account_of(client);
    account->ended[kind]++;
    if (kind == OK) {
        account->latency[latency_slot((now - client->begun_ns) / 1000)]++;
        return;
    }
    show_failure(client, kind);
    if (kind == STATUS) {
        size_t length;
        const char *code = field(&client->raw, "x-fastmesh-error", &length);
        account->statuses[client->answer.status % 1000]++;
        if (code)
            count_error(code, length);
    }
}

/* Closes the socket. A visitor's place is free; a resident comes back at once, or never. */
static void leave(struct client *client)
{
    close(client->fd);
    client->fd = -1;
    client->phase = client->resident && options.stay_away ? GONE : AWAY;
}

static void fail(struct client *client, enum kind kind)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    count_end(client, kind);
    if (kind == TIMEOUT)        /* a FIN would say that it has sent all, and may still want the answer */
        setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    leave(client);
    client->wake_ns = now + (kind == REFUSED || kind == CONNECT ? 20 * MS : client->think_ns);
}

/* The connection has ended under a request. */
static void on_lost(struct client *client, int error)
{
    bool reset = error != 0;
    if (client->raw.count)
        fail(client, CUT);
    else if (client->answers)
        fail(client, reset ? LOST_RESET : LOST);
    else
        fail(client, reset ? RESET : CLOSED);
}

/* A kept connection has ended between two requests. */
static void on_idle_end(struct client *client, bool reset)
{
    struct account *account = account_of(client);
    account->idle_closed += !reset;
    account->idle_reset += reset;
    leave(client);
}

/* ---- requests -------------------------------------------------------------------------------------------- */

static void watch(struct client *client, bool add, bool output)
{
    struct epoll_event event = {.events = EPOLLIN | (output ? EPOLLOUT : 0u), .data.ptr = client};
    if (!add && client->watches_output == output)
        return;
    client->watches_output = output;
    if (epoll_ctl(poller, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, client->fd, &event) < 0)
        die("epoll_ctl");
}

static void send_rest(struct client *client)
{
    client->phase = ASKING;
    while (client->sent < client->request_bytes) {
        ssize_t sent = send(client->fd, client->request + client->sent, client->request_bytes - client->sent,
                            MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            watch(client, false, true);
            return;
        }
        if (sent < 0)
            break;              /* an answer may still lie there to be read; else its end will */
        client->sent += (size_t)sent;
    }
    watch(client, false, false);
}

static void write_request(struct client *client)
{
    char text[ID_LINE] = {0};
    client->id = options.base + 2 * asked++;
    client->wanted = options.size[mixed_random(&options.seed) % (u64)options.sizes];
    client->closes = !client->resident
        && (double)(mixed_random(&options.seed) >> 11) * 0x1p-53 < options.close_share;
    id_write(text, client->id);
    client->request_bytes = (size_t)snprintf(client->request, REQUEST_ROOM,
        "GET %s/%s HTTP/1.1\r\nHost: chaos\r\nx-chaos-id: %s\r\nx-chaos-bytes: %zu\r\n%s\r\n", options.path, text, text,
        client->wanted, client->closes ? "Connection: close\r\n" : "");
    client->sent = client->raw.count = 0;
    account_of(client)->sent++;
    begin_answer(&client->answer, false);
}

static bool bind_source(int fd)
{
    struct sockaddr_in from = {.sin_family = AF_INET};
    int on = 1;
    if (options.sources < 2)
        return true;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(next_source++ % (u64)options.sources));
    return setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) == 0
        && bind(fd, (struct sockaddr *)&from, sizeof from) == 0;
}

static void on_connect_error(struct client *client, int error)
{
    fail(client, error == ECONNREFUSED ? REFUSED : error == ECONNRESET || error == EPIPE ? RESET : CONNECT);
}

/* Opens its connection and sends its request over it. */
static void arrive(struct client *client)
{
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int on = 1;
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0
        || !bind_source(client->fd))
        die("socket");
    client->phase = CONNECTING;
    client->answers = 0;
    account_of(client)->opened++;
    write_request(client);
    if (connect(client->fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)
        on_connect_error(client, errno);
    else
        watch(client, true, true);
}

/* A rested resident asks again; over a new connection if its own has ended. */
static void ask_again(struct client *client)
{
    char byte;
    ssize_t peeked = recv(client->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    client->begun_ns = now;
    if (peeked < 0 && (errno == EAGAIN || errno == EINTR)) {
        write_request(client);
        send_rest(client);
        return;
    }
    if (peeked > 0) {
        fail(client, PROTOCOL);
        return;
    }
    on_idle_end(client, peeked < 0);
    if (client->phase == AWAY)
        arrive(client);
}

/* ---- answers --------------------------------------------------------------------------------------------- */

static enum kind judge(const struct client *client)
{
    static const enum kind kinds[] = {[ITS_OWN] = OK, [NO_SUCCESS] = STATUS, [OF_ANOTHER] = WRONG, [NOBODYS] = CORRUPT};
    int status = client->answer.status;
    if (options.no_echo)
        return status / 100 == 2 ? OK : STATUS;
    return kinds[whose_answer(&client->raw, status, client->id, client->wanted)];
}

static void on_whole(struct client *client)
{
    count_end(client, judge(client));
    client->answers++;
    client->wake_ns = now + client->think_ns;
    if (client->answer.close) {
        account_of(client)->said_close++;
        client->phase = LEAVING;
        client->begun_ns = now;
    } else if (client->resident && !stopped) {
        client->phase = RESTING;
    } else {
        leave(client);
    }
}

static void on_bytes(struct client *client, size_t count)
{
    size_t used = feed_answer(&client->answer, scratch, count);
    keep_received(&client->raw, scratch, used);
    if (client->answer.state == BROKEN || used < count)
        fail(client, PROTOCOL);
    else if (client->answer.state == WHOLE)
        on_whole(client);
}

static void on_end(struct client *client, int error)
{
    switch (client->phase) {
    case RESTING:
        on_idle_end(client, error != 0);
        break;
    case LEAVING:
        account_of(client)->late_reset += error != 0;
        leave(client);
        break;
    default:
        if (error == 0 && client->answer.state == ENDLESS_BODY) {
            count_end(client, judge(client));
            leave(client);
        } else {
            on_lost(client, error);
        }
    }
}

static void on_connected(struct client *client)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    if (error)
        on_connect_error(client, error);
    else
        send_rest(client);
}

static void on_event(struct client *client, uint32_t events)
{
    ssize_t count;
    if (client->fd < 0)
        return;
    if (client->phase == CONNECTING) {
        on_connected(client);
        return;
    }
    if (events & EPOLLOUT && client->phase == ASKING)
        send_rest(client);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    count = recv(client->fd, scratch, sizeof scratch, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        on_end(client, count < 0 ? errno : 0);
    else if (client->phase == ASKING)
        on_bytes(client, (size_t)count);
    else {
        client->begun_ns = now;
        fail(client, PROTOCOL);
    }
}

/* ---- who comes when -------------------------------------------------------------------------------------- */

static struct client *free_place(void)
{
    for (int i = 0; i < visitor_places; i++)
        if (visitors[i].phase == AWAY)
            return &visitors[i];
    return visitor_places < MOST_VISITORS ? &visitors[visitor_places++] : NULL;
}

static u64 visitor_time(u64 number)
{
    return start_ns + (u64)((double)number * 1e9 / options.new_rate);
}

static void receive_visitors(void)
{
    for (; options.new_rate > 0 && !stopped && visitor_time(visitors_due) <= now; visitors_due++) {
        struct client *visitor = free_place();
        if (!visitor) {
            accounts[0].sent++;
            accounts[0].ended[CROWDED]++;
            continue;
        }
        visitor->fd = -1;
        visitor->begun_ns = visitor_time(visitors_due);
        arrive(visitor);
    }
}

/* False: nothing more will come of it. */
static bool look_after(struct client *client)
{
    switch (client->phase) {
    case CONNECTING:
    case ASKING:
        if (now - client->begun_ns >= options.timeout_ns)
            fail(client, TIMEOUT);
        return true;
    case LEAVING:
        if (now - client->begun_ns >= options.timeout_ns) {
            account_of(client)->late_reset++;
            leave(client);
        }
        return true;
    /* `stopped` may change at any moment, so it is read once: who has just begun something is there. */
    case RESTING:
        if (stopped) {
            leave(client);
            return false;
        }
        if (now >= client->wake_ns)
            ask_again(client);
        return true;
    case AWAY:
        if (stopped || !client->resident)
            return false;
        if (now >= client->wake_ns) {
            client->begun_ns = now;
            arrive(client);
        }
        return true;
    default:
        return false;
    }
}

static int look_after_all(void)
{
    int there = 0;
    for (int i = 0; i < options.residents; i++)
        there += look_after(&residents[i]);
    for (int i = 0; i < visitor_places; i++)
        there += look_after(&visitors[i]);
    return there;
}

static void run(void)
{
    static struct epoll_event events[256];
    start_ns = now = read_clock();
    for (int i = 0; i < options.residents; i++) {
        double place = options.residents > 1 ? (double)i / (options.residents - 1) : 0;
        double think_ms = options.think_from + place * (options.think_to - options.think_from);
        residents[i] = (struct client){.resident = true, .fd = -1, .think_ns = (u64)(think_ms * 1e6)};
        /* They do not come all at once. */
        residents[i].wake_ns = now + mixed_random(&options.seed) % (200 * MS);
    }
    printf("START %llu\n", start_ns);
    fflush(stdout);
    for (u64 looked = 0;;) {
        int count = epoll_wait(poller, events, 256, 1);
        now = read_clock();
        for (int i = 0; i < count; i++)
            on_event(events[i].data.ptr, events[i].events);
        if (options.seconds > 0 && (double)(now - start_ns) >= options.seconds * 1e9)
            stopped = SIGALRM;
        receive_visitors();
        if (now - looked >= MS) {
            looked = now;
            if (!look_after_all() && stopped)
                return;
        }
    }
}

/* ---- start and end --------------------------------------------------------------------------------------- */

static void on_signal(int signal_number)
{
    stopped = signal_number;
}

static bool read_think(const char *text)
{
    return sscanf(text, "%lf-%lf", &options.think_from, &options.think_to) == 2
        && options.think_from >= 0 && options.think_from <= options.think_to;
}

static void read_sizes(char *text)
{
    char *rest = NULL;
    options.sizes = 0;
    for (char *word = strtok_r(text, ",", &rest); word && options.sizes < MOST_SIZES; word = strtok_r(NULL, ",", &rest))
        options.size[options.sizes++] = strtoul(word, NULL, 10);
}

static bool read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", 1, NULL, 'p'}, {"new-rate", 1, NULL, 'r'}, {"kept", 1, NULL, 'k'}, {"think-ms", 1, NULL, 'm'},
        {"seconds", 1, NULL, 's'}, {"timeout-ms", 1, NULL, 't'}, {"close-share", 1, NULL, 'c'},
        {"sources", 1, NULL, 'a'}, {"bytes", 1, NULL, 'b'}, {"base", 1, NULL, 'i'}, {"seed", 1, NULL, 'e'},
        {"stay-away", 0, NULL, 'w'}, {"no-echo", 0, NULL, 'n'}, {"path", 1, NULL, 'u'}, {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) >= 0;) {
        switch (option) {
        case 'p': options.port = (int)strtol(optarg, NULL, 10); break;
        case 'r': options.new_rate = strtod(optarg, NULL); break;
        case 'k': options.residents = (int)strtol(optarg, NULL, 10); break;
        case 'm': if (!read_think(optarg)) return false; break;
        case 's': options.seconds = strtod(optarg, NULL); break;
        case 't': options.timeout_ns = (u64)(strtod(optarg, NULL) * 1e6); break;
        case 'c': options.close_share = strtod(optarg, NULL); break;
        case 'a': options.sources = (int)strtol(optarg, NULL, 10); break;
        case 'b': read_sizes(optarg); break;
        case 'i': options.base = strtoull(optarg, NULL, 10); break;
        case 'e': options.seed = strtoull(optarg, NULL, 10); break;
        case 'u': options.path = optarg; break;
        case 'w': options.stay_away = true; break;
        case 'n': options.no_echo = true; break;
        default: return false;
        }
    }
    return optind == argc && options.port > 0 && (options.new_rate > 0 || options.residents > 0) && options.sizes
        && options.sources > 0 && options.sources < 1 << 16 && options.base % 2 == 0 && strlen(options.path) < 200;
}

static void print_account(const struct account *account)
{
    printf(" %s_sent=%llu", account->name, account->sent);
    for (int kind = 0; kind < KINDS; kind++)
        printf(" %s_%s=%llu", account->name, kind_names[kind], account->ended[kind]);
    for (int status = 0; status < 1000; status++)
        if (account->statuses[status])
            printf(" %s_status_%d=%llu", account->name, status, account->statuses[status]);
    printf(" %s_opened=%llu %s_said_close=%llu %s_late_reset=%llu %s_idle_closed=%llu %s_idle_reset=%llu",
           account->name, account->opened, account->name, account->said_close, account->name, account->late_reset,
           account->name, account->idle_closed, account->name, account->idle_reset);
    printf(" %s_p50=%llu %s_p99=%llu %s_max=%llu", account->name, quantile(account->latency, 0.5), account->name,
           quantile(account->latency, 0.99), account->name, quantile(account->latency, 1));
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    int gone = 0;
    if (!read_options(argc, argv)) {
        fprintf(stderr, "clients: --port, and --new-rate or --kept, are needed; see the head of clients.c\n");
        return 2;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    visitors = checked(calloc(MOST_VISITORS, sizeof *visitors));
    residents = checked(calloc((size_t)options.residents + 1, sizeof *residents));
    run();
    for (int i = 0; i < options.residents; i++)
        gone += residents[i].phase == GONE;
    printf("RESULT duration_us=%llu gone=%d", (now - start_ns) / 1000, gone);
    print_account(&accounts[0]);
    print_account(&accounts[1]);
    print_errors();
    printf("\n");
    return 0;
}
