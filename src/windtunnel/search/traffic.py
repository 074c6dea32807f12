"""What a search needs to know about its workload, worked out once."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.search.demand import Demand, demands
from windtunnel.search.evaluate import request_tokens
from windtunnel.search.question import Question
from windtunnel.search.screen import opening
from windtunnel.workload.summary import WorkloadSummary, summarise
from windtunnel.workload.table import RequestTable


@dataclass(frozen=True, slots=True)
class Traffic:
    """A question's workload.

    Attributes:
        workload: the requests.
        opening: its first part, for screening; None when the workload is short.
        summary: its figures.
        demands: the work that the targets force.
        request_tokens: mean length of a request, prompt and output.
    """

    workload: RequestTable
    opening: RequestTable | None
    summary: WorkloadSummary
    demands: tuple[Demand, ...]
    request_tokens: float


def traffic_of(question: Question) -> Traffic:
    """The traffic of a question."""
    workload = question.workload
    return Traffic(
        workload=workload,
        opening=opening(workload),
        summary=summarise(workload),
        demands=demands(workload, question.slo),
        request_tokens=request_tokens(workload),
    )
