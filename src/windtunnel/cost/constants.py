"""The few constants of a device's cost model, read from the catalogue's calibration files."""

from __future__ import annotations

from pydantic import Field

from windtunnel.specs.engine import Fusion
from windtunnel.specs.fields import Seconds, Source, Spec


class GemmConstants(Spec):
    """Dense matrix multiplication in one number format (`cost/gemm.py` says what each term does)."""

    compute_efficiency: float = Field(gt=0, le=1, description="share of the peak that a large product reaches")
    memory_efficiency: float = Field(gt=0, le=1, description="share of the bandwidth that streaming weights reaches")
    launch_s: Seconds = Field(ge=0, description="fixed time of a kernel inside a captured graph")
    fill_depth: float = Field(ge=0, description="extra reduction depth a tile costs to fill its pipeline and write out")
    blend: float = Field(
        gt=0, description="exponent that blends compute and memory time; large means the larger one alone"
    )
    wave_sharing: float = Field(0.0, ge=0, le=1, description="share of a partly filled last wave that is won back")
    latency_depth_s: Seconds = Field(
        0.0, ge=0, description="time per 1,000 of reduction depth that no parallelism hides"
    )
    tiles_by_rows: bool = Field(
        False, description="whether kernels fix their tile by the rows alone, as CUTLASS kernels for 8 bits do"
    )
    splits_depth: bool = Field(True, description="whether kernels may split the reduction over idle processors")
    idle_gain: float = Field(
        0.0, ge=0, le=1, description="how much faster a processor runs while the others idle: clock, shared cache"
    )
    quantise_passes: float = Field(
        0.0, ge=0, description="times over memory of turning 16-bit activations into the format, beyond what is hidden"
    )


class DecodeConstants(Spec):
    """Decode attention over a paged KV cache."""

    memory_efficiency: float = Field(gt=0, le=1, description="share of the bandwidth that reading KV reaches")
    compute_efficiency: float = Field(gt=0, le=1, description="share of the matrix peak that query-key products reach")
    launch_s: Seconds = Field(ge=0, description="fixed time, split and combine kernels included")
    request_s: Seconds = Field(ge=0, description="time per request and KV head on one processor")
    blend: float = Field(gt=0, description="exponent that blends the terms")
    head_s: Seconds = Field(0.0, ge=0, description="time per request and query head on one processor")
    split_s: Seconds = Field(0.0, ge=0, description="time per part that a context is split into, to combine them")
    combine_s: Seconds = Field(0.0, ge=0, description="fixed time of the kernel that combines the parts")
    regroup_s: Seconds = Field(
        0.0, ge=0, description="copies that lay out grouped heads, with several requests and several KV heads"
    )
    lanes: float = Field(
        0.0,
        ge=0,
        description="processors that a request and KV head gets at most, ungrouped or latent; 0: all",
    )


class PrefillConstants(Spec):
    """Prefill attention (FlashAttention-like tiling; `cost/attention.py` says what each term does)."""

    compute_efficiency: float = Field(
        gt=0, le=1, description="share of the matrix peak that long prompts of wide heads reach"
    )
    launch_s: Seconds = Field(ge=0, description="fixed time of a call")
    tile_tokens: float = Field(ge=0, description="query-key pairs wasted per query at the causal edge, in tokens")
    score_cycles: float = Field(
        0.0,
        ge=0,
        description="clocks of a processor per head and query-key pair for the softmax, whatever the head's width",
    )
    tile_cycles: float = Field(
        0.0, ge=0, description="clocks of a processor to begin and end a tile of a head's queries"
    )
    prompt_cycles: float = Field(
        0.0, ge=0, description="the same for the tile of each prompt and head that is only partly filled"
    )
    tail_share: float = Field(
        0.0, ge=0, description="share of the time of the longest tile in which other processors have nothing to do"
    )
    kv_passes: float = Field(0.0, ge=0, description="times a prompt's new keys and values cross memory to be cached")
    score_bytes: float = Field(
        0.0, ge=0, description="bytes through memory per head and query-key pair, where scores do not stay on the chip"
    )


class MoeConstants(Spec):
    """Grouped matrix multiplication over experts."""

    compute_efficiency: float = Field(gt=0, le=1)
    memory_efficiency: float = Field(gt=0, le=1)
    launch_s: Seconds = Field(ge=0, description="fixed time of routing, permutation and both grouped products")
    tile_rows: float = Field(gt=0, description="rows of a tile that a group is padded to")
    width_multiple: int = Field(
        1, ge=1, description="an expert's width on a rank is padded to a multiple of this, weights included"
    )
    row_s: Seconds = Field(0.0, ge=0, description="time per token and expert to gather, scatter and sum its rows")
    blend: float = Field(3.0, gt=0, description="exponent that blends compute and memory time")


