/*
 * The sessions of the load of the soak run: a connection with what is asked over it, how it is sent, and how its end
 * is counted.
 */
#ifndef SOAK_SESSION_H
#define SOAK_SESSION_H

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/queue.h>

#include "soak_kinds.h"

enum { PIECE = 16 * 1024, OUT_ROOM = 48 * 1024, HEAD_ROOM = 4096, MOST_IDLE = 64, FAILURES_SHOWN = 60 };

struct session {
    int fd;                     /* -1: gone, freed at the end of the turn */
    uint32_t watched;
    struct kind *kind;          /* NULL: kept, idle */
    struct plan plan;
    bool known;                 /* to epoll */
    bool connecting, finishing; /* finishing: an echo that has sent its FIN */
    int uses_left;
    u64 begun_ns, deadline_ns, idle_ns, sent, received;
    /* what is sent */
    char out[OUT_ROOM];
    size_t out_from, out_count;
    int making;                 /* the ask that is being written */
    bool head_made;
    u64 body_made;
    /* what is received */
    char head[HEAD_ROOM + 1];
    size_t head_bytes;
    int reading;                /* the ask whose answer is due */
    bool in_body, close_after;
    struct reader body;
    u64 body_seen;
    int status;
    bool echoing;
    u64 echo_end_ns, message_ns, echo_made, echo_seen;
    TAILQ_ENTRY(session) link;
};
TAILQ_HEAD(sessions, session);

static struct sessions active = TAILQ_HEAD_INITIALIZER(active), idle = TAILQ_HEAD_INITIALIZER(idle),
                       dead = TAILQ_HEAD_INITIALIZER(dead);
static u64 now, start_ns;
static int poller, idle_count, failures_shown;
static volatile sig_atomic_t stopped;

/* ---- the account ----------------------------------------------------------------------------------------- */

static bool explained(const struct kind *kind, enum result result)
{
    return kind->trust == SPOILT ? result != WRONG : kind->trust == DYING && result >= STATUS;
}

static void show_failure(const struct session *session, const struct ask *ask, enum result result)
{
    if (explained(session->kind, result) || failures_shown++ >= FAILURES_SHOWN)
        return;
    printf("FAIL at %.3f s after %.1f ms: %s: %s %s%014llx %s, status %d, %llu bytes sent, %llu received, body %llu of %llu, echo %llu of %llu\n",
           (double)(now - start_ns) / 1e9, (double)(now - session->begun_ns) / 1e6, session->kind->name, ask->method,
           ask->path, ask->id, result_names[result], session->status, session->sent, session->received,
           session->body_seen, ask->wanted, session->echo_seen, session->echo_made);
    printf("     head: %.*s\n", (int)session->head_bytes, session->head);
    fflush(stdout);
}

static void count_result(struct session *session, const struct ask *ask, enum result result)
{
    struct counts *counts = session->kind->counts;
    char text[NAME_BYTES];
    size_t length = 0;
    const char *code = session->head_bytes ? head_field(session->head, session->head_bytes, "x-fastmesh-error", &length)
                                           : NULL;
    if (result == OK) {
        counts->ok++;
        count_latency(counts, (now - session->begun_ns) / 1000);
        return;
    }
    if (result <= PROTOCOL && !explained(session->kind, result))
        counts->mismatched++;
    else
        counts->failed++;
    snprintf(text, sizeof text, "status %d", session->status);
    if (result == STATUS && code)
        count_cause(counts, code, length);
    else
        count_cause(counts, result == STATUS ? text : result_names[result],
                    strlen(result == STATUS ? text : result_names[result]));
    show_failure(session, ask, result);
}

/* ---- connections ----------------------------------------------------------------------------------------- */

static void watch(struct session *session, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = session};
    if (session->known && session->watched == events)
        return;
    if (epoll_ctl(poller, session->known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, session->fd, &event) < 0)
        die("epoll_ctl");
    session->known = true;
    session->watched = events;
}

static void watch_what_is_due(struct session *session)
{
    uint32_t events = 0;
    if (session->fd < 0)
        return;
    if (session->connecting || (session->out_from < session->out_count && now >= session->plan.sending.due_ns))
        events |= EPOLLOUT;
    if (!session->connecting && now >= session->plan.reading.due_ns)
        events |= EPOLLIN;
    watch(session, events);
}

