"""Device memory of a deployment, rank by rank, down to the KV blocks that an engine would allot.

    kv_bytes = utilisation * device - (weights + activations + graphs + runtime)
    blocks   = floor(kv_bytes / (block_size * KV bytes per token on the rank))

as vLLM sizes its cache: it loads the weights, runs the model once on a full token budget with the
most sequences and takes what is left under its share of the device. The stage with the fewest
blocks decides.

Windowed layers: the simulator's cache is one pool of blocks that all layers fill alike, while
engines give windowed layers a group of blocks of their own that holds the window only. A token
of theirs therefore costs min(length, window) / length of a full one, at the request length given
to `memory_need`; without a length they are counted in full, which is exact up to the window and
pessimistic beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from windtunnel.errors import InfeasibleError
from windtunnel.operators.drafting import fusion_inputs, head_values
from windtunnel.operators.linear_attention import STATE_BYTES
from windtunnel.operators.lora import adapter_values
from windtunnel.operators.operator import ACTIVATION_BYTES
from windtunnel.operators.shard import Shard, end_dtypes, matrix_dtypes, plain_dtype, shard, stage_layers
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import drafter_of
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec
from windtunnel.units import format_bytes

LATENT_WORKSPACE_TOKENS = 65536
"""Most context tokens whose latents vLLM projects up at a time in a chunked prefill."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One line of the account: what, how many bytes, and how they come about."""

    name: str
    bytes: float
    how: str


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory of the worst rank (the pipeline stage that has room for the fewest blocks).

    Attributes:
        rows: what is taken, largest weights first; their sum is `taken_bytes`.
        stage: the pipeline stage it is about, counted from 0.
        device_bytes: memory of the device as software sees it.
        budget_bytes: the share that the engine may take.
        kv_bytes_per_token: KV bytes of one token on this rank.
        block_tokens: tokens in a block.
        kv_blocks: blocks of the whole replica's cache (every rank holds its part of each).
        max_model_len: longest request the engine is set to.
    """

    rows: tuple[MemoryRow, ...]
    stage: int
    device_bytes: float
    budget_bytes: float
    kv_bytes_per_token: float
    block_tokens: int
    kv_blocks: int
    max_model_len: int

    @property
    def taken_bytes(self) -> float:
        """Everything but the KV cache."""
        return sum(row.bytes for row in self.rows)

    @property
    def weight_bytes(self) -> float:
        """Weights on the rank."""
        return sum(row.bytes for row in self.rows if row.name.startswith("weights"))

    @property
    def kv_bytes(self) -> float:
        """What is left for the KV cache; negative when the rest does not fit."""
        return self.budget_bytes - self.taken_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return self.kv_blocks * self.block_tokens

    @property
    def fits(self) -> bool:
        """Whether everything fits with room for one request of the maximum length."""
        return self.kv_blocks > 0 and self.kv_tokens >= self.max_model_len

    @property
    def loads(self) -> bool:
        """Whether everything but the cache fits."""
        return self.kv_bytes > 0

    def reason(self) -> str:
        """Why it does not fit, with the sum; empty when it does."""
        if self.fits:
            return ""
        sum_ = " + ".join(f"{row.name} {_gb(row.bytes)}" for row in self.rows)
        budget = f"{_gb(self.budget_bytes)} ({self.budget_bytes / self.device_bytes:.0%} of {_gb(self.device_bytes)})"
        if not self.loads:
            return f"does not fit: {sum_} = {_gb(self.taken_bytes)} > {budget} per accelerator"
        short = f"KV cache of {self.kv_tokens:,} tokens is shorter than max_model_len {self.max_model_len:,}"
        return (
            f"{short}: {budget} - ({sum_}) leaves {_gb(self.kv_bytes)} at {self.kv_bytes_per_token:,.0f} bytes a token"
        )

    def explain(self) -> tuple[MemoryRow, ...]:
        """The account as rows that add up to the engine's budget, KV cache last."""
        share = self.budget_bytes / self.device_bytes
        how = f"{share:.0%} of {format_bytes(self.device_bytes, 4)}, less the above"
        return (*self.rows, MemoryRow("KV cache", self.kv_bytes, f"{how}: {self.kv_blocks:,} blocks"))

    def check(self, what: str = "the deployment") -> None:
        """Raise an `InfeasibleError` that shows the sum unless everything fits."""
        if not self.fits:
            raise InfeasibleError(f"{what} {self.reason()}")


def _gb(value: float) -> str:
    return f"{value / 1e9:,.1f} GB"