class CollectiveConstants(Spec):
    """All-reduce and its relatives inside a node."""

    one_shot_s: Seconds = Field(ge=0, description="fixed time of the one-shot kernel")
    peer_s: Seconds = Field(ge=0, description="added per peer")
    ring_s: Seconds = Field(ge=0, description="fixed time of the bandwidth-bound algorithm")
    efficiency: float = Field(gt=0, le=1, description="share of the link rate that large messages reach")
    own_share: float = Field(
        1.0, gt=0, le=1, description="share of that rate that the engine's own one-shot kernel reaches with few blocks"
    )
    contention: float = Field(
        0.0, ge=0, description="the share falls with (2 / ranks) to this power: a bus that is shared"
    )
    over_host: bool = Field(False, description="fitted on cards that talk over the host's bus")
    near_ranks: int = Field(
        0, ge=0, description="ranks of one host (a tray of a rack), whose memory an engine's own kernels map; 0: all"
    )
    switch_s: Seconds = Field(0.0, ge=0, description="fixed time beyond one host of a reduction in the switch")
    hop_s: Seconds = Field(0.0, ge=0, description="time per hop of the library's ring, which takes over above that")


class KernelHabits(Spec):
    """How an engine's kernels are cut and fed (`KernelFactors` of the engine say what each means)."""

    expands_weights: bool = False
    converts: bool = False
    apart: bool = False
    unpacked_bytes_per_s: float = Field(0.0, ge=0)
    packed_groups: tuple[int, ...] = ()
    load_bytes_per_s: float = Field(0.0, ge=0)
    fused: tuple[Fusion, ...] = ()
    elementwise_bytes: float = Field(1.0, gt=0)


class KernelConstants(Spec):
    """Everything calibrated for one device, or a family's defaults.

    Attributes:
        gemm: by number format of the arithmetic; a missing format takes bf16's (or fp16's).
        moe: grouped products in 16 bits, and in formats that `moe_narrow` lacks.
        moe_narrow: the same by number format of the arithmetic, or of weights that are expanded (int4, mxfp4).
        latent: decode attention over a latent cache; None takes `decode`.
        routing_skew: coefficient of variation of how often a layer's experts are visited.
        sort_bytes: bytes at full bandwidth per logit that sampling sorts; 0 where it takes the likeliest token.
        elementwise_efficiency: share of the bandwidth that elementwise kernels reach.
        elementwise_launch_s: fixed time of one elementwise kernel inside a captured graph.
        habits: an engine's own; a device's constants have none.
        errors: held-out median absolute relative error per operator class; empty when not measured.
        samples: measured points used per operator class.
        intervals: held-out residual quantiles (10 %, 90 %) per operator class, as measured / predicted.
        across_devices: the same for devices under the constants of another architecture.
    """

    name: str
    gemm: dict[str, GemmConstants]
    decode: DecodeConstants
    latent: DecodeConstants | None = None
    prefill: PrefillConstants
    moe: MoeConstants
    moe_narrow: dict[str, MoeConstants] = {}
    routing_skew: float = Field(0.0, ge=0)
    sort_bytes: float = Field(0.0, ge=0)
    collective: CollectiveConstants
    elementwise_efficiency: float = Field(gt=0, le=1)
    elementwise_launch_s: Seconds = Field(ge=0)
    habits: KernelHabits = KernelHabits()
    errors: dict[str, float] = {}
    samples: dict[str, int] = {}
    intervals: dict[str, tuple[float, float]] = {}
    across_devices: dict[str, tuple[float, float]] = {}
    growth: float = Field(
        1.0, ge=1, description="factor on the logarithm of a calibrated device's bands: engines that no fit has seen"
    )
    sources: tuple[Source, ...] = ()

    def gemm_of(self, dtype: str) -> GemmConstants:
        """The constants of a number format, or the nearest that was calibrated."""
        for key in (dtype, "bf16", "fp16"):
            if key in self.gemm:
                return self.gemm[key]
        return next(iter(self.gemm.values()))

    def moe_of(self, weight_dtype: str, compute_dtype: str) -> MoeConstants:
        """The constants of grouped products with such weights and arithmetic, or those of 16 bits."""
        return self.moe_narrow.get(weight_dtype) or self.moe_narrow.get(compute_dtype, self.moe)
