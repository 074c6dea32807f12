"""The kernels of a forward pass in PyTorch, each as a function that runs one execution of it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from windtunnel.errors import MissingDependencyError, Problem, SpecError
from windtunnel.live.profile.points import Point

Run = Callable[[], object]

COPIED_BYTES = 256 * 2**20
"""Weights and caches of a shape are kept in so many copies as fill this, or the model's own weights if those are fewer,
and used in turn: a model's layers do not find their weights, nor their keys and values, in the processor's cache from
the layer before."""
COPIES = 256


def torch_module() -> Any:
    """PyTorch.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise MissingDependencyError(
            "profiling measures with PyTorch; install it with: pip install 'windtunnel[profile]'"
        ) from None


class TorchKernels:
    """Kernels on one device: `cpu` or `cuda`.

    Attributes:
        software: what runs them, with its version.
        caches_prompts: whether the kernel of prompts is measured behind a cached context too.
        copied_bytes: memory that a layer's tensors take turns in.
    """

    caches_prompts = False

    def __init__(self, device: str, copied_bytes: int = COPIED_BYTES) -> None:
        self.copied_bytes = copied_bytes
        self.torch = torch_module()
        self.software = f"PyTorch {self.torch.__version__}"
        if device == "cuda" and not self.torch.cuda.is_available():
            raise SpecError(Problem("PyTorch finds no CUDA device", "--device", got="'cuda'", allowed="cpu"))
        self.device = device
        self._dtypes = {"bf16": self.torch.bfloat16, "fp16": self.torch.float16, "fp32": self.torch.float32}

    def finish(self) -> None:
        """Wait for the accelerator."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def measurable(self, point: Point) -> bool:
        """Whether there is a kernel for the point's number formats, and for a prompt's cached context."""
        if point.key[0] == "attention" and point.sizes[1] and not self.caches_prompts:
            return False
        return point.key[0] != "gemm" or (point.key[3] in self._dtypes and point.key[3] == point.key[4])

    def kernel(self, point: Point) -> Run:
        """One execution of the point's kernel, its tensors allocated."""
        makers = {"gemm": self._gemm, "attention": self._attention, "elementwise": self._elementwise}
        return makers[str(point.key[0])](point)

    def empty(self) -> Run:
        """The smallest kernel there is: what launching takes."""
        x = self.torch.zeros(1, device=self.device)
        return lambda: x.add_(1.0)

    def copy(self, size_bytes: int) -> Run:
        """A copy of so many bytes, which reads and writes them."""
        source = self.torch.empty(size_bytes, dtype=self.torch.uint8, device=self.device).fill_(1)
        target = self.torch.empty_like(source)
        return lambda: target.copy_(source)

    def product(self, size: int, dtype: str) -> Run:
        """A square product of this size: 2 * size**3 FLOPs."""
        x, y = (self._filled((size, size), dtype) for _ in range(2))
        return lambda: x @ y

    def copies_of(self, size_bytes: int) -> int:
        """How many copies of so many bytes are used in turn."""
        return max(1, min(COPIES, self.copied_bytes // size_bytes))

    def _filled(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.torch.randn(shape, device=self.device, dtype=self.torch.float32).to(self._dtypes[dtype])

    def _gemm(self, point: Point) -> Run:
        _, n, k, dtype, _ = point.key
        width, depth, kind = int(n), int(k), str(dtype)
        copies = self.copies_of(width * depth * (4 if kind == "fp32" else 2))
        weights = [self._filled((width, depth), kind) for _ in range(copies)]
        x = self._filled((point.sizes[0], depth), kind)
        linear = self.torch.nn.functional.linear
        turn = turns(copies)
        return lambda: linear(x, weights[next(turn)])

    def _attention(self, point: Point) -> Run:
        _, heads, kv_heads, dim, _ = point.key
        h, kv, d = int(heads), int(kv_heads), int(dim)
        prompt, _, requests, context = point.sizes
        attend = self.torch.nn.functional.scaled_dot_product_attention
        if prompt:
            q, k, v = (self._filled((1, count, prompt, d), "bf16") for count in (h, kv, kv))
            return lambda: attend(q, k, v, is_causal=True, enable_gqa=h != kv)
        q = self._filled((requests, h, 1, d), "bf16")
        copies = self.copies_of(2 * 2 * requests * kv * context * d)
        caches = [[self._filled((requests, kv, context, d), "bf16") for _ in range(2)] for _ in range(copies)]
        turn = turns(copies)
        return lambda: attend(q, *caches[next(turn)], enable_gqa=h != kv)

    def _elementwise(self, point: Point) -> Run:
        """By name where the arithmetic matters; a copy of the same bytes for the rest."""
        _, name, row_bytes = point.key
        rows, values = point.sizes[0], max(int(row_bytes) // 2, 2)
        functional = self.torch.nn.functional
        if name == "norm":
            width = max(values // 4, 1)  # reads the residual and the input, writes both
            x, residual, weight = (self._filled(s, "bf16") for s in ((rows, width), (rows, width), (width,)))
            return lambda: functional.rms_norm(x + residual, (width,), weight)
        if name == "mlp activation":
            width = max(values // 3, 1)  # reads gate and up, writes their product
            gate, up = (self._filled((rows, width), "bf16") for _ in range(2))
            return lambda: functional.silu(gate) * up
        if name == "sampling":
            logits = self._filled((rows, max(values // 2, 1)), "fp32")
            return lambda: self.torch.argmax(logits, dim=-1)
        source = self._filled((rows, max(values // 2, 1)), "bf16")
        target = self.torch.empty_like(source)
        return lambda: target.copy_(source)


def turns(count: int) -> Iterator[int]:
    """0, 1, ... count - 1, 0, 1, ... without end."""
    return itertools.cycle(range(count))
