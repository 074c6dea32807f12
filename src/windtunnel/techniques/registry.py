"""Every technique by name. One file each; add yours here."""

from __future__ import annotations

from windtunnel.techniques import (
    batchllm,
    early_exit,
    fastserve,
    fastswitch,
    finequant,
    flover,
    kv_quantization,
    lora,
    orca,
    sarathi,
    speculative,
    splitfuse,
    static_batching,
    vtc,
)
from windtunnel.techniques.technique import Technique

_ALL: tuple[Technique, ...] = (
    static_batching.TECHNIQUE,
    flover.TECHNIQUE,
    orca.TECHNIQUE,
    sarathi.TECHNIQUE,
    splitfuse.TECHNIQUE,
    batchllm.TECHNIQUE,
    fastserve.TECHNIQUE,
    fastswitch.TECHNIQUE,
    vtc.TECHNIQUE,
    finequant.TECHNIQUE,
    kv_quantization.TECHNIQUE,
    speculative.TECHNIQUE,
    early_exit.TECHNIQUE,
    lora.TECHNIQUE,
)

TECHNIQUES: dict[str, Technique] = {technique.name: technique for technique in _ALL}
"""The techniques by what `--technique` calls them."""
