"""The drafter's cost tables, laid out behind the target's in the arrays that the kernel reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import DraftSurface

Array = npt.NDArray[Any]


def append_drafting(
    world: Array, drafting: DraftSurface, token: Array, sample: Array, decode: Array
) -> tuple[Array, Array, Array]:
    """The cost tables with the drafter's rows behind the target's, and the fields of `WORLD` that say where.

    Returns:
        Costs by tokens, by sampled rows and of decode attention.
    """
    world["draft_passes"], world["draft_model"] = drafting.passes, bool(drafting.token_s.size)
    world["draft_one_pass"], world["draft_beside"] = drafting.one_pass, drafting.beside
    world["draft_step_s"] = drafting.step_s
    for place, part in ((0, "step"), (1, "token"), (2, "pair"), (4, "read"), (5, "prompt"), (6, "key")):
        world[f"draft_prefill_{part}_s"] = drafting.prefill_s[place]
        world[f"draft_prefill_{part}_j"] = drafting.prefill_j[place]
    world["draft_decode_request_j"], world["draft_decode_context_j"] = drafting.decode_j
    world["draft_token_row"], world["draft_head_row"] = len(token), len(sample)
    world["draft_further_row"] = len(sample) + len(drafting.head_s)
    world["draft_decode_row"] = len(decode)
    world["draft_further_decode_row"] = len(decode) + len(drafting.decode_s)
    tokens = np.zeros(len(drafting.token_s), dtype=token.dtype)
    tokens["body_s"], tokens["body_j"] = drafting.token_s, drafting.token_j
    heads = np.zeros(len(drafting.head_s) + len(drafting.further_s), dtype=sample.dtype)
    heads["head_s"] = np.concatenate([drafting.head_s, drafting.further_s])
    heads["head_j"] = np.concatenate([drafting.head_j, drafting.further_j])
    found = [decode]
    for seconds in (drafting.decode_s, drafting.further_decode_s):
        if seconds.size:
            table = np.zeros(seconds.shape, dtype=decode.dtype)
            table["full_s"] = seconds
            found.append(table)
    return np.concatenate([token, tokens]), np.concatenate([sample, heads]), np.concatenate(found)
