"""Load balancing (see ``lb.pxd``): the table of policies, building, adopting."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

from fastmesh._native.base.errors cimport FM_E_NO_MEMORY
from fastmesh._native.base.hash cimport hash_mix
from fastmesh._native.base.slot_t cimport slot_t
from fastmesh._native.lb.lb_t cimport (
    LB_LEAST_REQUEST, LB_MAGLEV, LB_POLICY_COUNT, LB_RANDOM, LB_RING_HASH, LB_ROUND_ROBIN, LB_WEIGHT_MAX,
    lb_ctx_t, lb_options_t, lb_state_t, lb_t,
)
from fastmesh._native.lb.least_request cimport lb_pick_least_request
from fastmesh._native.lb.maglev cimport lb_build_maglev, lb_pick_maglev
from fastmesh._native.lb.random cimport lb_build_alias, lb_pick_random
from fastmesh._native.lb.ring_hash cimport lb_build_ring, lb_pick_ring_hash
from fastmesh._native.lb.round_robin cimport (
    lb_adopt_turns, lb_build_groups, lb_compare_u64, lb_pick_round_robin, lb_turn_nodes,
)
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
    if not order_by_slot(lb):
        return False
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


cdef lb_t *lb_new(int policy, uint32_t n, slot_t **slots, const uint32_t *weights,
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
    if not copy_endpoints(lb, slots, weights) or not build_tables(lb, &policies[policy], options):
        lb_del(lb)
        return NULL
    return lb


cdef void lb_del(lb_t *lb) noexcept nogil:
    if lb == NULL:
        return
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
    free(state.cursors)
    free(state.turns)
    free(state.survivors)
    free(state.survivor_sums)
    state.cursors = NULL
    state.turns = NULL
    state.survivors = NULL
    state.survivor_sums = NULL
    state.serial = 0
    state.ngroups = 0


cdef int lb_adopt(lb_state_t *state, const lb_t *old_or_null, const lb_t *new) noexcept nogil:
    """Makes ``new`` the block of this state. ``old_or_null`` is the one that it had, as long as it is alive.
    When memory is short, nothing is changed: picks from ``new`` go by weighted random until the next attempt.
    """
    cdef lb_state_t next = state[0]
    if state.serial == new.serial:
        return 0
    if old_or_null != NULL and (old_or_null.serial != state.serial or old_or_null.ngroups == 0):
        old_or_null = NULL
    next.serial = new.serial
    next.ngroups = new.ngroups
    next.survivors_built = False
    next.survivor_count = 0
    next.cursors = <uint32_t *>malloc((<size_t>new.ngroups + 1) * sizeof(uint32_t))
    next.turns = <uint64_t *>malloc((<size_t>lb_turn_nodes(new) + 1) * sizeof(uint64_t))
    next.survivors = <uint32_t *>malloc((<size_t>new.n + 1) * sizeof(uint32_t))
    next.survivor_sums = <uint64_t *>malloc((<size_t>new.n + 1) * sizeof(uint64_t))
    if next.cursors == NULL or next.turns == NULL or next.survivors == NULL or next.survivor_sums == NULL:
        free(next.cursors)
        free(next.turns)
        free(next.survivors)
        free(next.survivor_sums)
        return -FM_E_NO_MEMORY
    lb_adopt_turns(state, old_or_null, new, &next)
    lb_state_free(state)
    state[0] = next
    return 0
