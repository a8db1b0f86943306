/*
 * What the toxic proxy does to a connection, and the commands that say so. The words behind the port's number:
 *
 *   none                            passes everything on
 *   latency 20ms 5ms                each piece waits so long, plus or minus the jitter, either way
 *   bandwidth 20000                 bytes a second, either way
 *   stall request|response N        passes N bytes that way, then nothing either way
 *   reset request|response N        passes N bytes that way, then RST to the client
 *   cut request|response N          passes N bytes that way, then FIN to the client; reads on
 *   slow-close N 50ms               passes N bytes of the response; the FIN follows so much later
 *   garbage inside N BYTES          passes N bytes of the response, then so many random ones, then the rest
 *   garbage instead N BYTES         passes N bytes of the response, then so many random ones, then FIN
 *   garbage behind N BYTES          random bytes in one piece with the N-th piece of the response
 *   accept-close                    closes what it accepted
 *   refuse                          connects are refused, connections are reset, until the next command
 *   count                           accepted 12 applied 3 open 4
 *
 * N is a number, a range `0-99` (drawn for each connection) or `0+99` (each connection takes the next one, and after
 * the last the first). All but `none`, `refuse` and `count` take a share at the end, `share 0.25`: the other
 * connections are passed on. With `also` before it a toxic joins those in force; each connection draws one of them.
 */
#ifndef TOXIC_PLAN_H
#define TOXIC_PLAN_H

#include "../../bench/origin_behaviour.h"

enum toxic_kind {
    NONE, LATENCY, BANDWIDTH, STALL, RESET, CUT, SLOW_CLOSE, GARBAGE_INSIDE, GARBAGE_INSTEAD, GARBAGE_BEHIND,
    ACCEPT_CLOSE, REFUSE,
};
enum way { REQUEST, RESPONSE };
enum { MOST_TOXICS = 24 };

struct toxic {
    enum toxic_kind kind;
    enum way way;
    bool in_turn;       /* the offset goes up from connection to connection */
    int first, last;    /* of the offsets */
    int next;
    double amount;      /* ns, bytes a second, or bytes */
    double jitter;      /* ns */
    double share;
};

struct plan {
    struct toxic toxics[MOST_TOXICS];
    int count;
};

static inline bool parse_offset(char *text, struct toxic *toxic, struct complaint *complaint)
{
    char *sign = strpbrk(text, "-+"), *last = sign ? sign + 1 : text;
    toxic->in_turn = sign && *sign == '+';
    if (sign)
        *sign = '\0';
    if (!parse_whole(text, 0, 1 << 30, &toxic->first) || !parse_whole(last, toxic->first, 1 << 30, &toxic->last))
        return complain(complaint, "'%.40s' is no offset such as 5, 0-99, 0+99", text);
    toxic->next = toxic->first;
    return true;
}

static inline bool parse_amount(char *text, double *amount)
{
    char *end = parse_number(text, amount);
    return end && !*end && *amount >= 1;
}

/* words: PORT KIND WAY N */
static inline bool parse_way(struct words *words, struct toxic *toxic, struct complaint *complaint)
{
    if (words->count != 4)
        return complain(complaint, "%.40s takes a way and an offset", words->word[1]);
    toxic->way = strcmp(words->word[2], "request") == 0 ? REQUEST : RESPONSE;
    if (toxic->way == RESPONSE && strcmp(words->word[2], "response") != 0)
        return complain(complaint, "'%.40s' is no way; known: request, response", words->word[2]);
    return parse_offset(words->word[3], toxic, complaint);
}

