/*
 * How a port of the origin behaves, and the commands that say so. The words behind the port's number:
 *
 *   normal                              as at the start
 *   delay fixed 5ms                     each answer comes 5 ms after its request was whole
 *   delay exponential 5ms               of this mean
 *   delay lognormal 5ms 0.5             of this median and sigma
 *   delay uniform 1ms 9ms               between the two
 *   fail status 500                     this answer (500 to 599) at once
 *   fail reset                          RST once the request was read
 *   fail close                          FIN without a byte
 *   fail cut                            half of the body, then FIN
 *   fail hang                           reads on and never answers
 *   fail refuse                         connects are refused and connections reset, until the next `fail` or `normal`
 *   slots 16                            serves so many requests at a time; the others wait in a queue
 *   count                               requests 12 delayed 3 failed 4 waiting 0 serving 2
 *
 * `delay` and all of `fail` but `refuse` take a share at the end, `share 0.25`: the rest is not delayed, or does
 * not fail. A port may have all three: a request waits for its slot, then fails at once or is answered after its
 * delay. A time is a number and one of us, ms, s.
 */
#ifndef ORIGIN_BEHAVIOUR_H
#define ORIGIN_BEHAVIOUR_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "origin_delay.h"

enum failure { FAIL_NOTHING, FAIL_STATUS, FAIL_RESET, FAIL_CLOSE, FAIL_CUT, FAIL_HANG, FAIL_REFUSE };

struct behaviour {
    struct delay delay;
    double delay_share;
    enum failure failure;
    double fail_share;
    int fail_status;
    int slots;          /* requests served at a time; 0: no bound */
};

enum { WORDS_A_COMMAND = 8 };

struct words {
    char *word[WORDS_A_COMMAND];
    int count;
};

struct complaint {
    char text[256];
};

static inline bool is_special(const struct behaviour *behaviour)
{
    return behaviour->delay.shape != DELAY_NONE || behaviour->failure != FAIL_NOTHING || behaviour->slots;
}

__attribute__((format(printf, 2, 3)))
static inline bool complain(struct complaint *complaint, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(complaint->text, sizeof complaint->text, format, values);
    va_end(values);
    return false;
}

/* Cuts the line into its words, in place. False: more than a command has. */
static inline bool split_words(char *line, struct words *words)
{
    char *rest = NULL;
    words->count = 0;
    for (char *word = strtok_r(line, " \t\r\n", &rest); word; word = strtok_r(NULL, " \t\r\n", &rest)) {
        if (words->count == WORDS_A_COMMAND)
            return false;
        words->word[words->count++] = word;
    }
    return true;
}

/* A decimal number at the start of the text; NULL, or where it ends. `strtod` alone takes `inf`, `nan`, `0x1p3`. */
static inline char *parse_number(char *text, double *number)
{
    char *end = text + strspn(text, "0123456789."), *stop;
    *number = strtod(text, &stop);
    return end > text && stop == end ? end : NULL;
}

static inline bool parse_time(char *text, double *ns)
{
    static const struct { const char *name; double ns; } units[] = {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    char *unit = parse_number(text, ns);
    for (size_t i = 0; unit && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, units[i].name) == 0) {
            *ns *= units[i].ns;
            return *ns <= DELAY_LONGEST_NS;
        }
    }
    return false;
}

/* A whole number from `least` to `most`. */
static inline bool parse_whole(const char *text, long least, long most, int *whole)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < least || value > most)
        return false;
    *whole = (int)value;
    return true;
}

/* Takes `share S` off the end of the words, if it is there. */
static inline bool parse_share(struct words *words, double *share, struct complaint *complaint)
{
    char *text, *end;
    *share = 1;
    if (words->count < 2 || strcmp(words->word[words->count - 2], "share") != 0)
        return true;
    text = words->word[words->count - 1];
    end = parse_number(text, share);
    if (!end || *end || *share > 1)
        return complain(complaint, "share '%.40s' is no number from 0 to 1", text);
    words->count -= 2;
    return true;
}

