"""How the servers behind InferenceX rows were started, from the harness's public scripts: `catalogue/evidence`."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import yaml
from pydantic import Field

from windtunnel.evidence.table import Row
from windtunnel.specs.fields import Dtype, Source, Spec
from windtunnel.specs.load import build, catalogue_folder

ROUNDING = 64
"""Scripts add this to prompt and sequences, and round up to it."""
CONTEXT_MARGIN = 200
"""Tokens by which the harness sets the context longer than prompt and output."""
CAPTURED_TOKENS = 512
"""Tokens up to which engines capture graphs anyhow."""
REQUESTS_PER_CLIENT = 10
"""Requests sent over the concurrency (`--num-prompts` of the harness; aiconfigurator's guide has as many)."""
LENGTHS = ((1024, 1024), (1024, 8192), (8192, 1024))
"""Prompts and outputs that the public harness sends; rows of other lengths come from aiconfigurator's own benchmark."""


class Layout(NamedTuple):
    """Degrees of parallelism of a worker."""

    ranks: int
    """Tensor-parallel ones."""
    attention_dp: int
    experts: int
    """Expert-parallel ranks."""


class Capture(Spec):
    """Runs whose steps with prompts replay captured graphs too (`enable_piecewise_cuda_graph`)."""

    prompt: int = Field(0, ge=0)
    output: int = Field(0, ge=0)
    least_clients: int = Field(0, ge=0)
    most_clients: int = Field(0, ge=0)
    experts: int = Field(0, ge=0)
    attention_dp: bool = True
    """Whether runs with data-parallel attention are among them."""

    def about(self, prompt: int, output: int, clients: int, layout: Layout) -> bool:
        """Whether a run is one of them."""
        return (
            self.prompt in (0, prompt)
            and self.output in (0, output)
            and self.least_clients <= clients <= (self.most_clients or clients)
            and self.experts in (0, layout.experts)
            and (self.attention_dp or layout.attention_dp == 1)
        )


class Server(Spec):
    """Settings of the servers that some rows are about."""

    backend: str
    model: str = ""
    accelerator: str = ""
    version: str = ""
    precision: str = ""
    ranks: int = Field(0, ge=0)
    experts: int = Field(0, ge=0)
    least_clients: int = Field(0, ge=0)
    other_lengths: bool = False
    fixed_lengths: bool = False
    since: str = ""
    until: str = ""
    most_tokens: int = Field(0, ge=0)
    prompts: int = Field(0, ge=0)
    and_prompt: bool = False
    total: bool = False
    spare_tokens: int = Field(0, ge=0)
    graph_tokens: int = Field(0, ge=0)
    captures: tuple[Capture, ...] = ()
    drafts: int = Field(0, ge=0)
    drafts_attention_dp: int = Field(0, ge=0)
    poll_steps: dict[int, int] = {}
    balance_steps: int = Field(0, ge=0)
    gather_steps: int = Field(0, ge=0)
    gather_below: int = Field(0, ge=0)
    gather_clients: int = Field(0, ge=0)
    gather_share: float = Field(0.0, ge=0, le=1)
    sequences: bool = False
    most_sequences: int = Field(0, ge=0)
    cache_dtype: Dtype | Literal["as weights"] = "fp8"
    dense_dtype: Dtype | None = None
    requests_per_client: int = Field(REQUESTS_PER_CLIENT, ge=1)
    cache_share: float = Field(0.0, ge=0, le=1)
    prompt: int = Field(0, ge=0)
    output: int = Field(0, ge=0)
    unclear: str = ""
    why: str

    def about(self, row: Row, model: str, accelerator: str, layout: Layout) -> bool:
        """Whether these settings are those of a row about a model and an accelerator of the catalogue."""
        day = row.text("measured_on")
        return (
            row.text("backend") == self.backend
            and self.other_lengths != ((row.count("isl"), row.count("osl")) in LENGTHS)
            and self.prompt in (0, row.count("isl"))
            and self.output in (0, row.count("osl"))
            and model.startswith(self.model)
            and accelerator.startswith(self.accelerator)
            and row.text("precision").startswith(self.precision)
            and self.ranks in (0, layout.ranks)
            and self.experts in (0, layout.experts)
            and row.number("concurrency") >= self.least_clients
            and row.text("backend_version").startswith(self.version)
            and (not self.since or day >= self.since)
            and (not self.until or (bool(day) and day <= self.until))
        )

    def at_once(self, clients: int) -> int:
        """Requests that run at once at most; 0 for the engine's own setting."""
        return clients if self.sequences else self.most_sequences

    def captured(self, prompt: int, output: int, clients: int, layout: Layout) -> int:
        """Most tokens of a step that replays a captured graph; 0 for the engine's own setting."""
        if any(one.about(prompt, output, clients, layout) for one in self.captures):
            return max(self.budget(prompt, output, clients, layout.attention_dp), 1)
        # Graphs are captured for as many sequences as there are clients, with their drafts.
        drafted = -(-clients // layout.attention_dp) * (1 + self.drafts_of(layout.attention_dp))
        return max(self.graph_tokens, drafted if drafted > CAPTURED_TOKENS else 0)

    def drafts_of(self, attention_dp: int) -> int:
        """Tokens predicted beyond the next one."""
        return self.drafts_attention_dp if attention_dp > 1 else self.drafts

    def budget(self, prompt: int, output: int, clients: int, attention_dp: int) -> int:
        """Tokens of a step; 0 for the engine's own setting."""
        if self.prompts:
            return self.prompts * prompt
        if self.spare_tokens:
            return prompt + self.spare_tokens + (clients if self.sequences else 0)
        if self.total:
            return prompt + output + CONTEXT_MARGIN
        if not self.and_prompt:
            return self.most_tokens
        sequences = -(-clients // attention_dp) * (1 + self.drafts_of(attention_dp))
        least = prompt + sequences + ROUNDING
        return max(self.most_tokens, -(-least // ROUNDING) * ROUNDING)

    def waited_steps(self, prompt: int, output: int, clients: int, ranks: int, attention_dp: int) -> float:
        """Steps that a new prompt waits on average before the engine takes it up, lengths being means.

        An engine that looks at its queue every n steps makes prompts wait half of that. One that gathers prompts waits
        until enough are there or so many steps have passed since the first came.
        """
        polled = max((steps for least, steps in self.poll_steps.items() if clients >= least), default=0) / 2.0
        arrivals = clients / output
        if attention_dp > 1 and self.balance_steps:
            return polled + gathered_steps(self.balance_steps, attention_dp, arrivals)
        if self.gather_steps and ranks < self.gather_below and clients >= self.gather_clients:
            enough = self.gather_share * self.budget(prompt, output, clients, attention_dp) - clients
            return polled + gathered_steps(self.gather_steps, math.ceil(enough / prompt), arrivals)
        return polled


def gathered_steps(most: float, enough: int, arrivals: float) -> float:
    """Mean wait of prompts that are gathered: until `enough` are there or `most` steps after the first.

    >>> round(gathered_steps(20, 3, 0.01), 1), gathered_steps(20, 1, 0.01)
    (18.3, 0.0)
    """
    window = min(most, max(enough - 1, 0) / arrivals)
    return window * (1.0 + arrivals * window / 2.0) / (1.0 + arrivals * window)


class Servers(Spec):
    """The packaged list, `catalogue/evidence/inferencex.yaml`."""

    settings: tuple[Server, ...]
    acceptance: float = Field(ge=0, le=1)
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def servers() -> Servers:
    """The packaged list."""
    text = (catalogue_folder("evidence") / "inferencex.yaml").read_text(encoding="utf-8")
    return build(Servers, yaml.safe_load(text), "catalogue/evidence/inferencex.yaml")


def server_of(row: Row, model: str, accelerator: str, layout: Layout) -> Server | None:
    """The settings of a row's server, where they are known."""
    return next((one for one in servers().settings if one.about(row, model, accelerator, layout)), None)
