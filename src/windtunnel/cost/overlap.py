"""Host work that runs beside the device: a step takes the longer of the two.

    step = host + max(device, overlapped_request_s * requests)

An overlapped scheduler prepares the next step and hands out the last one's tokens while the device
computes. With hundreds of requests on a fast device the host decides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from windtunnel.cost.surface import StepSurface
from windtunnel.specs.engine import EngineSpec


def with_overlap(surface: StepSurface, engine: EngineSpec) -> StepSurface:
    """The surface with steps of pure decodes at least as long as the host needs for their requests.

    The decode table is over (requests, context), and such a step holds as many tokens and samples as
    requests, so the difference goes there. Pipeline stages overlap on their own and are left alone.
    """
    if not engine.overlapped_request_s or len(surface.stage_share) > 1:
        return surface
    requests = np.arange(surface.max_requests + 1)
    rows = requests
    if surface.drafting is not None:
        drafts = np.broadcast_to(surface.drafting.lengths.max(axis=1), len(requests))
        rows = np.minimum(requests * (1 + drafts), len(surface.sample_s) - 1)
    rest = surface.token_s[rows] + surface.sample_s[rows]
    least = np.maximum(engine.overlapped_request_s * requests - rest, 0.0)
    return replace(surface, decode_s=np.maximum(surface.decode_s, least[:, None]))
