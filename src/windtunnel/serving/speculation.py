"""Speculative decoding of a deployment as the scheduler sees it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.serving.case_spec import drafting_slots
from windtunnel.serving.drafting import Drafting
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.speculation import SpeculativeSpec

_KNOWN = {"draft-model": "draft_model", "eagle": "eagle", "mtp": "eagle"}
"""Methods that keep a KV cache of their own, and whose needs the scheduler knows under which name."""


def drafting_from(spec: SpeculativeSpec, lengths: npt.NDArray[np.int64] | None = None) -> Drafting:
    """What the scheduler makes of a deployment's speculative decoding.

    Args:
        spec: the deployment's setting.
        lengths: tokens to draft by load, as `cost.surface.DraftSurface.lengths`; default always the setting's.
    """
    known = _KNOWN.get(spec.method, "ngram")
    by_load: tuple[tuple[int, ...], ...] = ()
    if lengths is not None and lengths.size > 1:
        by_load = tuple(tuple(int(n) for n in row) for row in lengths)
    return Drafting(
        tokens=spec.nodes,
        acceptance=spec.chances,
        classes=spec.classes if len(spec.classes) > 1 else (),
        lookahead=spec.nodes if spec.method in _KNOWN else 0,
        slots=drafting_slots(known, spec.nodes, spec.one_pass),
        drop_block=known == "eagle",
        by_load=by_load,
        recent=spec.adaptive == "recent",
        agreeing=spec.method == "parallel",
    )


def composes_ahead(engine: EngineSpec) -> bool:
    """Whether steps are composed while the one before is under way, as far as the drafter allows it."""
    return engine.async_scheduling and may_compose_ahead(engine.speculative)


def may_compose_ahead(spec: SpeculativeSpec | None) -> bool:
    """Whether a drafter lets steps be composed before the last one's tokens are known.

    vLLM 0.32 schedules synchronously with drafters on the host and with heads, as what they draft must be known;
    the same goes for lengths that follow the last round, and for drafting beside the target.
    """
    return spec is None or (spec.method in _KNOWN and spec.adaptive != "recent")
