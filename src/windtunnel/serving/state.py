"""The kernel's state: one structured array per kind of thing.

`WORLD` is a single record with the settings, the scalar part of the step cost and the clock;
`REQUEST`, `REPLICA`, `SLOT` (a running request of a replica), `BLOCK` and `CELL` (a block of a
running request) hold the rest. Integers are 64 bits wide unless an index into a replica's own
arrays suffices.

A decoding slot is kept lazily: its computed tokens are `start + tick`, where `tick` counts the
replica's steps, so a step in which all decoding requests advance touches none of them. Of a
prefilling slot `start` is the count itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PREFILL, DECODE = 0, 1
"""`SLOT.state`."""

RUNNING, DONE, OVERLOAD, DEADLINE, NEED_SPACE, STUCK, HOOK_FAILED = 0, 1, 2, 3, 4, 5, 6
"""`WORLD.status`: why the loop returned."""

IDLE, UNDER_WAY, WOKEN = 0, 1, 2
"""`REPLICA.active`: nothing to do; a step under way or just ended; about to start the first step after idling."""

NEVER = 1 << 62
"""A tick that does not come."""

_i, _f, _h = np.int64, np.float64, np.int32


def _dtype(**fields: Any) -> np.dtype[Any]:
    """A structured dtype from `type="name name ..."` groups in order."""
    return np.dtype([(name, kind) for kind, names in fields.values() for name in names.split()])


WORLD = _dtype(
    settings=(_i, "max_num_seqs budget max_model_len block_size chunked prefix ordered threshold watermark_blocks"),
    cluster=(_i, "replicas router seed draws stages depth queued usable_blocks hash_mask token_output"),
    cost=(_f, "base_s per_token_s per_context_s host_s host_request_s"),
    prefill=(_f, "prefill_step_s prefill_token_s prefill_pair_s prefill_window_s prefill_read_s"),
    prefill_tiles=(_f, "prefill_prompt_s prefill_key_s prefill_window_key_s"),
    energy=(_f, "prefill_step_j prefill_token_j prefill_pair_j prefill_window_j prefill_read_j"),
    tiles_energy=(_f, "prefill_prompt_j prefill_key_j prefill_window_key_j"),
    decode_energy=(_f, "decode_request_j decode_context_j decode_window_j"),
    kind=(_i, "linear window mixed"),
    clock=(_f, "now_s next_arrival_s deadline_s next_sample_s sample_interval_s"),
    arrivals=(_i, "next_row heap_size dynamic next_any any_rows overlap"),
    loop=(_i, "events pending status max_waiting rejected"),
    totals=(_i, "prefix_queries prefix_hits"),
    log=(_i, "recording steps entries preempted samples"),
    choices=(_i, "reserve variant swaps host_blocks swap_group swap_reuse swap_overlap levels update_steps history"),
    amounts=(_f, "swap_block_s swap_call_s quantum_s starve_s input_weight output_weight"),
    ratios=(_f, "ratio_first ratio_least ratio_steps"),
    ahead=(_i, "asynchronous draft_tokens draft_slots lookahead drop_block by_batch listed recent agreeing"),
    drafts=(_i, "draft_octaves draft_classes draft_passes draft_model draft_one_pass draft_beside"),
    draft_rows=(_i, "draft_token_row draft_head_row draft_further_row draft_decode_row draft_further_decode_row"),
    draft_cost=(
        _f,
        "draft_step_s draft_prefill_step_s draft_prefill_token_s draft_prefill_pair_s draft_prefill_read_s",
    ),
    draft_tiles=(_f, "draft_prefill_prompt_s draft_prefill_key_s draft_prefill_prompt_j draft_prefill_key_j"),
    draft_energy=(_f, "draft_decode_request_j draft_decode_context_j"),
    draft_prefill_energy=(
        _f,
        "draft_prefill_step_j draft_prefill_token_j draft_prefill_pair_j draft_prefill_read_j",
    ),
    cache=(_i, "eviction full_groups window_groups kv_window"),
    adapters=(_i, "adapters max_loras adapter_row"),
    adapter_cost=(_f, "adapter_further_s adapter_further_j adapter_load_s"),
    hooks=(_i, "hook_order hook_victim hook_chunk hook_admit hook_route"),
)

REQUEST = _dtype(
    given=(_f, "arrival_s delay_s key"),
    lengths=(_i, "prompt output tie after segment segment_end output_id fits"),
    times=(_f, "scheduled_s first_token_s finish_s"),
    counts=(_i, "generated preemptions cached replica stale swapped kept"),
    future=(_i, "first_block"),
    links=(_i, "next child first_successor next_successor heap any_row"),
    who=(_i, "priority"),
    own=(_h, "tenant level"),
)

REPLICA = _dtype(
    times=(_f, "end_s busy_s dynamic_j pending_s stall_s"),
    swap=(_f, "transfer_s begun_s stalled_s"),
    swapped=(_i, "host_used host_peak swapped_out swapped_in"),
    tables=(_i, "tick running decoding prefilling free_blocks free_rows next_finish"),
    context=(_i, "context window_context unsaturated next_saturation"),
    waiting=(_i, "waiting held head tail held_head held_tail head_row head_request blocked blocked_need threshold"),
    step=(_i, "step_tokens step_requests step_decodes step_context step_window step_sampled step_preempted"),
    prefill=(_i, "step_prefill_tokens step_pairs step_window_pairs step_read step_computed"),
    totals=(_i, "steps tokens preemptions min_free in_flight first_batch active"),
    loop=(_i, "event pending log_row finished"),
    cache=(_i, "evictable era turn"),
    idle=(_f, "idle_s idle_ends reuses"),
    drafts=(_i, "step_drafters step_drafters_context step_drafts"),
    drafted=(_i, "rounds draft_rounds drafted accepted"),
    drafting=(_f, "drafting_s"),
    adapters=(_i, "step_adapters step_adapted adapter_steps adapter_loads"),
)

SLOT = _dtype(
    who=(_i, "request start finish_tick target chunk blocks keys cached_blocks segment segment_used flying"),
    place=(_i, "state order free_row scheduled"),
)

BLOCK = _dtype(lists=(_h, "prev next refs bucket same_prev same_next"), content=(_i, "key"))
EVICTED_BLOCK = np.dtype(
    [
        *BLOCK.descr,
        *((name, _f) for name in ("score", "since_s", "class_idle_s", "class_reuses")),
        *((name, _h) for name in ("uses", "again", "place", "heap", "kind", "era")),
        ("turn", _i),
    ]
)
"""A block with what `eviction.py` keeps of it."""
CELL = np.dtype([("key", _i), ("block", _h), ("again", _h)])
SEGMENT = np.dtype([("content", _i), ("tokens", _i)])
FORESEEN_SEGMENT = np.dtype([*SEGMENT.descr, ("again", _i)])
"""A segment, and beside it (rows of their own, from `REQUEST.first_block`) who uses each block's content next."""
BATCH = np.dtype([("end_s", _f), ("entries", _i), ("log_row", _i)])
ENTRY = np.dtype([("request", _i), ("row", _i), ("epoch", _i), ("samples", _i)])

