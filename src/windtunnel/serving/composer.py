"""The one place where the loop learns which scheduler it runs.

A scheduler is a module with one function, `compose`, that composes a replica's next step
(`vllm.compose` is the pattern): it starts with `clear_step`, gives slots tokens through the
primitives of `batch.py` and ends with `finish_composing`. Here stands the default; a kernel for
another scheduler is made by putting that scheduler's module in the place of this one
(`kernel.py`), so that every loop is compiled for exactly one scheduler.
"""

from __future__ import annotations

from windtunnel.serving.vllm import compose

__all__ = ["compose"]
