"""Effective throughput: the rate of requests that were served as a reader wants them (DeepSpeed-FastGen, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from windtunnel.metrics.gaps import token_gaps_by_request
from windtunnel.search.serve import serve
from windtunnel.serving.result import Simulation
from windtunnel.specs.load import build, merged
from windtunnel.specs.workload import WorkloadSpec
from windtunnel.workload.load import load_workload

if TYPE_CHECKING:
    from windtunnel.evidence.experiment import Setup


def effective_per_s(setup: Setup) -> float:
    """The most requests per second within the service level, over the numbers of clients in `service.clients`.

    Reads `service`: `clients`; `prompt_tokens_per_s`, at which a prompt must be computed; `tokens_per_s`, below
    which the moving average of a request's generation must never fall, and its `span` in tokens.
    """
    service: dict[str, Any] = setup.fields["service"]
    return max(_effective(setup, int(clients), service) for clients in service["clients"])


def most_requests_per_s(setup: Setup) -> float:
    """The most requests per second, over the numbers of clients in `service.clients`, in time or not."""
    return max(_rate(_run(setup, int(clients))) for clients in setup.fields["service"]["clients"])


def _run(setup: Setup, clients: int) -> Simulation:
    fields = merged(setup.workload(), {"arrivals": {"kind": "closed", "concurrency": clients}})
    table = load_workload(build(WorkloadSpec, fields, "setup: workload")).table
    return serve(setup.deployment, table, record_steps=True).simulation


def _rate(run: Simulation, among: npt.NDArray[np.bool_] | None = None) -> float:
    """Requests per second of the whole run, all or those in `among`."""
    return float(np.sum(run.finished if among is None else run.finished & among) / run.makespan_s)


def _effective(setup: Setup, clients: int, service: dict[str, Any]) -> float:
    run = _run(setup, clients)
    soon = run.ttft_s <= run.workload.prompt_tokens / float(service["prompt_tokens_per_s"])
    steady = slowest_average_s(run, int(service["span"])) <= 1.0 / float(service["tokens_per_s"])
    return _rate(run, soon & steady)


def slowest_average_s(run: Simulation, span: int) -> npt.NDArray[np.float64]:
    """Each request's largest exponential moving average of the time between tokens; 0 for one token."""
    weight = 2.0 / (span + 1.0)
    worst = np.zeros(len(run))
    average, last = 0.0, -1
    for request, gap_s in zip(*(column.tolist() for column in token_gaps_by_request(run)), strict=True):
        average = gap_s if request != last else (1.0 - weight) * average + weight * gap_s
        last = request
        worst[request] = max(worst[request], average)
    return worst
