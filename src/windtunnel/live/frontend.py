"""The time of a request outside the scheduler, from which step it came into.

A request whose first token came with a step was ready when that step began, and not yet when the one before it did.
So the time between sending it and its being ready lies in an interval, one for each request; the time that most of
their intervals hold is the engine's. Queues do not count in it, whereas how late first tokens are also holds whatever
else held them up.
"""

from __future__ import annotations

import numpy as np

from windtunnel.live.measurement import Floats, Measurement
from windtunnel.live.steps import Clusters, whole_batches

FEW = 20
"""With fewer requests than this nothing is said."""


def most_agreed(low: Floats, high: Floats) -> float | None:
    """The time outside the scheduler that most requests agree on; None where too few say anything.

    Tokens reach the client after the step that they end, so this is the way to the scheduler and back again.

    Args:
        low, high: of each request the ends of its interval, from `intervals` of one run or several.
    """
    if len(low) < FEW:
        return None
    moments = np.unique(np.concatenate([low, high]))
    middles = (moments[1:] + moments[:-1]) / 2
    inside = np.searchsorted(np.sort(low), middles) - np.searchsorted(np.sort(high), middles)
    return float(np.median(middles[inside == inside.max()]))


def intervals(measured: Measurement, seen: Clusters, until_s: float = np.inf) -> tuple[Floats, Floats]:
    """Between which seconds after it was sent each request was ready, for those that came while others ran.

    Args:
        measured: requests with their tokens.
        seen: its tokens by the step that they came from.
        until_s: only requests that were due until then count.
    """
    start_s = seen.start_s
    if len(start_s) < 3:
        return np.zeros(0), np.zeros(0)
    whole, _ = whole_batches(measured, seen)
    first = np.flatnonzero(seen.index == 0)
    first = first[(seen.step[first] >= 2) & (measured.due_s[seen.request[first]] <= until_s)]
    step = seen.step[first]
    # `whole[j - 1]` is of step j: the engine went on from the step before without a break.
    first, step = first[whole[step - 1]], step[whole[step - 1]]
    sent_s = measured.sent_s[seen.request[first]]
    high_s = start_s[step - 1] - sent_s
    low_s = np.where(whole[step - 2], np.maximum(start_s[step - 2] - sent_s, 0.0), 0.0)
    good = high_s > low_s
    return low_s[good], high_s[good]
