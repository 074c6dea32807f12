"""The one place where the loop calls a scheduler.

A scheduler is a function that composes a replica's next step (`vllm.compose` is the pattern):
it starts with `clear_step`, gives slots tokens through the primitives of `batch.py` and ends
with `finish_composing`. A second scheduler turns `compose` into a function that branches on
`world.scheduler`; as long as there is one, a level of calls less is a second of compilation.
"""

from __future__ import annotations

from windtunnel.serving import vllm

SCHEDULERS = ("vllm",)
"""Names of the schedulers; the place in this tuple is the number that the kernel knows."""

compose = vllm.compose