/* words: PORT delay SHAPE VALUE [VALUE] */
static inline bool parse_delay(const struct words *words, struct delay *delay, struct complaint *complaint)
{
    static const struct { const char *name; enum delay_shape shape; int values; } shapes[] = {
        {"fixed", DELAY_FIXED, 1}, {"exponential", DELAY_EXPONENTIAL, 1},
        {"lognormal", DELAY_LOGNORMAL, 2}, {"uniform", DELAY_UNIFORM, 2},
    };
    const char *name = words->count > 2 ? words->word[2] : "";
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        char *end = "";
        if (strcmp(name, shapes[i].name) != 0)
            continue;
        *delay = (struct delay){.shape = shapes[i].shape};
        if (words->count != 3 + shapes[i].values)
            return complain(complaint, "delay %s takes %d value(s)", name, shapes[i].values);
        if (!parse_time(words->word[3], &delay->first))
            return complain(complaint, "'%.40s' is no time up to an hour such as 500us, 5ms, 1.5s", words->word[3]);
        if (delay->shape == DELAY_LOGNORMAL)
            end = parse_number(words->word[4], &delay->second);
        if (!end || *end || delay->second > 10)
            return complain(complaint, "sigma '%.40s' is no number from 0 to 10", words->word[4]);
        if (delay->shape == DELAY_UNIFORM
            && (!parse_time(words->word[4], &delay->second) || delay->second < delay->first))
            return complain(complaint, "'%.40s' is no time from %.40s up to an hour", words->word[4], words->word[3]);
        return true;
    }
    return complain(complaint, "unknown delay '%.40s'; known: fixed, exponential, lognormal, uniform", name);
}

/* words: PORT fail KIND [STATUS] */
static inline bool parse_failure(const struct words *words, struct behaviour *behaviour, struct complaint *complaint)
{
    static const char *const names[] = {
        [FAIL_STATUS] = "status", [FAIL_RESET] = "reset", [FAIL_CLOSE] = "close",
        [FAIL_CUT] = "cut", [FAIL_HANG] = "hang", [FAIL_REFUSE] = "refuse",
    };
    const char *name = words->count > 2 ? words->word[2] : "";
    for (int kind = FAIL_STATUS; kind <= FAIL_REFUSE; kind++) {
        if (strcmp(name, names[kind]) != 0)
            continue;
        behaviour->failure = (enum failure)kind;
        if (kind == FAIL_STATUS
            && (words->count != 4 || !parse_whole(words->word[3], 500, 599, &behaviour->fail_status)))
            return complain(complaint, "fail status takes one status from 500 to 599");
        if (kind != FAIL_STATUS && words->count != 3)
            return complain(complaint, "fail %s takes no value", name);
        if (kind == FAIL_REFUSE && behaviour->fail_share < 1)
            return complain(complaint, "fail refuse takes no share: it is about the whole port");
        return true;
    }
    return complain(complaint, "unknown failure '%.40s'; known: status, reset, close, cut, hang, refuse", name);
}

/* Changes `behaviour` as the words behind the port say. False, with a complaint: it is then not to be used. */
static inline bool parse_behaviour(struct words *words, struct behaviour *behaviour, struct complaint *complaint)
{
    const char *verb = words->count > 1 ? words->word[1] : "";
    if (strcmp(verb, "normal") == 0) {
        *behaviour = (struct behaviour){0};
        return words->count == 2 || complain(complaint, "normal takes no value");
    }
    if (strcmp(verb, "delay") == 0)
        return parse_share(words, &behaviour->delay_share, complaint)
            && parse_delay(words, &behaviour->delay, complaint);
    if (strcmp(verb, "fail") == 0)
        return parse_share(words, &behaviour->fail_share, complaint) && parse_failure(words, behaviour, complaint);
    if (strcmp(verb, "slots") == 0)
        return (words->count == 3 && parse_whole(words->word[2], 1, 1000000, &behaviour->slots))
            || complain(complaint, "slots takes one number from 1 to 1000000");
    return complain(complaint, "unknown command '%.40s'; known: normal, delay, fail, slots, count", verb);
}

#endif
