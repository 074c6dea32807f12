"""The model: an architecture's shape, from which parameters, FLOPs and KV bytes follow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windtunnel.specs.fields import DTYPE_BYTES, Dtype, Source, Spec

SCALED_VALUES = 128
"""Values of an index key that share one 32-bit scale."""


class SparseIndex(Spec):
    """The index of sparse attention (DeepSeek-V3.2, arXiv:2512.02556, section 2.1; GLM-5).

    Heads of its own score every cached token against every query, from one key of head_dim values per
    token and layer; attention then reads the best `topk` tokens only. Engines keep the keys in 8 bits
    beside the latents, and run the index whole on every tensor-parallel rank (SGLang's and vLLM's
    `Indexer`: replicated projections).
    """

    heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    topk: int = Field(gt=0, description="tokens that a query attends to at most")

    @property
    def key_bytes(self) -> int:
        """Bytes of a cached key: 8-bit values, and a 32-bit scale for every 128 of them."""
        return self.head_dim + 4 * -(-self.head_dim // SCALED_VALUES)

    def matrices(self, hidden: int, q_lora_rank: int) -> int:
        """Weights of a layer's two projections that are quantised like the others: of queries and of the key."""
        return q_lora_rank * self.heads * self.head_dim + hidden * self.head_dim

    def parameters(self, hidden: int, q_lora_rank: int) -> int:
        """Weights of a layer's index: with the heads' weights, and the key's layer norm."""
        return self.matrices(hidden, q_lora_rank) + hidden * self.heads + 2 * self.head_dim


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Per token and layer it caches one latent of kv_lora_rank plus one rotary key of
    qk_rope_head_dim values, whatever the number of heads.
    """

    q_lora_rank: int = Field(0, ge=0, description="rank of the query compression; 0 means none")
    kv_lora_rank: int = Field(gt=0)
    qk_nope_head_dim: int = Field(gt=0)
    qk_rope_head_dim: int = Field(gt=0)
    v_head_dim: int = Field(gt=0)
    index: SparseIndex | None = Field(None, description="index of sparse attention; none: every token is attended to")

    @model_validator(mode="after")
    def _index_reads_the_query_latent(self) -> LatentAttention:
        if self.index is not None and not self.q_lora_rank:
            raise ValueError("index needs q_lora_rank: its queries come from the compressed query")
        return self


class LinearAttention(Spec):
    """Layers with a recurrent state in place of a KV cache (gated delta net, arXiv:2412.06464).

    A layer keeps value_heads matrices of key_dim x value_dim per request, in 32 bits, which every
    token reads and writes; prompts are worked through in chunks.
    """

    layers: int = Field(gt=0, description="layers of this kind; the others attend")
    key_heads: int = Field(gt=0)
    value_heads: int = Field(gt=0)
    key_dim: int = Field(gt=0)
    value_dim: int = Field(gt=0)
    conv_tokens: int = Field(4, ge=0, description="width of the short convolution before it")

    @property
    def in_width(self) -> int:
        """Columns of the input projection: queries, keys, values, output gate, and two gates per value head."""
        return 2 * self.key_heads * self.key_dim + 2 * self.value_heads * (self.value_dim + 1)

    @property
    def out_width(self) -> int:
        """Rows of the output projection."""
        return self.value_heads * self.value_dim

    @property
    def state_values(self) -> int:
        """Values of one request's state in one layer."""
        return self.value_heads * self.key_dim * self.value_dim

    def parameters(self, hidden: int) -> int:
        """Weights of one layer: projections, convolution, decay and norm."""
        conv = (2 * self.key_heads * self.key_dim + self.out_width) * self.conv_tokens
        return hidden * (self.in_width + self.out_width) + conv + 2 * self.value_heads + self.value_dim


class MixtureOfExperts(Spec):
    """Mixture of experts in the MLP."""

    experts: int = Field(gt=0, description="routed experts per MoE layer")
    experts_per_token: int = Field(gt=0, description="routed experts each token visits")
    expert_ffn: int = Field(gt=0, description="intermediate width of one expert")
    shared_ffn: int = Field(0, ge=0, description="summed intermediate width of the shared experts")
    shared_gate: bool = Field(False, description="whether a gate scales the shared expert's output")
    dense_layers: int = Field(0, ge=0, description="layers that keep a dense MLP of width `ffn`")
    router_bias: bool = False
    expert_bias: bool = False
    expert_clamp: bool = Field(False, description="inputs of the experts' activation are clamped (gpt-oss)")