static void drop(struct session *session, bool by_reset)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (by_reset)
        setsockopt(session->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(session->fd);
    session->fd = -1;
    if (session->kind) {
        session->kind->counts->active--;
        session->kind->counts->bytes_sent += session->sent;
        session->kind->counts->bytes_received += session->received;
        TAILQ_REMOVE(&active, session, link);
    } else {
        idle_count--;
        TAILQ_REMOVE(&idle, session, link);
    }
    TAILQ_INSERT_TAIL(&dead, session, link);
}

/* All that is not answered ends so. */
static void fail(struct session *session, enum result result)
{
    while (session->reading < session->plan.count) {
        count_result(session, &session->plan.asks[session->reading++], result);
        session->head_bytes = 0;
        session->status = 0;
    }
    drop(session, result == TIMEOUT);       /* a FIN would say that the answer may still come */
}

static void leave(struct session *session)
{
    session->kind->counts->left += (u64)(session->plan.count - session->reading);
    drop(session, session->plan.by_reset);
}

/* Everything is answered. */
static void end_session(struct session *session)
{
    struct kind *kind = session->kind;
    bool whole = session->making == session->plan.count && session->out_from == session->out_count;
    if (kind->fresh || session->close_after || !whole || --session->uses_left <= 0 || stopped || idle_count >= MOST_IDLE) {
        drop(session, false);
        return;
    }
    kind->counts->active--;
    kind->counts->bytes_sent += session->sent;
    kind->counts->bytes_received += session->received;
    TAILQ_REMOVE(&active, session, link);
    session->kind = NULL;
    session->idle_ns = now;
    idle_count++;
    TAILQ_INSERT_TAIL(&idle, session, link);
    watch(session, EPOLLIN);
}

/* ---- sending --------------------------------------------------------------------------------------------- */

static size_t write_head(char *to, const struct ask *ask)
{
    char id[ID_LINE] = {0}, framing[64] = "";
    id_write(id, ask->id);
    if (ask->sends == COUNTED)
        snprintf(framing, sizeof framing, "Content-Length: %llu\r\n", ask->body);
    else if (ask->sends == CHUNKED)
        snprintf(framing, sizeof framing, "Transfer-Encoding: chunked\r\n");
    return (size_t)snprintf(to, HEAD_ROOM, "%s %s%s HTTP/1.%d\r\nHost: soak\r\nx-soak: %d %s %llu\r\n%s%s\r\n", ask->method,
                            ask->path, id, ask->old ? 0 : 1, ask->status, ask->form, ask->wanted, framing, ask->fields);
}

/* Fills `out`, which is empty, with as much of the requests as there is room for. */
static void make_more(struct session *session)
{
    session->out_from = session->out_count = 0;
    while (session->making < session->plan.count) {
        const struct ask *ask = &session->plan.asks[session->making];
        u64 left = ask->body - session->body_made;
        size_t bytes = left < PIECE ? (size_t)left : (size_t)draw_between(1, PIECE);
        if (session->out_count + HEAD_ROOM + bytes + CHUNK_HEAD + 8 > OUT_ROOM)
            return;
        if (!session->head_made) {
            session->out_count += write_head(session->out + session->out_count, ask);
            session->head_made = true;
        }
        if (bytes)
            session->out_count += piece_write(session->out + session->out_count, ask->sends == CHUNKED, ask->id,
                                              session->body_made, bytes);
        session->body_made += bytes;
        if (session->body_made < ask->body)
            continue;
        if (ask->sends == CHUNKED) {
            memcpy(session->out + session->out_count, "0\r\n\r\n", 5);
            session->out_count += 5;
        }
        session->making++;
        session->head_made = false;
        session->body_made = 0;
    }
}

static bool has_left(struct session *session)
{
    const struct plan *plan = &session->plan;
    if (!plan->leaves || (session->sent < plan->leave_sent && session->received < plan->leave_received
                          && now - session->begun_ns < plan->leave_ns))
        return false;
    leave(session);
    return true;
}

static void send_more(struct session *session)
{
    struct pace *pace = &session->plan.sending;
    while (!session->connecting && now >= pace->due_ns) {
        size_t bytes;
        ssize_t sent;
        if (session->out_from == session->out_count)
            make_more(session);
        bytes = session->out_count - session->out_from;
        if (!bytes)
            break;
        if (pace->step && pace->step < bytes)
            bytes = pace->step;
        sent = send(session->fd, session->out + session->out_from, bytes, MSG_NOSIGNAL);
        if (sent < 0)           /* an error is seen by reading: an answer may lie there */
            break;
        session->out_from += (size_t)sent;
        session->sent += (u64)sent;
        if (pace->step)
            pace->due_ns = now + pace->gap_ns;
        if (has_left(session))
            return;
    }
    watch_what_is_due(session);
}

#endif