static inline bool parse_garbage(struct words *words, struct toxic *toxic, struct complaint *complaint)
{
    static const struct { const char *name; enum toxic_kind kind; } places[] = {
        {"inside", GARBAGE_INSIDE}, {"instead", GARBAGE_INSTEAD}, {"behind", GARBAGE_BEHIND},
    };
    for (size_t i = 0; words->count == 5 && i < sizeof places / sizeof places[0]; i++) {
        if (strcmp(words->word[2], places[i].name) != 0)
            continue;
        toxic->kind = places[i].kind;
        return parse_offset(words->word[3], toxic, complaint)
            && (parse_amount(words->word[4], &toxic->amount) || complain(complaint, "garbage takes a number of bytes"));
    }
    return complain(complaint, "garbage takes inside, instead or behind, an offset and a number of bytes");
}

static inline bool parse_one_toxic(struct words *words, struct toxic *toxic, struct complaint *complaint)
{
    static const struct { const char *name; enum toxic_kind kind; } known[] = {
        {"latency", LATENCY}, {"bandwidth", BANDWIDTH}, {"stall", STALL}, {"reset", RESET}, {"cut", CUT},
        {"slow-close", SLOW_CLOSE}, {"garbage", GARBAGE_INSIDE}, {"accept-close", ACCEPT_CLOSE}, {"refuse", REFUSE},
    };
    const char *name = words->count > 1 ? words->word[1] : "";
    toxic->way = RESPONSE;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0)
            toxic->kind = known[i].kind;
    switch (toxic->kind) {
    case STALL: case RESET: case CUT:
        return parse_way(words, toxic, complaint);
    case GARBAGE_INSIDE:
        return parse_garbage(words, toxic, complaint);
    case LATENCY:
        return (words->count == 4 && parse_time(words->word[2], &toxic->amount)
                && parse_time(words->word[3], &toxic->jitter))
            || complain(complaint, "latency takes two times: the mean and the jitter");
    case BANDWIDTH:
        return (words->count == 3 && parse_amount(words->word[2], &toxic->amount))
            || complain(complaint, "bandwidth takes bytes a second");
    case SLOW_CLOSE:
        return words->count == 4 && parse_time(words->word[3], &toxic->amount)
            ? parse_offset(words->word[2], toxic, complaint)
            : complain(complaint, "slow-close takes an offset and a time");
    case ACCEPT_CLOSE: case REFUSE:
        return words->count == 2 || complain(complaint, "%.40s takes no value", name);
    default:
        return complain(complaint, "unknown toxic '%.40s'; see the head of toxic_plan.h", name);
    }
}

/* Changes the plan as the words behind the port say. False, with a complaint: it is as it was. */
static inline bool parse_toxic(struct words *words, struct plan *plan, struct complaint *complaint)
{
    struct toxic toxic = {0};
    bool also = words->count > 1 && strcmp(words->word[1], "also") == 0;
    if (words->count == 2 && strcmp(words->word[1], "none") == 0) {
        plan->count = 0;
        return true;
    }
    if (also) {
        words->count--;
        for (int i = 1; i < words->count; i++)
            words->word[i] = words->word[i + 1];
    }
    if (!parse_share(words, &toxic.share, complaint) || !parse_one_toxic(words, &toxic, complaint))
        return false;
    if (!also)
        plan->count = 0;
    if (plan->count == MOST_TOXICS)
        return complain(complaint, "there are %d toxics already", MOST_TOXICS);
    plan->toxics[plan->count++] = toxic;
    return true;
}

/* What a new connection gets. `offset` is where it happens. */
static inline struct toxic draw_toxic(struct plan *plan, uint64_t *random, int *offset)
{
    struct toxic *toxic;
    *offset = 0;
    if (!plan->count)
        return (struct toxic){.kind = NONE};
    toxic = &plan->toxics[next_random(random) % (uint64_t)plan->count];
    if (random_share(random) >= toxic->share)
        return (struct toxic){.kind = NONE};
    *offset = toxic->first + (int)(next_random(random) % (uint64_t)(toxic->last - toxic->first + 1));
    if (toxic->in_turn) {
        *offset = toxic->next;
        toxic->next = toxic->next == toxic->last ? toxic->first : toxic->next + 1;
    }
    return *toxic;
}

#endif
