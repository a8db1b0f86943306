"""Who is left out, for how long, and how it comes back: the passive side of an endpoint's health.

An endpoint that takes no connections is left out at once, one whose answers are bad after so many in a row (Envoy's
outlier detection); each time in a row for twice as long. Then it is half open: one request, the *probe*, goes to it, while
for all others it is still down; its answer decides. All of it lies in ``slot_t``, in relaxed atomics that every worker
writes: a race between two workers costs one failure more or less, never the word's consistency (it changes by
compare-and-swap, and who changed it writes the rest).
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastmesh._native.base.limits cimport RAMP_FIRST_SHARE, SLOW_STREAK
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.lb_t cimport lb_t
from fastmesh._native.net.snap_t cimport service_t
from fastmesh._native.sys.atomics cimport (
    fm_add_relaxed_u32,
    fm_cas_u64,
    fm_load_relaxed_u32,
    fm_load_relaxed_u64,
    fm_store_relaxed_u32,
    fm_unlikely,
)

# Why an endpoint was left out, beside FM_E_… of an attempt
cdef enum reason_t:
    REASON_STATUS = 1000  # plus the status
    REASON_SUCCESS_RATE = 2000
    REASON_SLOW = 2001  # clients gave up on it

cdef enum: SHARE_SHIFT = 40
cdef enum: SHARE_MASK = 0xFF


cdef inline uint64_t health_without_time(uint64_t word) noexcept nogil:
    return word & ~<uint64_t> 0xFFFFFFFF


cdef inline uint64_t health_with_share(uint64_t word, uint64_t share) noexcept nogil:
    return (word & ~(<uint64_t> SHARE_MASK << SHARE_SHIFT)) | (share << SHARE_SHIFT)


cdef inline bint health_is_down(uint64_t word, uint32_t now_ms) noexcept nogil:
    return <uint32_t> word != 0 and <int32_t> (<uint32_t> word - now_ms) > 0


cdef inline bint health_is_half_open(uint64_t word, uint32_t now_ms) noexcept nogil:
    return <uint32_t> word != 0 and <int32_t> (<uint32_t> word - now_ms) <= 0


# ---------------------------------------------------------------- slow start

cdef inline bint health_ramp_begin(slot_t *slot, uint32_t ramp_ms, uint32_t now_ms, uint64_t word, uint64_t next) noexcept nogil:
    """Changes the word from ``word`` to ``next``, with the first share of a slow start; False: it has changed meanwhile."""
    next = health_with_share(next, RAMP_FIRST_SHARE if ramp_ms else 0)
    if not fm_cas_u64(&slot.health, word, next):
        return False
    fm_store_relaxed_u32(&slot.ramp_start_ms, now_ms)
    fm_store_relaxed_u32(&slot.ramp_ms, ramp_ms)
    return True


cdef inline void health_ramp_step(slot_t *slot, uint32_t now_ms) noexcept nogil:
    """Moves a slow start on, if there is one: the share grows with the time."""
    cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
    cdef uint64_t share = 0
    cdef uint32_t passed, whole
    if not (word >> SHARE_SHIFT) & SHARE_MASK:
        return
    passed = now_ms - fm_load_relaxed_u32(&slot.ramp_start_ms)
    whole = fm_load_relaxed_u32(&slot.ramp_ms)
    if passed < whole:
        share = <uint64_t> passed * 255 // whole
        if share < RAMP_FIRST_SHARE:
            share = RAMP_FIRST_SHARE
    if share != (word >> SHARE_SHIFT) & SHARE_MASK:
        fm_cas_u64(&slot.health, word, health_with_share(word, share))


# ---------------------------------------------------------------- out

cdef inline uint32_t health_count_out(const lb_t *lb) noexcept nogil:
    """How many endpoints are left out, half-open ones among them: until its probe one is not back."""
    cdef uint32_t i, count = 0
    for i in range(lb.n):
        count += <uint32_t> fm_load_relaxed_u64(&lb.slots[i].health) != 0
    return count


cdef inline bint health_may_eject(const lb_t *lb, uint32_t most_permille) noexcept nogil:
    """Whether one more endpoint may be left out for its answers: so large a share of all, rounded up, and never all."""
    cdef uint32_t most = <uint32_t> ((<uint64_t> lb.n * most_permille + 999) // 1000)
    if most + 1 > lb.n:
        most = lb.n - 1 if lb.n else 0
    return most != 0 and health_count_out(lb) < most


cdef inline bint health_eject(slot_t *slot, uint32_t base_ms, uint32_t max_ms, uint32_t now_ms, uint32_t reason, bint probed) noexcept nogil:
    """Leaves the endpoint out. ``probed``: its probe failed. False: it is left out already.

    The time doubles with each ejection in a row; it starts anew after the endpoint was in for as long as it was out."""
    cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
    cdef uint32_t times = fm_load_relaxed_u32(&slot.ejections)
    cdef uint32_t last_ms = fm_load_relaxed_u32(&slot.ejected_for_ms)
    cdef uint64_t pause = base_ms
    cdef uint32_t until
    if health_is_down(word, now_ms) and not probed:
        return False
    if not probed and now_ms - fm_load_relaxed_u32(&slot.ejected_ms) > 2 * last_ms:
        times = 0
    pause = pause << (times if times < 20 else 20)
    if pause > max_ms:
        pause = max_ms
    until = now_ms + <uint32_t> pause
    if not fm_cas_u64(&slot.health, word, health_with_share(health_without_time(word), 0) | (until if until != 0 else 1)):
        return False
    fm_store_relaxed_u32(&slot.ejected_ms, now_ms)
    fm_store_relaxed_u32(&slot.ejected_for_ms, <uint32_t> pause)
    fm_store_relaxed_u32(&slot.ejections, times + 1)
    fm_store_relaxed_u32(&slot.reason, reason)
    fm_store_relaxed_u32(&slot.bad_5xx, 0)
    fm_store_relaxed_u32(&slot.bad_gateway, 0)
    fm_store_relaxed_u32(&slot.given_up, 0)
    fm_add_relaxed_u32(&slot.ejected_total, 1)
    return True


cdef inline bint health_connect_failed(slot_t *slot, const service_t *service, uint32_t now_ms, uint32_t reason, bint probed) noexcept nogil:
    """It takes no connections: out at once, whatever the others are. True: it is left out now and was not before."""
    return health_eject(slot, service.eject_base_ms, service.eject_max_ms, now_ms, reason, probed)


cdef inline bint health_judges_answers(const service_t *service) noexcept nogil:
    """Else only an endpoint that takes no connections is left out, and one that takes them is back."""
    return service.eject_5xx != 0 or service.eject_gateway != 0


cdef inline bint health_bad(slot_t *slot, const service_t *service, uint32_t now_ms, uint32_t reason, bint gateway, bint probed) noexcept nogil:
    """A 5xx, or with ``gateway`` a failure on the way. True: the endpoint is left out now and was not before."""
    cdef bint many
    if not health_judges_answers(service):
        return False
    if probed:
        return health_eject(slot, service.eject_base_ms, service.eject_max_ms, now_ms, reason, True)
    many = service.eject_5xx != 0 and fm_add_relaxed_u32(&slot.bad_5xx, 1) + 1 >= service.eject_5xx
    if gateway and service.eject_gateway != 0:
        many |= fm_add_relaxed_u32(&slot.bad_gateway, 1) + 1 >= service.eject_gateway
    if not many or not health_may_eject(service.lb, service.eject_most):
        return False
    return health_eject(slot, service.eject_base_ms, service.eject_max_ms, now_ms, reason, False)


cdef inline bint health_slow(slot_t *slot, const service_t *service, uint32_t now_ms, bint probed) noexcept nogil:
    """A client gave up on it. True: the endpoint is left out now and was not before: several did in a row, and on no other
    endpoint, for then it would be the request that takes long."""
    cdef uint32_t i
    if not probed:
        if fm_add_relaxed_u32(&slot.given_up, 1) + 1 < SLOW_STREAK or not health_may_eject(service.lb, service.eject_most):
            return False
        for i in range(service.lb.n):
            if service.lb.slots[i] != slot and fm_load_relaxed_u32(&service.lb.slots[i].given_up) != 0:
                return False
    return health_eject(slot, service.eject_base_ms, service.eject_max_ms, now_ms, REASON_SLOW, probed)


# ---------------------------------------------------------------- and back

cdef inline bint health_probe_claim(slot_t *slot, uint32_t now_ms, uint32_t lease_ms) noexcept nogil:
    """Makes the caller's request the probe of a half-open endpoint: for ``lease_ms`` it is down for all others. False:
    somebody else was faster."""
    cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
    cdef uint32_t until = now_ms + lease_ms
    if not health_is_half_open(word, now_ms):
        return False
    return fm_cas_u64(&slot.health, word, health_without_time(word) | (until if until != 0 else 1))


cdef inline void health_probe_release(slot_t *slot, uint32_t now_ms, uint32_t half_open_ms) noexcept nogil:
    """The claimed probe was not made: another request may be it at once. The endpoint was half open since ``half_open_ms``."""
    cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
    if health_is_down(word, now_ms):
        fm_cas_u64(&slot.health, word, health_without_time(word) | half_open_ms)


cdef inline bint health_good(slot_t *slot, uint32_t slow_start_ms, uint32_t now_ms, uint32_t sent_ms) noexcept nogil:
    """A good answer to an attempt that began at ``sent_ms``. True: the endpoint is back; one that was sent before it was
    left out proves nothing."""
    cdef uint64_t word
    if fm_unlikely(fm_load_relaxed_u32(&slot.bad_5xx) != 0):
        fm_store_relaxed_u32(&slot.bad_5xx, 0)
    if fm_unlikely(fm_load_relaxed_u32(&slot.bad_gateway) != 0):
        fm_store_relaxed_u32(&slot.bad_gateway, 0)
    if fm_unlikely(fm_load_relaxed_u32(&slot.given_up) != 0):
        fm_store_relaxed_u32(&slot.given_up, 0)
    word = fm_load_relaxed_u64(&slot.health)
    if <uint32_t> word == 0 or <int32_t> (sent_ms - fm_load_relaxed_u32(&slot.ejected_ms)) < 0:
        return False
    return health_ramp_begin(slot, slow_start_ms, now_ms, word, health_without_time(word))


# ---------------------------------------------------------------- told to another process

ctypedef struct told_t:
    uint32_t out  # 1: left out, or half open
    uint32_t out_ms  # for how much longer; 0: half open
    uint32_t ejections
    uint32_t ejected_ago_ms
    uint32_t ejected_for_ms
    uint32_t reason
    uint32_t bad_5xx
    uint32_t bad_gateway
    uint32_t given_up
    uint32_t ramp_ms  # 0: no slow start
    uint32_t ramp_ago_ms


cdef inline bint health_tell(const slot_t *slot, uint32_t now_ms, told_t *told) noexcept nogil:
    """All that led to the endpoint's state, as durations. False: it is as a new one."""
    cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
    told.out = <uint32_t> word != 0
    told.out_ms = <uint32_t> word - now_ms if health_is_down(word, now_ms) else 0
    told.ejections = fm_load_relaxed_u32(&slot.ejections)
    told.ejected_ago_ms = now_ms - fm_load_relaxed_u32(&slot.ejected_ms) if told.ejections else 0
    told.ejected_for_ms = fm_load_relaxed_u32(&slot.ejected_for_ms)
    told.reason = fm_load_relaxed_u32(&slot.reason)
    told.bad_5xx = fm_load_relaxed_u32(&slot.bad_5xx)
    told.bad_gateway = fm_load_relaxed_u32(&slot.bad_gateway)
    told.given_up = fm_load_relaxed_u32(&slot.given_up)
    told.ramp_ms = 0
    told.ramp_ago_ms = 0
    if (word >> SHARE_SHIFT) & SHARE_MASK:
        told.ramp_ms = fm_load_relaxed_u32(&slot.ramp_ms)
        told.ramp_ago_ms = now_ms - fm_load_relaxed_u32(&slot.ramp_start_ms)
    return told.out != 0 or told.ejections != 0 or told.bad_5xx != 0 or told.bad_gateway != 0 or told.given_up != 0 \
        or told.ramp_ms != 0


cdef inline void health_resume(slot_t *slot, uint32_t now_ms, const told_t *told) noexcept nogil:
    """Begins where another process was. The slot is not published yet."""
    cdef uint64_t word = fm_load_relaxed_u64(&slot.health)
    cdef uint32_t until = now_ms + told.out_ms
    fm_store_relaxed_u32(&slot.ejections, told.ejections)
    fm_store_relaxed_u32(&slot.ejected_ms, now_ms - told.ejected_ago_ms)
    fm_store_relaxed_u32(&slot.ejected_for_ms, told.ejected_for_ms)
    fm_store_relaxed_u32(&slot.reason, told.reason)
    fm_store_relaxed_u32(&slot.bad_5xx, told.bad_5xx)
    fm_store_relaxed_u32(&slot.bad_gateway, told.bad_gateway)
    fm_store_relaxed_u32(&slot.given_up, told.given_up)
    if told.out:
        fm_cas_u64(&slot.health, word, health_without_time(word) | (until if until != 0 else 1))
    elif told.ramp_ms and health_ramp_begin(slot, told.ramp_ms, now_ms - told.ramp_ago_ms, word, word):
        health_ramp_step(slot, now_ms)
