/*
 * The kinds of traffic of the soak run: what each of them asks for, how fast it sends and reads, when it leaves.
 *
 * A connection's work is a session: some requests in a row, or an echo. `fresh` kinds open a connection of their own
 * and end it, the others take turns on kept ones. A spoilt kind is answered by endpoints that break answers, a dying
 * one by endpoints that are killed: what they explain is no mismatch.
 */
#ifndef SOAK_KINDS_H
#define SOAK_KINDS_H

#include "soak_counts.h"

enum { MOST_ASKS = 8, MIB = 1 << 20 };
enum trust { CLEAN, DYING, SPOILT };

struct ask {
    u64 id;
    const char *method, *path;      /* the id follows */
    const char *fields;             /* further ones, each with its end */
    bool old;                       /* HTTP/1.0 */
    enum framing sends;
    u64 body;                       /* bytes that are sent */
    const char *form;               /* of the answer, as the origin is told */
    int status;
    u64 wanted;
    const char *local;              /* what the proxy itself answers: "" or the code of its error; NULL: the origin's */
    const char *text;               /* its body; NULL: not looked at */
};

/* So many bytes, then nothing for a while; 0: as it comes. */
struct pace {
    size_t step;
    u64 gap_ns, due_ns;
};

/* How a session is to be played; all 0 is a kept connection at full speed. */
struct plan {
    struct ask asks[MOST_ASKS];
    int count;
    struct pace sending, reading;
    bool leaves, by_reset;          /* in the middle: once so much was sent or received, or after that time */
    u64 leave_sent, leave_received, leave_ns;
    bool echoes;
    u64 echo_ns;                    /* how long */
};

struct kind {
    const char *name;
    void (*prepare)(struct kind *kind, struct plan *plan);
    double patience;                /* seconds */
    bool fresh, relay;
    enum trust trust;
    int most;                       /* sessions at a time */
    double rate;                    /* sessions a second */
    u64 due_ns, begun;
    struct counts *counts;
};

static u64 random_state, next_id, longest_echo_ns = UINT64_MAX / 2;

static u64 draw(void)
{
    return mix(random_state += 0x9e3779b97f4a7c15u);
}

static u64 draw_between(u64 least, u64 most)
{
    return least + draw() % (most - least + 1);
}

static bool chance(double share)
{
    return (double)(draw() >> 11) * 0x1p-53 < share;
}

static u64 draw_size(void)
{
    static const u64 sizes[] = {0, 1, 17, 32, 32, 300, 300, 3000, 3000, 20000};
    return sizes[draw() % (sizeof sizes / sizeof sizes[0])] + draw() % 3;
}

static struct ask *add_get(struct plan *plan, const char *path, u64 wanted)
{
    struct ask *ask = &plan->asks[plan->count++];
    *ask = (struct ask){.id = next_id++, .method = "GET", .path = path, .fields = "", .form = "length", .status = 200,
                        .wanted = wanted};
    if (chance(0.25))
        ask->form = "chunked";
    return ask;
}

static struct ask *add_post(struct plan *plan, const char *path, u64 body, u64 wanted)
{
    struct ask *ask = add_get(plan, path, wanted);
    ask->method = "POST";
    ask->sends = chance(0.5) ? CHUNKED : COUNTED;
    ask->body = body;
    return ask;
}

static struct ask *add_bodiless(struct plan *plan)
{
    struct ask *ask = add_get(plan, "/c/", draw_size());
    u64 which = draw() % 3;
    ask->form = "length";
    if (which == 0) {
        ask->method = "HEAD";
        return ask;
    }
    ask->status = which == 1 ? 204 : 304;
    ask->form = "none";
    ask->wanted = 0;
    return ask;
}

/* ---- the kinds ------------------------------------------------------------------------------------------- */

static void prepare_kept(struct kind *kind, struct plan *plan)
{
    struct ask *ask = add_get(plan, "/c/k/", draw_size());
    (void)kind;
    if (chance(0.01))
        ask->form = "close";
}

static void prepare_one(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_get(plan, "/c/", draw_size())->fields = "Connection: close\r\n";
}

static void prepare_old(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_get(plan, "/c/", draw_size())->old = true;
}

static void prepare_pipelined(struct kind *kind, struct plan *plan)
{
    u64 count = draw_between(2, MOST_ASKS);
    (void)kind;
    while ((u64)plan->count < count) {
        u64 which = draw() % 8;
        if (which < 5)
            add_get(plan, "/c/", draw_size());
        else if (which < 7)
            add_post(plan, "/c/", draw_size(), draw_size());
        else
            add_bodiless(plan);
    }
}

static void prepare_post(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_post(plan, "/c/", draw_size(), draw_size());
}

static void prepare_upload(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_post(plan, "/c/", draw_between(MIB, 8 * MIB), draw_size());
}

static void prepare_download(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_get(plan, "/c/", draw_between(MIB, 8 * MIB));
}

