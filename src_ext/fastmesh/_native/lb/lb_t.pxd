"""Types of load balancing: a block per service, a state per worker and service, the context of a pick.

``lb_t`` is built by the control thread, read by all workers and freed by the control thread once every worker
has let go of it. It owns its arrays and borrows the slots, which live as long as the engine.
``lb_state_t`` belongs to one worker; it outlives any one ``lb_t`` (``lb_adopt`` carries it to the next).

Endpoint *indices* are positions in ``lb_t.slots``; *slot indices* (``slot_t.index``) are the engine's
numbers, stable over changes. An endpoint of weight 0 is given nothing.

A block whose endpoints have several priorities is made of *tiers*, a block for each priority (``tiers.pxd``);
its state has a state for each of them. Only ``pick`` knows: ``slots``, ``weights``, ``by_slot`` and ``n`` are
those of all endpoints, and indices are into them.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fastmesh._native.base.slot_t cimport slot_t

# Policies, `lb_t.policy`.
cdef enum:
    LB_ROUND_ROBIN = 0
    LB_RANDOM = 1
    LB_LEAST_REQUEST = 2
    LB_RING_HASH = 3
    LB_MAGLEV = 4
    LB_POLICY_COUNT = 5

cdef enum:
    LB_WEIGHT_MAX = 1 << 20  # a larger weight is taken for this one

ctypedef struct lb_options_t:
    uint32_t ring_size  # points of a ring, at least; 0: 1,024. See ring_hash.pxd for how weights scale it
    uint32_t table_size  # entries of a Maglev table, raised to the next prime; 0: 65,537
    uint32_t bounded_load  # ring_hash and maglev: most of a fair share, in 1/1000 (1250 is 125 %); 0: off

ctypedef struct lb_ctx_t:
    uint32_t now_ms  # the worker's clock, as in slot_t.health
    uint32_t ntried
    const uint32_t *tried  # borrows; slot indices that this exchange has used before
    uint64_t key  # hash of the request's key (hash_xxh64, seed 0); ring_hash and maglev
    uint32_t total_in_flight  # over the service and all workers; read only where lb_wants_total() is true
    bint has_key  # false: a random key is drawn

# One alias-method cell: stay when a 32-bit draw is below `threshold`, else go to `alias`.
ctypedef struct lb_alias_t:
    uint32_t threshold
    uint32_t alias

# Endpoints of one weight, round robin: `lb_t.members[first : first + count]`; one turn each
# `stride >> lb_t.group_bits` of virtual time.
ctypedef struct lb_group_t:
    uint32_t weight
    uint32_t first
    uint32_t count
    uint64_t stride

# A point of a ring.
ctypedef struct lb_point_t:
    uint64_t hash
    uint32_t owner  # endpoint index

ctypedef struct lb_state_t
ctypedef struct lb_t

# The endpoints of one priority.
ctypedef struct lb_tier_t:
    lb_t *lb  # owns; they alone, as a block without tiers
    uint32_t *members  # owns; for each endpoint index of `lb`, the one in the whole block

ctypedef struct lb_t:
    # set once, by lb_new
    int32_t (*pick)(const lb_t *, lb_state_t *, const lb_ctx_t *) noexcept nogil
    uint64_t serial  # never used twice, so that a state knows whether it belongs to this block
    uint32_t policy
    uint32_t n
    uint32_t bounded_load  # 1/1000; 0: off
    double fair_scale  # 1000 * total_weight, for bounded load
    uint32_t ngroups
    uint64_t total_weight
    bint equal_weights  # all n weights are the same and not 0
    slot_t **slots  # owns the array, borrows the slots
    uint32_t *weights  # owns
    uint32_t *by_slot  # owns; endpoint indices in the order of their slot indices
    lb_alias_t *alias  # owns; NULL when equal_weights
    uint32_t group_bits  # of a key in lb_state_t.turns: so many tell the group; even
    uint32_t tick_bits  # one pick is 1 << tick_bits of virtual time
    lb_group_t *groups  # owns; ngroups, heaviest first (round_robin and least_request)
    uint32_t *members  # owns; endpoint indices, group by group
    lb_point_t *ring  # owns; ring_points, by rising hash
    uint32_t *ring_index  # owns; for each value of the top bits, the first point not below it
    uint32_t ring_points
    uint32_t ring_shift
    uint32_t *table  # owns; table_size endpoint indices
    uint32_t table_size
    uint32_t priority  # of all endpoints, when there are no tiers
    uint32_t ntiers  # 0, or 2 and more: then there are no alias, groups, ring and table here
    lb_tier_t *tiers  # owns; by rising priority number

ctypedef struct lb_state_t:
    # owner worker only
    uint64_t serial  # of the block that the arrays below belong to; 0: none
    uint64_t rng
    uint32_t worker_index
    uint32_t workers
    # round robin
    uint32_t ngroups
    uint32_t *cursors  # owns; next member of each group
    # A tree of keys `due << group_bits | group`, each node the least of its four children: all leaves, then
    # all nodes above them, and so on without the root. LB_NO_TURN fills the places after the last group.
    uint64_t *turns  # owns
    uint64_t next_turn  # the root: the group whose turn is next
    # survivors: what is left when most endpoints are not usable, refreshed at most every LB_SURVIVORS_MS
    uint32_t survivor_count
    uint32_t survivors_built_ms
    uint32_t survivors_wanted  # the condition of those that are listed (lb_condition_t)
    uint32_t survivor_turn
    bint survivors_built
    uint32_t *survivors  # owns; endpoint indices
    uint64_t *survivor_sums  # owns; running sums of their weights
    # tiers: as many as the block has; a block without tiers uses the arrays above in their place
    uint32_t ntiers
    uint32_t shares_measured_ms
    bint shares_measured
    lb_state_t *tiers  # owns; in the order of lb_t.tiers
    uint32_t *tier_shares  # owns; running sums of the tiers' shares of the load, in 1/LB_WHOLE
