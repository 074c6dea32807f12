"""Inter-token latency: every gap between two tokens of a request, from a run that kept its steps.

TPOT is the mean of a request's gaps; their distribution over all tokens shows the stalls that a reader sees
(prefills of others, preemptions) and that a mean hides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.errors import SpecError
from windtunnel.serving.result import Simulation


def token_gaps_s(simulation: Simulation) -> npt.NDArray[np.float64]:
    """Seconds between successive tokens of the same request, all requests together, in no given order.

    Raises:
        SpecError: the run did not keep its steps (`record_steps=True`).
    """
    return token_gaps_by_request(simulation)[1]


def token_gaps_by_request(
    simulation: Simulation,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The request of every gap between two tokens, and the gap in seconds; by request and then by time.

    A step gives a request a token from its first token on, except while its context is computed again after
    a preemption: of successive chunks of more than one token only the last gives one. With speculative decoding the
    tokens of a step reach the reader together, and the gaps are those between steps.

    Raises:
        SpecError: the run did not keep its steps (`record_steps=True`).
    """
    steps = simulation.step_table
    if steps is None:
        raise SpecError("gaps between tokens need a run with record_steps=True")
    step = np.repeat(np.arange(len(steps)), np.diff(steps.entry_offset))
    end_s, request, tokens = steps.end_s[step], steps.entry_request, steps.entry_tokens
    given = end_s >= simulation.first_token_s[request]
    order = np.lexsort((end_s[given], request[given]))
    end_s, request, tokens = end_s[given][order], request[given][order], tokens[given][order]
    same = request[1:] == request[:-1]
    drafting = simulation.settings.drafting
    chunk = tokens > 1 + (drafting.tokens if drafting is not None else 0)
    first = np.append(True, ~same)
    again = np.append(same & chunk[:-1] & chunk[1:], False) & ~first
    end_s, request = end_s[~again], request[~again]
    same = request[1:] == request[:-1]
    return request[1:][same], np.diff(end_s)[same]