def memory_need(deployment: DeploymentSpec, request_tokens: float = 0.0) -> MemoryNeed:
    """Memory of a deployment's worst rank.

    Args:
        deployment: what runs.
        request_tokens: length of a typical request at its end, for which windowed layers are
            counted; 0 counts them in full.
    """
    if not deployment.engine.frees_windows:
        request_tokens = 0.0
    needs = [_stage_need(deployment, stage, request_tokens) for stage in range(deployment.plan.pipeline_parallel)]
    drafter = drafter_of(deployment) if deployment.drafter_accelerators else None
    if drafter is not None:  # on accelerators of its own, which hold the same requests
        needs.append(_stage_need(drafter, 0, request_tokens))
    return min(needs, key=lambda need: (need.kv_blocks, need.kv_bytes))


def _stage_need(deployment: DeploymentSpec, stage: int, request_tokens: float) -> MemoryNeed:
    model, plan, engine = deployment.model, deployment.plan, deployment.engine
    stages = plan.pipeline_parallel
    layers = stage_layers(model.layers, stages)
    first, last = stage == 0, stage == stages - 1
    rows = [
        *weight_rows(model, plan, sum(layers[:stage]), layers[stage], first, last),
        *_activation_rows(deployment, last),
        MemoryRow("graphs", engine.graph_bytes if engine.graphs else 0.0, "captured graphs, as the engine sets aside"),
        MemoryRow("runtime", engine.runtime_bytes, "libraries, kernels, communication buffers, fragmentation"),
    ]
    if model.linear is not None:
        requests = -(-engine.max_num_seqs // plan.attention_data_parallel)
        mine = model.linear.layers * layers[stage] / model.layers
        state = requests * mine * model.linear.state_values / plan.tensor_parallel * STATE_BYTES
        rows.append(MemoryRow("states", state, f"linear attention of {requests:,} requests, 32-bit"))
    if engine.lora is not None:
        held = adapter_values(model, plan, engine.lora) * ACTIVATION_BYTES
        how = f"{engine.lora.max_loras} slots of rank {engine.lora.rank}, {format_bytes(held)} each"
        rows.append(MemoryRow("adapters", engine.lora.max_loras * held, how))
    draft_rows, draft_token_bytes = drafting_need(deployment, request_tokens)
    rows = [row for row in (*rows, *draft_rows) if row.bytes]
    share = layers[stage] / model.layers
    per_token = kv_bytes_per_token(model, plan, request_tokens) * share + draft_token_bytes
    device_bytes = deployment.accelerator.memory_bytes
    taken = sum(row.bytes for row in rows)
    budget = engine.memory_utilization * device_bytes
    if engine.cache_share_of_free:
        budget = taken + engine.cache_share_of_free * max(0.0, device_bytes - taken)
    left = budget - taken
    return MemoryNeed(
        rows=tuple(rows),
        stage=stage,
        device_bytes=device_bytes,
        budget_bytes=budget,
        kv_bytes_per_token=per_token,
        block_tokens=engine.block_size,
        kv_blocks=plan.attention_data_parallel * max(0, math.floor(left / (engine.block_size * per_token))),
        max_model_len=deployment.max_model_len,
    )


def drafting_need(deployment: DeploymentSpec, request_tokens: float = 0.0) -> tuple[list[MemoryRow], float]:
    """Weights of what drafts on the target's ranks, and the KV bytes per token that it adds to every block.

    Layers on the target's hidden states share its embedding and head.
    """
    spec = deployment.engine.speculative
    if spec is None or deployment.drafter_accelerators:
        return [], 0.0
    if spec.method == "medusa":
        values, parts = head_values(deployment.model, shard(deployment.model, deployment.plan).vocab), spec.depth
        size = parts * values * DTYPE_BYTES[plain_dtype(deployment.plan)]
        return [MemoryRow("weights, drafter", size, f"{parts} heads, each a block and a projection")], 0.0
    drafter = drafter_of(deployment)
    if drafter is None:
        return [], 0.0
    model, plan = drafter.model, drafter.plan
    own = spec.method == "draft-model"
    size = sum(row.bytes for row in weight_rows(model, plan, 0, model.layers, own, own))
    how = f"{model.name}, {model.layers} layers"
    if not own:
        size += model.hidden * fusion_inputs(model) * DTYPE_BYTES[plain_dtype(plan)]
        how += " on the model's hidden states"
    return [MemoryRow("weights, drafter", size, how)], kv_bytes_per_token(model, plan, request_tokens)


def kv_bytes_per_token(model: ModelSpec, plan: PlanSpec, request_tokens: float = 0.0) -> float:
    """KV bytes of one token on one TP rank, all layers.

    Heads are replicated when TP exceeds them; the latent of MLA is replicated on every rank, and so are the
    keys of its sparse index.
    """
    value_bytes = DTYPE_BYTES[plan.kv_dtype]
    if model.latent is not None:
        return model.kv_bytes_per_token(value_bytes)
    heads = shard(model, plan).kv_heads
    windowed = float(model.window_layers)
    if request_tokens > model.window_tokens > 0:
        windowed *= model.window_tokens / request_tokens
    return (model.attention_layers - model.window_layers + windowed) * 2 * heads * model.head_dim * value_bytes


def weight_rows(model: ModelSpec, plan: PlanSpec, before: int, layers: int, first: bool, last: bool) -> list[MemoryRow]:
    """Weights on a rank that holds `layers` layers after `before` others, and which ends of the model it holds."""
    part = shard(model, plan)
    stored = DTYPE_BYTES[matrix_dtypes(model, plan, routed=False)[0]]
    plain = DTYPE_BYTES[plain_dtype(plan)]
    dense_before = model.moe.dense_layers if model.moe else model.layers
    dense = max(0, min(dense_before, before + layers) - before)
    sparse = layers - dense
    linear = layers * model.linear.layers / model.layers if model.linear is not None else 0.0
    attention = (layers - linear) * _attention_values(model, part)
    if model.linear is not None:
        attention += linear * -(-model.linear.parameters(model.hidden) // plan.tensor_parallel)
    mlp = dense * model.mlp_matrices * model.hidden * part.ffn
    matrices = attention + mlp
    small = layers * _small_values(model, part)
    rows = [
        MemoryRow(
            "weights",
            matrices * stored + small * plain,
            f"{layers} layers' matrices at {stored:g} bytes, norms at {plain:g}",
        )
    ]
    if model.moe is not None and sparse:
        rows.append(_expert_row(model, plan, part, sparse))
    end = DTYPE_BYTES[end_dtypes(plan)[0]]
    ends = _end_values(model, part, first, last) * end
    rows.append(
        MemoryRow("weights, embedding and head", ends, f"{part.vocab:,} of {model.vocab:,} rows at {end:g} bytes")
    )
    if model.latent is not None:
        a = model.latent
        absorbed = layers * part.q_heads * a.kv_lora_rank * (a.qk_nope_head_dim + a.v_head_dim) * plain
        rows.append(MemoryRow("weights, absorbed", absorbed, "latent up-projections kept a second time for decode"))
    return rows


def _attention_values(model: ModelSpec, part: Shard) -> int:
    """Values in one layer's attention matrices on the rank."""
    h = model.hidden
    if model.latent is None:
        return h * model.head_dim * ((3 if model.attention_gate else 2) * part.q_heads + 2 * part.kv_heads)
    a = model.latent
    q_width = part.q_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
    q = h * a.q_lora_rank + a.q_lora_rank * q_width if a.q_lora_rank else h * q_width
    kv = h * (a.kv_lora_rank + a.qk_rope_head_dim) + a.kv_lora_rank * part.q_heads * (a.qk_nope_head_dim + a.v_head_dim)
    index = a.index.matrices(h, a.q_lora_rank) if a.index is not None else 0
    return q + kv + part.q_heads * a.v_head_dim * h + index


def _small_values(model: ModelSpec, part: Shard) -> int:
    """Values of one layer that are never quantised: norms, biases, the head weights of a sparse index."""
    biases = 0
    if model.qkv_bias:
        biases += (part.q_heads + 2 * part.kv_heads) * model.head_dim
    if model.attention_out_bias:
        biases += model.hidden
    if model.mlp_bias and model.moe is None:
        biases += (model.mlp_matrices - 1) * part.ffn + model.hidden
    if model.latent is not None and model.latent.index is not None:
        index = model.latent.index
        biases += index.parameters(model.hidden, model.latent.q_lora_rank)
        biases -= index.matrices(model.hidden, model.latent.q_lora_rank)
    qk_norms = (part.q_heads + part.kv_heads) * model.head_dim * model.qk_norm
    if model.qk_norm_over == "head":
        qk_norms = model.qk_norm_values
    return model.norm_parameters() + qk_norms + biases


def _expert_row(model: ModelSpec, plan: PlanSpec, part: Shard, layers: int) -> MemoryRow:
    """Routed and shared experts with their router."""
    moe = model.moe
    assert moe is not None
    routed = DTYPE_BYTES[matrix_dtypes(model, plan, routed=True)[0]]
    dense = DTYPE_BYTES[matrix_dtypes(model, plan, routed=False)[0]]
    plain = DTYPE_BYTES[plain_dtype(plan)]
    width = model.mlp_matrices * model.hidden
    biases = ((model.mlp_matrices - 1) * part.expert_ffn + model.hidden) * moe.expert_bias
    router = (model.hidden * (moe.experts + moe.shared_gate) + moe.experts * moe.router_bias) * plain
    each = part.experts * (width * part.expert_ffn * routed + biases * plain) + width * part.shared_ffn * dense + router
    how = f"{layers} layers x {part.experts} of {moe.experts} experts at {routed:g} bytes"
    return MemoryRow("weights, experts", layers * each, how)


def _end_values(model: ModelSpec, part: Shard, first: bool, last: bool) -> int:
    """Values of embedding, head and final norm that the stage holds; a tied head is shared within a stage."""
    width = model.embedding_dim or model.hidden
    table = part.vocab * width
    projection = width * model.hidden if width != model.hidden else 0
    values = 0
    if first:
        values += table + projection + model.learned_positions * model.hidden
    if last:
        shared = model.tied_embeddings and first
        final_norm = model.hidden * (2 if model.norm == "layernorm" else 1)
        values += (0 if shared else table) + projection + final_norm + part.vocab * model.head_bias
    return values


def _activation_rows(deployment: DeploymentSpec, last: bool) -> list[MemoryRow]:
    """Peak of the engine's trial run on a full budget, and tables that it keeps."""
    model, engine = deployment.model, deployment.engine
    part = shard(model, deployment.plan)
    tokens = -(-engine.max_num_batched_tokens // deployment.plan.attention_data_parallel)
    body = tokens * body_values_per_token(model, deployment.plan) * ACTIVATION_BYTES
    body += _latent_workspace_bytes(deployment, part)
    sequences = min(engine.max_num_seqs, tokens)
    logits = _sampler_bytes(deployment, part, sequences) if last else 0.0
    if body >= logits:
        peak = MemoryRow("activations", body, f"one layer over {tokens:,} tokens")
    else:
        peak = MemoryRow(
            "activations", logits, f"logits of {sequences:,} sequences, 16- and 32-bit, probabilities and noise"
        )
    rotary = 0.0
    if model.position == "rope":
        width = model.latent.qk_rope_head_dim if model.latent else model.head_dim
        rotary = model.max_context_tokens * width * ACTIVATION_BYTES
    return [peak, MemoryRow("rotary table", rotary, f"sines and cosines of {model.max_context_tokens:,} positions")]


def _sampler_bytes(deployment: DeploymentSpec, part: Shard, sequences: int) -> float:
    """Sampling with top-k and top-p, as the trial run does it.

    Per value of the vocabulary and sequence: a 16-bit logit (one more when gathered from ranks),
    its 32-bit copy, a probability and a random number; and a 32-bit row of the vocabulary per
    processor for the threshold search.
    """
    model = deployment.model
    gathered = 2.0 / part.ranks if part.ranks > 1 else 0.0
    hidden = 2.0 * deployment.engine.max_num_batched_tokens * model.hidden * ACTIVATION_BYTES
    searches = min(sequences, deployment.accelerator.processors) * model.vocab * 4.0
    return sequences * model.vocab * (deployment.engine.logit_bytes + gathered) + searches + hidden


def body_values_per_token(model: ModelSpec, plan: PlanSpec) -> float:
    """16-bit values alive per token at the widest point of a layer: residual, hidden state and its inner tensors."""
    part = shard(model, plan)
    inner = [float(_attention_inner(model, part))]
    if model.dense_layers:
        inner.append(model.mlp_matrices * part.ffn)
    if model.moe is not None:
        k = model.moe.experts_per_token
        rows = max((model.mlp_matrices - 1) * part.expert_ffn, model.hidden) + part.expert_ffn
        inner.append(k * rows + model.mlp_matrices * part.shared_ffn + 2 * model.hidden)
    return 2.0 * model.hidden + max(inner)


def _attention_inner(model: ModelSpec, part: Shard) -> int:
    if model.latent is None:
        return (2 * part.q_heads + 2 * part.kv_heads) * model.head_dim
    a = model.latent
    keys = a.qk_nope_head_dim + a.qk_rope_head_dim
    return part.q_heads * (2 * keys + a.qk_nope_head_dim + 2 * a.v_head_dim) + a.kv_lora_rank + a.qk_rope_head_dim


def _latent_workspace_bytes(deployment: DeploymentSpec, part: Shard) -> float:
    """Keys and values of the context that a chunked latent prefill projects up at a time.

    vLLM takes max(8 requests of the maximum length, 4 blocks per sequence) tokens, at most 65,536.
    """
    a, engine = deployment.model.latent, deployment.engine
    if a is None or not engine.enable_chunked_prefill:
        return 0.0
    wanted = max(8 * deployment.max_model_len, 4 * engine.max_num_seqs * engine.block_size)
    tokens = min(wanted, LATENT_WORKSPACE_TOKENS)
    up = part.q_heads * (a.qk_nope_head_dim + a.v_head_dim)
    return tokens * (up + a.kv_lora_rank + a.qk_rope_head_dim) * ACTIVATION_BYTES