class ModelSpec(Spec):
    """A decoder-only transformer.

    Attributes are those of its public configuration; nothing here is measured. Widths are in
    values, not bytes.
    """

    name: str
    aliases: tuple[str, ...] = Field((), description="other names it is known by, such as its Hugging Face ids")
    title: str = ""
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0, description="query heads")
    kv_heads: int = Field(gt=0, description="key-value heads (grouped-query attention); heads for multi-head")
    head_dim: int = Field(gt=0)
    ffn: int = Field(ge=0, description="intermediate width of the dense MLP")
    vocab: int = Field(gt=0)
    gated_mlp: bool = Field(True, description="three matrices (SwiGLU, GeGLU) rather than two")
    tied_embeddings: bool = False
    latent: LatentAttention | None = None
    moe: MixtureOfExperts | None = None
    linear: LinearAttention | None = Field(None, description="layers with linear attention")
    window_tokens: int = Field(0, ge=0, description="sliding window of the windowed layers; 0 means none")
    window_layers: int = Field(0, ge=0, description="how many layers use the sliding window")
    max_context_tokens: int = Field(gt=0)
    position: Literal["rope", "learned", "alibi"] = "rope"
    learned_positions: int = Field(0, ge=0, description="rows of the learned position table")
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norms_per_layer: int = Field(2, ge=1, description="norms over the hidden width in a layer")
    qk_norm: bool = False
    qk_norm_over: Literal["head", "layer"] = Field(
        "head",
        description="what `qk_norm` spans: each head, or all heads of a layer, so that ranks exchange sums of squares",
    )
    attention_gate: bool = Field(False, description="queries come with a gate of their width for attention's output")
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    attention_sinks: bool = Field(False, description="one learned sink logit per head and layer")
    embedding_dim: int = Field(0, ge=0, description="width of the embedding when projected (OPT-350M); 0 means hidden")
    parallel_attention: bool = Field(False, description="attention and MLP side by side on one input")
    dtype: Dtype = Field("bf16", description="number format of the published weights")
    dense_dtype: Dtype | None = Field(
        None, description="number format of the weights outside the routed experts, where it is not `dtype`"
    )
    published_parameters: float = Field(0.0, ge=0, description="parameter count that its authors publish")
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.linear is not None and self.linear.layers >= self.layers:
            raise ValueError("linear.layers must leave layers that attend")
        if self.window_layers > self.layers:
            raise ValueError(f"window_layers ({self.window_layers}) exceeds layers ({self.layers})")
        if self.window_layers and not self.window_tokens:
            raise ValueError("window_layers needs window_tokens")
        if self.moe is None and not self.ffn:
            raise ValueError("a dense model needs ffn")
        if self.moe is not None and self.moe.dense_layers > self.layers:
            raise ValueError("moe.dense_layers exceeds layers")
        if self.moe is not None and self.moe.experts_per_token > self.moe.experts:
            raise ValueError("moe.experts_per_token exceeds moe.experts")
        return self

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return 0 if self.moe is None else self.layers - self.moe.dense_layers

    @property
    def attention_layers(self) -> int:
        """Layers that attend to a KV cache."""
        return self.layers - (self.linear.layers if self.linear is not None else 0)

    @property
    def sparse_index(self) -> SparseIndex | None:
        """The index of sparse attention, None without one."""
        return None if self.latent is None else self.latent.index

    @property
    def attended_tokens(self) -> int:
        """Most tokens that a query attends to, in windowed layers or in sparse attention; 0 without a limit."""
        if self.sparse_index is not None:
            return self.sparse_index.topk
        return self.window_tokens if self.window_layers else 0

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return self.layers - self.moe_layers

    @property
    def mlp_matrices(self) -> int:
        """Matrices in an MLP: three when gated, two otherwise."""
        return 3 if self.gated_mlp else 2

    @property
    def q_width(self) -> int:
        """Width of all query heads together."""
        if self.latent is not None:
            return self.heads * (self.latent.qk_nope_head_dim + self.latent.qk_rope_head_dim)
        return self.heads * self.head_dim

    @property
    def kv_values_per_token_per_layer(self) -> int:
        """Values cached per token in one layer: 2 * kv_heads * head_dim, or the latent of MLA."""
        if self.latent is not None:
            return self.latent.kv_lora_rank + self.latent.qk_rope_head_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def qk_norm_values(self) -> int:
        """Weights of one layer's query and key norms: one per value that each of the two spans."""
        heads = self.heads + self.kv_heads if self.qk_norm_over == "layer" else 2
        return heads * self.head_dim * self.qk_norm

    def attention_parameters(self) -> int:
        """Weights of one layer's attention, biases and QK norms included."""
        h = self.hidden
        if self.latent is not None:
            a = self.latent
            q = h * a.q_lora_rank + a.q_lora_rank + a.q_lora_rank * self.q_width if a.q_lora_rank else h * self.q_width
            down = h * (a.kv_lora_rank + a.qk_rope_head_dim) + a.kv_lora_rank
            up = a.kv_lora_rank * self.heads * (a.qk_nope_head_dim + a.v_head_dim)
            index = a.index.parameters(h, a.q_lora_rank) if a.index is not None else 0
            return q + down + up + self.heads * a.v_head_dim * h + index
        qkv = (self.heads * (2 if self.attention_gate else 1) + 2 * self.kv_heads) * self.head_dim
        out = self.heads * self.head_dim * h
        biases = qkv * self.qkv_bias + h * self.attention_out_bias
        return h * qkv + out + biases + self.qk_norm_values + self.heads * self.attention_sinks

    def mlp_parameters(self) -> int:
        """Weights of one dense MLP."""
        biases = ((self.mlp_matrices - 1) * self.ffn + self.hidden) * self.mlp_bias
        return self.mlp_matrices * self.hidden * self.ffn + biases

    def expert_parameters(self) -> int:
        """Weights of one routed expert (0 without experts)."""
        if self.moe is None:
            return 0
        biases = ((self.mlp_matrices - 1) * self.moe.expert_ffn + self.hidden) * self.moe.expert_bias
        return self.mlp_matrices * self.hidden * self.moe.expert_ffn + biases

    def moe_shared_parameters(self) -> int:
        """Weights of an MoE layer outside the routed experts: router and shared experts."""
        if self.moe is None:
            return 0
        router = self.hidden * self.moe.experts + self.moe.experts * self.moe.router_bias
        return router + self.mlp_matrices * self.hidden * self.moe.shared_ffn + self.hidden * self.moe.shared_gate

    def norm_parameters(self) -> int:
        """Weights of one layer's norms."""
        return self.norms_per_layer * self.hidden * (2 if self.norm == "layernorm" else 1)

    def embedding_parameters(self) -> int:
        """Token and position embeddings and the LM head (counted once when tied)."""
        width = self.embedding_dim or self.hidden
        tokens = self.vocab * width * (1 if self.tied_embeddings else 2)
        projections = 2 * width * self.hidden if width != self.hidden else 0
        return tokens + projections + self.learned_positions * self.hidden + self.vocab * self.head_bias

    def parameters(self) -> int:
        """All parameters, from the shape."""
        moe_layer = self.moe_shared_parameters() + (self.moe.experts if self.moe else 0) * self.expert_parameters()
        final_norm = self.hidden * (2 if self.norm == "layernorm" else 1)
        return (
            self.layers * self.norm_parameters()
            + self.attention_layers * self.attention_parameters()
            + (self.linear.layers * self.linear.parameters(self.hidden) if self.linear is not None else 0)
            + self.dense_layers * (self.mlp_parameters() if self.dense_layers else 0)
            + self.moe_layers * moe_layer
            + self.embedding_parameters()
            + final_norm
        )

    def active_parameters(self) -> int:
        """Parameters that one token passes through (routed experts: only those it visits)."""
        if self.moe is None:
            return self.parameters()
        idle = self.moe.experts - self.moe.experts_per_token
        return self.parameters() - self.moe_layers * idle * self.expert_parameters()

    def published_weight_bytes(self) -> float:
        """Bytes of the weights in the formats they are published in, block scales included."""
        experts = 0 if self.moe is None else self.moe_layers * self.moe.experts * self.expert_parameters()
        rest = (self.parameters() - experts) * DTYPE_BYTES[self.dense_dtype or self.dtype]
        return experts * DTYPE_BYTES[self.dtype] + rest

    def kv_bytes_per_token(self, dtype_bytes: float) -> float:
        """Bytes of KV cache that one token takes in all layers, before sharding.

        Windowed layers are counted in full here; what they save depends on the sequence. Keys of a
        sparse index have a format of their own.
        """
        index = 0 if self.sparse_index is None else self.sparse_index.key_bytes
        return self.attention_layers * (self.kv_values_per_token_per_layer * dtype_bytes + index)
