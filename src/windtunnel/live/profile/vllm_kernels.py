"""The kernels that vLLM itself runs on a CPU, for a profile of the engine rather than of PyTorch.

vLLM picks its own product for each weight and attends over its paged cache with its own kernel, several times
faster than PyTorch's. Run `windtunnel profile --kernels vllm` with the Python that has vLLM.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from windtunnel.errors import MissingDependencyError, Problem, SpecError
from windtunnel.live.profile.points import Point
from windtunnel.live.profile.torch_kernels import COPIED_BYTES, Run, TorchKernels, turns
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

BLOCK_TOKENS = 128
"""Tokens in a block of vLLM's cache on a CPU, by default."""
BATCHES = 16
"""Batches of the same size, used in turn: other blocks, other contexts."""
EPSILON = 1e-5


class VllmKernels(TorchKernels):
    """vLLM's kernels on a CPU; what it leaves to PyTorch is measured there."""

    caches_prompts = True

    def __init__(self, device: str, model: ModelSpec, plan: PlanSpec, copied_bytes: int = COPIED_BYTES) -> None:
        super().__init__(device, copied_bytes)
        if device != "cpu":
            raise SpecError(Problem("vLLM's own kernels are measured on a CPU only", "--kernels", allowed="torch"))
        if model.latent is not None:
            raise SpecError(
                Problem("vLLM's kernels for latent attention are not measured", "--kernels", allowed="torch")
            )
        self.head_dim = model.head_dim
        self.heads, self.kv_heads = (max(n // plan.tensor_parallel, 1) for n in (model.heads, model.kv_heads))
        self.ops = _vllm("_custom_ops")
        self.software += f", vLLM {importlib.import_module('vllm').__version__}"
        chosen = _vllm("v1.attention.backends.cpu_attn")._get_attn_isa(
            self.torch.bfloat16, BLOCK_TOKENS, model.head_dim, "auto"
        )
        self._instructions = str(chosen)
        self._kept: tuple[Any, Any] | None = None

    def _gemm(self, point: Point) -> Run:
        """As vLLM's linear layers: their weights laid out, once, for the product that vLLM picks."""
        _, n, k, dtype, _ = point.key
        kind = str(dtype)
        dispatch = _vllm("model_executor.layers.utils").dispatch_cpu_unquantized_gemm
        layers = []
        for _ in range(self.copies_of(int(n) * int(k) * (4 if kind == "fp32" else 2))):
            layer = self.torch.nn.Module()
            layer.weight = self.torch.nn.Parameter(self._filled((int(n), int(k)), kind), requires_grad=False)
            dispatch(layer, remove_weight=False)
            layers.append(layer)
        x = self._filled((point.sizes[0], int(k)), kind)
        turn = turns(len(layers))

        def run() -> object:
            layer = layers[next(turn)]
            return layer.cpu_linear(x, layer.weight, None)

        return run

    def _attention(self, point: Point) -> Run:
        """Attention over a paged cache, whose blocks lie wherever the engine found one free.

        The contexts of a batch differ, by up to half their mean either way: the kernel takes whole blocks, so that
        equal contexts at round sizes would come out too cheap.
        """
        _, heads, kv_heads, dim, _ = point.key
        prompt, cached, requests, context = point.sizes
        count, new = (1, prompt) if prompt else (requests, 1)
        random = np.random.default_rng(0)
        blocks = count * (2 * max(prompt + cached, context) // BLOCK_TOKENS + 2)
        keys, values = self._cache(int(kv_heads), int(dim), blocks)
        batches = []
        for _ in range(BATCHES):
            if prompt:
                lengths = np.array([prompt + cached])
            else:
                share = 0.5 + (np.arange(count) + random.random()) / count
                lengths = np.maximum(np.rint(context * share), 1).astype(np.int64)
            batches.append(
                self._batch(lengths, new, random.permutation(len(keys)), (int(heads), int(kv_heads), int(dim)))
            )
        query = self._filled((count * new, int(heads), int(dim)), "bf16")
        output = self.torch.empty_like(query)
        turn = turns(len(batches))

        def run() -> object:
            return self.ops.cpu_attention_with_kv_cache(
                query=query, key_cache=keys, value_cache=values, output=output, scale=int(dim) ** -0.5, causal=True,
                alibi_slopes=None, sliding_window=-1, softcap=0.0, s_aux=None, **batches[next(turn)],
            )  # fmt: skip

        return run

    def _batch(self, lengths: Any, new: int, blocks: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        """What the kernel is told of a batch: its lengths, where its blocks lie, and how its work is divided."""
        ints, heads = self.torch.int32, shape
        count, needed = len(lengths), -(-lengths // BLOCK_TOKENS)
        table = np.zeros((count, int(needed.max())), dtype=np.int32)
        ends = np.cumsum(needed)
        for row, (first, last) in enumerate(zip(ends - needed, ends, strict=True)):
            table[row, : last - first] = blocks[first:last]
        told = {
            "seq_lens": self.torch.tensor(lengths, dtype=ints),
            "query_start_loc": self.torch.arange(0, count * new + 1, new, dtype=ints),
        }
        plan = self.ops.cpu_attn_get_scheduler_metadata(
            num_reqs=count, num_heads=heads[0], num_kv_heads=heads[1], head_dim=heads[2], dtype=self.torch.bfloat16,
            causal=True, sliding_window_size=-1, isa=self._instructions, enable_kv_split=True, **told,
        )  # fmt: skip
        return {**told, "block_table": self.torch.from_numpy(table), "scheduler_metadata": plan}

    def _cache(self, heads: int, dim: int, blocks: int) -> tuple[Any, Any]:
        """Keys and values of at least so many blocks, and of `COPIED_BYTES`; one cache serves all points."""
        least = max(blocks, COPIED_BYTES // (heads * BLOCK_TOKENS * 2 * dim * 2))
        if self._kept is None or len(self._kept[0]) < least or self._kept[0].shape[1::2] != (heads, dim):
            self._kept = self._halves((least, heads, BLOCK_TOKENS, 2 * dim))
        return self._kept

    def _halves(self, shape: tuple[int, int, int, int]) -> tuple[Any, Any]:
        """Keys and values of a cache in vLLM's layout: a block holds its keys, then its values."""
        blocks, heads, tokens, width = shape
        cache = self.torch.zeros(shape, dtype=self.torch.bfloat16).view(blocks, heads, 2 * tokens, width // 2)
        keys, values = cache.chunk(2, dim=2)
        return keys, values

    def _elementwise(self, point: Point) -> Run:
        _, name, row_bytes = point.key
        rows, values = point.sizes[0], int(row_bytes) // 2
        functional = self.torch.nn.functional
        if name == "norm":
            width = max(values // 4, 1)
            x, residual, weight = (self._filled(s, "bf16") for s in ((rows, width), (rows, width), (width,)))
            norm = _vllm("ir.ops").fused_add_rms_norm
            return lambda: norm(x, residual, weight, EPSILON)
        if name == "mlp activation":
            width = max(values // 3, 1)
            both = self._filled((rows, 2 * width), "bf16")
            return lambda: functional.silu(both[..., :width]) * both[..., width:]
        if name == "rope":
            return self._rope(rows)
        if name == "kv write":
            return self._write(rows)
        return super()._elementwise(point)

    def _rope(self, rows: int) -> Run:
        dim = self.head_dim
        query, key = (self._filled((rows, heads * dim), "bf16") for heads in (self.heads, self.kv_heads))
        places = self.torch.arange(rows)
        angles = self._filled((rows, dim), "bf16")
        return lambda: self.ops.rotary_embedding(places, query, key, dim, angles, True)

    def _write(self, rows: int) -> Run:
        """The keys and values of a step's tokens, into the cache."""
        heads, dim = self.kv_heads, self.head_dim
        key, value = (self._filled((rows, heads, dim), "bf16") for _ in range(2))
        keys, values = self._halves((-(-rows // BLOCK_TOKENS), heads, BLOCK_TOKENS, 2 * dim))
        slots = self.torch.arange(rows)
        return lambda: self.ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, self._instructions)


def _vllm(module: str) -> Any:
    """A module of vLLM.

    Raises:
        MissingDependencyError: it is not installed, or is a version without such kernels.
    """
    try:
        return importlib.import_module(f"vllm.{module}")
    except ImportError:
        raise MissingDependencyError(
            "--kernels vllm measures with vLLM for CPUs: run this command with the Python that has it"
        ) from None