static void prepare_slow_reader(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_get(plan, "/c/", draw_between(MIB / 2, 2 * MIB));
    plan->reading = (struct pace){.step = 16384, .gap_ns = draw_between(10, 40) * 1000000};
}

static void prepare_slow_sender(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_post(plan, "/c/", draw_between(100, 3000), draw_size());
    plan->sending = (struct pace){.step = draw_between(40, 150), .gap_ns = draw_between(20, 60) * 1000000};
}

static void prepare_bodiless(struct kind *kind, struct plan *plan)
{
    (void)kind;
    add_bodiless(plan);
}

static void prepare_local(struct kind *kind, struct plan *plan)
{
    struct ask *ask = add_get(plan, "/pong", 0);
    (void)kind;
    ask->local = "";
    switch (draw() % 8) {
    case 0:
        ask->path = "/nowhere/";
        ask->status = 404;
        ask->local = "no_route";
        break;
    case 1:
        ask->path = "/moved?";
        ask->status = 308;
        break;
    case 2:
        ask->path = "/c/";
        ask->fields = "a line without a colon\r\n";
        ask->status = 400;
        ask->local = "bad_request";
        break;
    default:
        ask->path = "/pong/";
        ask->text = "pong\n";
    }
}

static void prepare_echo(struct kind *kind, struct plan *plan)
{
    static const u64 seconds[] = {2, 10, 30, 120, 300};
    struct ask *ask = add_get(plan, "/c/", 0);
    ask->fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    ask->status = 101;
    plan->echoes = true;
    /* The first four stay to the end, if they may. */
    plan->echo_ns = kind->begun < 4 ? longest_echo_ns : 1000000000 * seconds[draw() % 5];
    if (plan->echo_ns > longest_echo_ns)
        plan->echo_ns = longest_echo_ns;
}

static void prepare_aborted(struct kind *kind, struct plan *plan)
{
    u64 size = chance(0.1) ? draw_between(100000, 2 * MIB) : draw_size();
    (void)kind;
    plan->leaves = true;
    plan->by_reset = chance(0.5);
    plan->leave_sent = plan->leave_received = UINT64_MAX;
    plan->leave_ns = draw_between(0, 300) * 1000000;
    if (chance(0.4)) {
        add_post(plan, "/c/", size, 100);
        plan->leave_sent = draw_between(1, size + 200);
    } else {
        add_get(plan, "/c/", size);
        plan->leave_received = chance(0.3) ? 0 : draw_between(1, size + 200);
    }
}

static void prepare_elsewhere(struct kind *kind, struct plan *plan)
{
    const char *path = kind->trust == SPOILT ? "/toxic/" : "/mortal/";
    u64 wanted = chance(0.1) ? draw_between(MIB / 8, MIB) : draw_size();    /* some are under way when it dies */
    if (chance(0.3))
        add_post(plan, path, draw_size(), wanted);
    else
        add_get(plan, path, wanted);
}

static struct kind kinds[] = {
    {.name = "keep-alive", .prepare = prepare_kept, .patience = 30, .most = 400},
    {.name = "connection each", .prepare = prepare_one, .patience = 30, .fresh = true, .most = 200},
    {.name = "HTTP/1.0", .prepare = prepare_old, .patience = 30, .fresh = true, .most = 100},
    {.name = "pipelined", .prepare = prepare_pipelined, .patience = 30, .most = 100},
    {.name = "POST", .prepare = prepare_post, .patience = 30, .most = 200},
    {.name = "HEAD, 204, 304", .prepare = prepare_bodiless, .patience = 30, .most = 100},
    {.name = "upload", .prepare = prepare_upload, .patience = 120, .most = 20},
    {.name = "download", .prepare = prepare_download, .patience = 120, .most = 20},
    {.name = "slow reader", .prepare = prepare_slow_reader, .patience = 180, .fresh = true, .most = 40},
    {.name = "slow sender", .prepare = prepare_slow_sender, .patience = 180, .fresh = true, .most = 60},
    {.name = "proxy's own", .prepare = prepare_local, .patience = 30, .most = 50},
    {.name = "tunnel", .prepare = prepare_echo, .patience = 60, .fresh = true, .most = 24},
    {.name = "TCP relay", .prepare = prepare_echo, .patience = 60, .fresh = true, .relay = true, .most = 24},
    {.name = "leaves early", .prepare = prepare_aborted, .patience = 30, .fresh = true, .most = 60},
    {.name = "dying endpoint", .prepare = prepare_elsewhere, .patience = 30, .trust = DYING, .most = 100},
    {.name = "toxic endpoint", .prepare = prepare_elsewhere, .patience = 5, .trust = SPOILT, .most = 200},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* Of KIND=RATE. */
static bool take_rate(const char *word)
{
    const char *equals = strrchr(word, '=');
    for (int i = 0; equals && i < KINDS; i++) {
        if (strlen(kinds[i].name) == (size_t)(equals - word) && memcmp(kinds[i].name, word, strlen(kinds[i].name)) == 0) {
            kinds[i].rate = strtod(equals + 1, NULL);
            return true;
        }
    }
    return false;
}

#endif
