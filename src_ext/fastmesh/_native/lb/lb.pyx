"""Load balancing (see ``lb.pxd``): the table of policies, building, adopting."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

from fastmesh._native.base.errors cimport FM_E_NO_MEMORY
from fastmesh._native.base.hash cimport hash_mix, rng_next
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.lb_t cimport (
    LB_LEAST_REQUEST, LB_MAGLEV, LB_POLICY_COUNT, LB_RANDOM, LB_RING_HASH, LB_ROUND_ROBIN, LB_WEIGHT_MAX,
    lb_ctx_t, lb_options_t, lb_state_t, lb_t, lb_tier_t,
)
from fastmesh._native.lb.least_request cimport lb_pick_least_request
from fastmesh._native.lb.maglev cimport lb_build_maglev, lb_pick_maglev
from fastmesh._native.lb.random cimport lb_build_alias, lb_pick_random
from fastmesh._native.lb.ring_hash cimport lb_build_ring, lb_pick_ring_hash
from fastmesh._native.lb.round_robin cimport (
    lb_adopt_turns, lb_build_groups, lb_compare_u64, lb_pick_round_robin, lb_turn_nodes,
)
from fastmesh._native.lb.tiers cimport LB_TIERS_MAX, lb_pick_tiers
from fastmesh._native.sys.atomics cimport fm_add_relaxed_u64

ctypedef int32_t (*pick_t)(const lb_t *, lb_state_t *, const lb_ctx_t *) noexcept nogil


cdef struct policy_t:
    pick_t pick
    bint alias
    bint groups
    bint ring
    bint table


# A block that the state did not adopt is sampled by weight: round robin needs the alias table as well.
cdef policy_t policies[LB_POLICY_COUNT]
policies[LB_ROUND_ROBIN] = policy_t(lb_pick_round_robin, True, True, False, False)
policies[LB_RANDOM] = policy_t(lb_pick_random, True, False, False, False)
policies[LB_LEAST_REQUEST] = policy_t(lb_pick_least_request, True, True, False, False)
policies[LB_RING_HASH] = policy_t(lb_pick_ring_hash, False, False, True, False)
policies[LB_MAGLEV] = policy_t(lb_pick_maglev, False, False, False, True)

cdef uint64_t serials = 0


cdef bint order_by_slot(lb_t *lb) noexcept nogil:
    cdef uint64_t *keys = <uint64_t *>malloc((<size_t>lb.n + 1) * sizeof(uint64_t))
    cdef uint32_t i
    lb.by_slot = <uint32_t *>malloc((<size_t>lb.n + 1) * sizeof(uint32_t))
    if keys != NULL and lb.by_slot != NULL:
        for i in range(lb.n):
            keys[i] = (<uint64_t>lb.slots[i].index << 32) | i
        qsort(keys, lb.n, sizeof(uint64_t), lb_compare_u64)
        for i in range(lb.n):
            lb.by_slot[i] = <uint32_t>keys[i]
    free(keys)
    return keys != NULL and lb.by_slot != NULL


cdef bint copy_endpoints(lb_t *lb, slot_t **slots, const uint32_t *weights) noexcept nogil:
    cdef uint32_t i
    lb.slots = <slot_t **>malloc((<size_t>lb.n + 1) * sizeof(slot_t *))
    lb.weights = <uint32_t *>malloc((<size_t>lb.n + 1) * sizeof(uint32_t))
    if lb.slots == NULL or lb.weights == NULL:
        return False
    lb.equal_weights = lb.n != 0
    for i in range(lb.n):
        lb.slots[i] = slots[i]
        lb.weights[i] = min(weights[i], <uint32_t>LB_WEIGHT_MAX)
        lb.total_weight += lb.weights[i]
        lb.equal_weights = lb.equal_weights and lb.weights[i] == lb.weights[0] != 0
    lb.fair_scale = 1000.0 * <double>lb.total_weight
    return True


cdef bint build_tables(lb_t *lb, const policy_t *policy, const lb_options_t *options) noexcept nogil:
    if lb.total_weight == 0:
        return True
    if policy.alias and not lb.equal_weights and not lb_build_alias(lb):
        return False
    if policy.groups and not lb_build_groups(lb):
        return False
    if policy.ring and not lb_build_ring(lb, options.ring_size if options != NULL else 0):
        return False
    if policy.table and not lb_build_maglev(lb, options.table_size if options != NULL else 0):
        return False
    return True


cdef bint build_tier(lb_tier_t *tier, const lb_t *whole, const uint8_t *priorities, uint32_t priority,
                     const lb_options_t *options) noexcept nogil:
    """The endpoints of one priority as a block."""
    cdef slot_t **slots = <slot_t **>malloc(<size_t>whole.n * sizeof(slot_t *))
    cdef uint32_t *weights = <uint32_t *>malloc(<size_t>whole.n * sizeof(uint32_t))
    cdef uint32_t i, count = 0
    tier.members = <uint32_t *>malloc(<size_t>whole.n * sizeof(uint32_t))
    if slots != NULL and weights != NULL and tier.members != NULL:
        for i in range(whole.n):
            if priorities[i] == priority:
                slots[count] = whole.slots[i]
                weights[count] = whole.weights[i]
                tier.members[count] = i
                count += 1
        tier.lb = lb_new(<int>whole.policy, count, slots, weights, NULL, options)
        if tier.lb != NULL:
            tier.lb.priority = priority
    free(slots)
    free(weights)
    return tier.lb != NULL


cdef bint build_tiers(lb_t *lb, const uint8_t *priorities, const lb_options_t *options) noexcept nogil:
    """Nothing, where all have one priority. False when memory is short."""
    cdef uint8_t present[LB_TIERS_MAX]
    cdef uint32_t i, priority, count = 0
    if priorities == NULL or lb.n == 0:
        return True
    memset(present, 0, sizeof(present))
    for i in range(lb.n):
        count += not present[priorities[i]]
        present[priorities[i]] = True
    lb.priority = priorities[0]
    if count == 1:
        return True
    lb.tiers = <lb_tier_t *>calloc(count, sizeof(lb_tier_t))
    if lb.tiers == NULL:
        return False
    for priority in range(LB_TIERS_MAX):
        if present[priority]:
            lb.ntiers += 1
            if not build_tier(&lb.tiers[lb.ntiers - 1], lb, priorities, priority, options):
                return False
    lb.pick = lb_pick_tiers
    return True


cdef lb_t *lb_new(int policy, uint32_t n, slot_t **slots, const uint32_t *weights, const uint8_t *priorities,
                  const lb_options_t *options) noexcept nogil:
    cdef lb_t *lb
    if policy < 0 or policy >= LB_POLICY_COUNT:
        return NULL
    lb = <lb_t *>calloc(1, sizeof(lb_t))
    if lb == NULL:
        return NULL
    lb.serial = fm_add_relaxed_u64(&serials, 1) + 1
    lb.policy = policy
    lb.pick = policies[policy].pick
    lb.n = n
    if options != NULL and (policies[policy].ring or policies[policy].table):
        lb.bounded_load = options.bounded_load
    if (
        not copy_endpoints(lb, slots, weights) or not order_by_slot(lb)
        or not build_tiers(lb, priorities, options)
        or (lb.ntiers == 0 and not build_tables(lb, &policies[policy], options))
    ):
        lb_del(lb)
        return NULL
    return lb


cdef void lb_del(lb_t *lb) noexcept nogil:
    cdef uint32_t t
    if lb == NULL:
        return
    for t in range(lb.ntiers):
        lb_del(lb.tiers[t].lb)
        free(lb.tiers[t].members)
    free(lb.tiers)
    free(lb.slots)
    free(lb.weights)
    free(lb.by_slot)
    free(lb.alias)
    free(lb.groups)
    free(lb.members)
    free(lb.ring)
    free(lb.ring_index)
    free(lb.table)
    free(lb)


cdef int lb_state_init(lb_state_t *state, uint64_t seed, uint32_t worker_index,
                       uint32_t workers) noexcept nogil:
    memset(state, 0, sizeof(lb_state_t))
    state.worker_index = worker_index
    state.workers = workers if workers != 0 else 1
    state.rng = hash_mix(seed) ^ hash_mix(worker_index)
    return 0


cdef void lb_state_free(lb_state_t *state) noexcept nogil:
    """Gives the arrays back; the state can be adopted into again."""
    cdef uint32_t t
    for t in range(state.ntiers):
        lb_state_free(&state.tiers[t])
    free(state.tiers)
    free(state.tier_shares)
    free(state.cursors)
    free(state.turns)
    free(state.survivors)
    free(state.survivor_sums)
    forget_arrays(state)


cdef void forget_arrays(lb_state_t *state) noexcept nogil:
    state.cursors = NULL
    state.turns = NULL
    state.survivors = NULL
    state.survivor_sums = NULL
    state.tiers = NULL
    state.tier_shares = NULL
    state.serial = 0
    state.ngroups = 0
    state.ntiers = 0
    state.survivors_built = False
    state.survivor_count = 0
    state.shares_measured = False


cdef const lb_t *part_of(const lb_state_t *state, const lb_t *block, uint32_t priority,
                         const lb_state_t **part) noexcept nogil:
    """The block, or tier of it, whose endpoints had this priority, and ``part``, its state; NULL when none had
    it."""
    cdef uint32_t t
    part[0] = state
    if block == NULL or block.ntiers == 0:
        return block if block != NULL and block.priority == priority else NULL
    for t in range(block.ntiers):
        if block.tiers[t].lb.priority == priority:
            part[0] = &state.tiers[t]
            return block.tiers[t].lb
    return NULL


cdef bint start_part(lb_state_t *next, const lb_state_t *state, const lb_t *old,
                     const lb_t *new) noexcept nogil:
    """Makes ``next``, which has no arrays as yet, the state of a block without tiers. Turns go on where those of
    the same priority in ``old`` (or NULL) stand. False when memory is short."""
    cdef const lb_state_t *part
    old = part_of(state, old, new.priority, &part)
    next.survivor_turn = part.survivor_turn if old != NULL else 0
    if old != NULL and old.ngroups == 0:
        old = NULL
    next.serial = new.serial
    next.ngroups = new.ngroups
    next.cursors = <uint32_t *>malloc((<size_t>new.ngroups + 1) * sizeof(uint32_t))
    next.turns = <uint64_t *>malloc((<size_t>lb_turn_nodes(new) + 1) * sizeof(uint64_t))
    next.survivors = <uint32_t *>malloc((<size_t>new.n + 1) * sizeof(uint32_t))
    next.survivor_sums = <uint64_t *>malloc((<size_t>new.n + 1) * sizeof(uint64_t))
    if next.cursors == NULL or next.turns == NULL or next.survivors == NULL or next.survivor_sums == NULL:
        return False
    lb_adopt_turns(part, old, new, next)
    return True


cdef bint start_tiers(lb_state_t *next, const lb_state_t *state, const lb_t *old,
                      const lb_t *new) noexcept nogil:
    """The same for a block of tiers, each of which draws from a generator of its own."""
    cdef uint32_t t
    cdef lb_state_t *part
    next.serial = new.serial
    next.tiers = <lb_state_t *>calloc(new.ntiers, sizeof(lb_state_t))
    next.tier_shares = <uint32_t *>malloc(<size_t>new.ntiers * sizeof(uint32_t))
    if next.tiers == NULL or next.tier_shares == NULL:
        return False
    next.ntiers = new.ntiers
    for t in range(new.ntiers):
        part = &next.tiers[t]
        part.rng = rng_next(&next.rng)
        part.worker_index = next.worker_index
        part.workers = next.workers
        if not start_part(part, state, old, new.tiers[t].lb):
            return False
    return True


cdef int lb_adopt(lb_state_t *state, const lb_t *old_or_null, const lb_t *new) noexcept nogil:
    """Makes ``new`` the block of this state. ``old_or_null`` is the one that it had, as long as it is alive.
    When memory is short, nothing is changed: picks from ``new`` go by weighted random until the next attempt.
    """
    cdef lb_state_t next = state[0]
    cdef bint made
    if state.serial == new.serial:
        return 0
    if old_or_null != NULL and old_or_null.serial != state.serial:
        old_or_null = NULL
    forget_arrays(&next)
    if new.ntiers != 0:
        made = start_tiers(&next, state, old_or_null, new)
    else:
        made = start_part(&next, state, old_or_null, new)
    if not made:
        lb_state_free(&next)
        return -FM_E_NO_MEMORY
    lb_state_free(state)
    state[0] = next
    return 0
