"""The mean step of a run as a batch, to ask what such a step waits for."""

from __future__ import annotations

import numpy as np

from windtunnel.operators.batch import Batch
from windtunnel.serving.result import Simulation


def mean_batch(simulation: Simulation, window_tokens: int = 0) -> Batch:
    """The mean step of a run: its total work divided by its steps.

    Context that a later chunk of a prompt reads again is left out, and so is work repeated after
    a preemption; both are small beside the rest.
    """
    steps = max(1, int(simulation.steps.sum()))
    done = simulation.finished & (simulation.output_tokens > 0)
    p = simulation.workload.prompt_tokens[done].astype(np.float64)
    o = simulation.output_tokens[done].astype(np.float64)
    new = np.maximum(p - simulation.cached_tokens[done], 1.0)
    decodes, context = o - 1.0, (o - 1.0) * (p + o / 2.0)
    drafts = 0.0
    if simulation.settings.drafting is not None:
        # A step that verifies drafts gives a request several of its tokens.
        rounds = max(float(simulation.rounds.sum()) - len(p), 0.0)
        steps_of = np.divide(rounds, decodes.sum()) if decodes.sum() else 0.0
        decodes, context = decodes * steps_of, context * steps_of
        drafts = float(simulation.drafted.sum())
    start = p - new
    pairs = new * start + new * (new + 1.0) / 2.0
    windowed = windowed_pairs = 0.0
    if window_tokens:
        windowed = float(np.sum(decodes * np.minimum(p + o / 2.0, window_tokens)))
        growing = np.clip(window_tokens - start, 0.0, new)
        inside = growing * start + growing * (growing + 1.0) / 2.0
        windowed_pairs = float(np.sum(inside + (new - growing) * window_tokens))

    def per_step(total: float) -> int:
        return round(total / steps)

    prefill = per_step(float(new.sum()))
    return Batch(
        decode_requests=per_step(float(decodes.sum())),
        decode_context_tokens=per_step(float(context.sum())),
        decode_window_tokens=per_step(windowed),
        prefill_requests=max(1, per_step(float(len(p)))) if prefill else 0,
        prefill_tokens=prefill,
        prefill_pairs=max(prefill, per_step(float(pairs.sum()))) if prefill else 0,
        prefill_window_pairs=per_step(windowed_pairs),
        prefill_context_tokens=max(prefill, per_step(float(p.sum()))) if prefill else 0,
        sampled=max(1, per_step(float(decodes.sum()) + len(p) + drafts)),
        draft_tokens=per_step(drafts),
    )
