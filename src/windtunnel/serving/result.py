"""What a simulation returns: columns, one row per request, per step and per sampled moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import RequestTable

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Stop = Literal["done", "overload", "deadline"]


@dataclass(frozen=True, slots=True)
class StepTable:
    """One row per step, in order of start on each replica.

    `running` and `free_blocks` are taken after the step's tokens were processed; `waiting` are
    those of the requests known to the step that it left or put back in the queue.
    `entry_offset[i]:entry_offset[i + 1]` are the rows of `entry_request` and `entry_tokens`
    that say who got how many tokens; `preempted_*` likewise who was preempted.
    """

    replica: Ints
    start_s: Floats
    end_s: Floats
    tokens: Ints
    prefill_tokens: Ints
    requests: Ints
    running: Ints
    waiting: Ints
    free_blocks: Ints
    entry_offset: Ints
    entry_request: Ints
    entry_tokens: Ints
    preempted_offset: Ints
    preempted_request: Ints

    def __len__(self) -> int:
        return len(self.start_s)


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """The cluster's state at even intervals, all replicas together."""

    time_s: Floats
    running: Ints
    waiting: Ints
    used_blocks: Ints
    tokens_per_s: Floats


@dataclass(frozen=True, slots=True)
class Simulation:
    """The outcome of a run.

    Per request (row i is row i of the workload; times in seconds, nan when it never happened):
        arrival_s: when it arrived in fact (think times and closed loops included).
        scheduled_s: start of the first step that held it.
        first_token_s, finish_s: end of the step that gave its first and its last token.
        output_tokens: tokens generated.
        preemptions: how often it was preempted.
        cached_tokens: prompt tokens found in the prefix cache at its first admission.
        replica: where it was sent, -1 when it never arrived.
        rejected: it could never fit and was turned away at arrival.

    Per replica: busy_s (time of its steps; with pipeline stages, of the last stage),
    dynamic_j (dynamic energy), steps, tokens, peak_blocks, stalled_s (time that steps waited for
    swapping, or for adapters), swapped_blocks (moved to the host and back, together), peak_host_blocks.

    drafting_s (time of drafting, part of busy_s unless it goes on beside the target), rounds (requests times steps
    that gave a token), draft_rounds (those that verified drafts), drafted and accepted (their tokens).
    adapter_steps (different LoRA adapters, summed over steps), adapter_loads (copies of one to the device).

    Totals: makespan_s (time of the last event), preemptions, prefix_queries and prefix_hits
    (tokens looked up and found at every admission), stop (`done`, or why it ended early).
    """

    workload: RequestTable
    settings: SchedulerSettings
    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    finish_s: Floats
    output_tokens: Ints
    preemptions: Ints
    cached_tokens: Ints
    replica: Ints
    rejected: Bools
    busy_s: Floats
    dynamic_j: Floats
    steps: Ints
    tokens: Ints
    peak_blocks: Ints
    makespan_s: float
    prefix_queries: int
    prefix_hits: int
    stop: Stop
    step_table: StepTable | None = None
    series: TimeSeries | None = None
    stalled_s: Floats = field(default_factory=lambda: np.zeros(1))
    swapped_blocks: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    peak_host_blocks: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    drafting_s: Floats = field(default_factory=lambda: np.zeros(1))
    rounds: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    draft_rounds: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    drafted: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    accepted: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    adapter_steps: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    adapter_loads: Ints = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def finished(self) -> Bools:
        """Which requests finished."""
        return np.isfinite(self.finish_s)

    @property
    def ttft_s(self) -> Floats:
        """Time to first token per request, nan where there was none."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> Floats:
        """Time from arrival to last token per request, nan where it did not finish."""
        return self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time per output token after the first; nan for outputs of one token."""
        gaps = self.output_tokens - 1
        return np.where(gaps > 0, (self.finish_s - self.first_token_s) / np.maximum(gaps, 1), np.nan)