ADAPTED_REQUEST = np.dtype([*REQUEST.descr, ("adapter", _i)])
"""A request with its LoRA adapter, -1 for none."""

AHEAD_REQUEST = np.dtype([*REQUEST.descr, ("samples", _i)])
AHEAD_SLOT = np.dtype(
    [
        *SLOT.descr,
        *((name, _i) for name in ("placeholders", "drafts", "verified", "padded", "accepted", "proposed", "length")),
        *((name, _i) for name in ("primed", "in_prompt")),
    ]
)
AHEAD_ENTRY = np.dtype([*ENTRY.descr, ("drafts", _i), ("accepted", _i), ("proposed", _i)])
"""The same with what `serving/ahead` counts besides."""

STAGE = np.dtype([("free_s", _f), ("share", _f)])
TOKEN_COST = np.dtype([("body_s", _f), ("hop_s", _f), ("body_j", _f)])
SAMPLE_COST = np.dtype([("head_s", _f), ("head_j", _f)])
DECODE_COST = np.dtype([("full_s", _f), ("window_s", _f), ("mixed_s", _f), ("mixed_token_s", _f)])

STEP_LOG = _dtype(
    where=(_i, "replica"),
    times=(_f, "start_s end_s"),
    counts=(_i, "tokens prefill_tokens requests running waiting free_blocks first_entry first_preempted"),
)
ENTRY_LOG = np.dtype([("request", _i), ("tokens", _i)])
SAMPLE_LOG = np.dtype([("time_s", _f), ("running", _i), ("waiting", _i), ("used_blocks", _i), ("tokens", _i)])
