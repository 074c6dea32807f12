"""A set-up whose outcome can be predicted, and what a row claims about it.

Many rows are about one set-up (a throughput, a latency and a power figure of the same run), so
set-ups are predicted once each and claims read off their outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from windtunnel.specs.plan import PlanSpec

Mode = Literal["static", "offline", "closed", "steady", "unbatched"]
"""static: a batch prefilled together, then decoded in lockstep. offline: all requests at time zero.
closed: a fixed number of clients, each sending its next request when one is answered. steady: a batch
of a stated mean size in full swing. unbatched: one request at a time on an empty server."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A set-up: what runs and what it is given.

    Attributes:
        model, accelerator, engine: catalogue names.
        plan: layout and number formats.
        mode: how requests come.
        input_tokens, output_tokens: per request.
        batch: requests in the batch, clients, or the mean running batch.
        requests: requests in all (offline and closed).
        length_ratio: lengths are uniform between this share of the stated one and the stated one.
        dense_dtype: number format of the weights outside the experts, where it differs.
        node: the server, where it is not the accelerator's usual one.
        power_cap_w: limit set below the board's own; 0 for none.
        max_num_seqs, max_num_batched_tokens: engine settings that the row states; 0 for the preset's.
        drafts: tokens that the model's own further heads predict beyond the next one, and that the next step verifies.
        waited_steps: steps that a new prompt waits on average although the engine could take it up.
        graph_tokens: most tokens of a step that replays a captured graph; 0 for the preset's.
        cache_share: share of the memory left that the cache takes; 0 for the preset's.
    """

    model: str
    accelerator: str
    engine: str
    plan: PlanSpec
    mode: Mode
    input_tokens: int
    output_tokens: int
    batch: float
    requests: int = 0
    length_ratio: float = 1.0
    dense_dtype: str = ""
    node: str = ""
    power_cap_w: float = 0.0
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    drafts: int = 0
    waited_steps: float = 0.0
    cache_share: float = 0.0
    graph_tokens: int = 0

    @property
    def what(self) -> tuple[object, ...]:
        """What its deployment depends on; set-ups that agree in it share tables."""
        return (
            self.model,
            self.accelerator,
            self.node,
            self.engine,
            self.plan,
            self.dense_dtype,
            self.max_num_seqs,
            self.max_num_batched_tokens,
            self.cache_share,
            self.graph_tokens,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a set-up is predicted to do.

    Attributes:
        values: SI values by name, such as `ttft_mean_s`, `output_tokens_per_s`, `mean_w`; empty when it cannot run.
        provenance: `calibrated` or `datasheet`, of the device's kernel constants.
        why_not: why nothing is predicted; empty when something is.
        notes: assumptions worth knowing.
    """

    values: Mapping[str, float]
    provenance: str = ""
    why_not: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A measured figure of a row and how to read its prediction off an outcome.

    Attributes:
        id: of the row, with `/ttft` or `/tpot` for the tables that hold two figures a row.
        line: of the row in its file.
        measured: in the table's own unit.
        value: name of the outcome's value.
        factor: measured = factor * value.
        scenario: the set-up, or None when it is not expressed.
        why: why it is not expressed; empty when it is.
        tags: source, gpu, model, metric, tier, split, engine, mode.
        assumed: what the row does not say and was assumed.
        predicted, provenance: the prediction itself, for rows that have no set-up of this kind (training).
    """

    id: str
    line: int
    measured: float
    value: str
    factor: float
    scenario: Scenario | None
    why: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    predicted: float = math.nan
    provenance: str = ""
