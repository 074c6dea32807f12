"""Speculative decoding as a setting of an engine: who drafts, how many tokens, and how many are accepted."""

from __future__ import annotations

from functools import cache
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from windtunnel.specs.fields import Dtype, Seconds, Spec

Method = Literal["draft-model", "eagle", "mtp", "medusa", "ngram", "parallel"]

OWN_MODEL: tuple[Method, ...] = ("draft-model", "parallel")
"""Methods that draft with a model of their own."""
HEADS: tuple[Method, ...] = ("eagle", "mtp", "medusa")
"""Methods that draft from the target's hidden states."""
CLASSES = 16
"""Classes of equally many requests when requests differ in how much they accept."""
NODES = 1024
"""Most tokens verified at a time."""


class SpeculativeSpec(Spec):
    """Speculative decoding: tokens are drafted cheaply and verified by the model in one step.

    A step computes the drafted tokens of every decoding request beside its next one; those up to the
    first rejection count, and the model's own token after them. The output stays what it was.
    """

    method: Method = Field(
        "draft-model",
        description="draft-model: a smaller model, one token a pass; eagle: a layer on the target's hidden states, one "
        "token a pass (also EAGLE-3); mtp: the same with a layer such as the target's own; medusa: a head per token, "
        "all at once; ngram: found in the prompt, without a model; parallel: a smaller model on accelerators of its "
        "own, drafting while the target verifies (PEARL)",
    )
    draft: str = Field(
        "",
        description="the drafter's model: a catalogue name or file; needed by draft-model and parallel, and what "
        "replaces the layer that eagle takes from the target's shape",
    )
    draft_tokens: int = Field(4, ge=1, le=NODES, description="tokens drafted per request and step, along one path")
    one_pass: bool = Field(False, description="draft-model, eagle: all tokens come from one pass (PARD, P-EAGLE)")
    draft_tensor_parallel: int = Field(
        0, ge=0, description="TP degree of the drafter; 0 is the target's, or 1 for parallel"
    )
    draft_weight_dtype: Dtype | None = Field(
        None, description="stored weights of the drafter; default as published, for mtp the target's"
    )
    acceptance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="chance that a drafted token is accepted when those before it were; needed by draft-model, "
        "parallel and ngram, others have a published default (catalogue/speculation.yaml)",
    )
    acceptance_decay: float = Field(
        1.0, gt=0, le=1, description="what multiplies that chance from one position to the next; 1 keeps it"
    )
    acceptance_deviation: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="standard deviation of that chance between requests (a Beta distribution); 0: all alike",
    )
    position_acceptance: tuple[float, ...] = Field(
        (),
        description="measured instead: share of the rounds in which the 1st, 2nd, ... drafted token was accepted, as "
        "vLLM's metrics print it; must not increase",
    )
    tree: tuple[int, ...] = Field(
        (),
        description="candidates per node at each depth of a draft tree, such as [4, 2, 1], which is draft_tokens deep",
    )
    candidate_acceptance: tuple[float, ...] = Field(
        (), description="of a tree: chance that the drafter's 1st, 2nd, ... candidate is the target's token"
    )
    adaptive: Literal["off", "load", "recent"] = Field(
        "off",
        description="load: as many tokens as the cost model finds fastest at each number of requests, none where "
        "drafting only slows (arXiv:2406.14066); recent: per request two more after a round that accepted all, one "
        "fewer after another (Hugging Face's heuristic schedule)",
    )
    disable_above: int = Field(0, ge=0, description="no drafts in steps of more requests than this; 0: always")
    host_s: Seconds = Field(
        0.0, ge=0, description="host time of drafting per step that nothing hides, such as the search for n-grams"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SpeculativeSpec:
        if said := _mistakes(self):
            raise ValueError("; ".join(said))
        return self

    @property
    def depth(self) -> int:
        """Most drafted tokens that one round can accept."""
        return self.draft_tokens - 1 if self.method == "parallel" else self.draft_tokens

    @property
    def widths(self) -> tuple[int, ...]:
        """Nodes at each depth: all ones for a chain, the running product of `tree` otherwise."""
        return tuple(accumulate(self.tree, mul)) if self.tree else (1,) * self.depth

    @property
    def nodes(self) -> int:
        """Drafted tokens that are verified per request and step."""
        return sum(self.widths)

    @property
    def chances(self) -> tuple[float, ...]:
        """Probability that at least 1, 2, ... drafted tokens are accepted, one path per round."""
        if self.position_acceptance:
            return self.position_acceptance
        if self.tree:
            return self._falling([sum(self.candidate_acceptance[:width]) for width in self.tree])
        return self._falling([self.first_acceptance] * self.draft_tokens)

    @property
    def first_acceptance(self) -> float:
        """Mean chance of the first drafted token of a chain, as given or as published."""
        found = self.acceptance if self.acceptance is not None else default_acceptance(self.method)
        return float(found or 0.0)

    @property
    def classes(self) -> tuple[tuple[float, ...], ...]:
        """`chances` of equally many requests each, where requests differ; one entry where they do not."""
        if not self.acceptance_deviation:
            return (self.chances,)
        each = beta_classes(self.first_acceptance, self.acceptance_deviation)
        return tuple(self._falling([one] * self.draft_tokens) for one in each)

    def _falling(self, each: list[float]) -> tuple[float, ...]:
        """Chances of whole paths from those of their tokens, which fall by `acceptance_decay` from depth to depth."""
        falling = (one * self.acceptance_decay**depth for depth, one in enumerate(each))
        return tuple(accumulate(falling, mul))


def expected_tokens_of(spec: SpeculativeSpec, drafts: int | None = None) -> float:
    """Mean tokens that a request gains in a round, its own included.

    Args:
        spec: who drafts and how much is accepted.
        drafts: tokens drafted along one path, where that is not the setting's.

    In the long run of `parallel`, rounds that verify all drafts are followed by such a round when the token being
    drafted meanwhile is accepted too, and others when the one that they checked is (`techniques.speculation`).
    """
    return sum(_expected(spec, chances, drafts) for chances in spec.classes) / len(spec.classes)


def notes_on(spec: SpeculativeSpec | None, max_num_seqs: int, max_num_batched_tokens: int) -> tuple[str, ...]:
    """What a reader of a prediction with drafts should know: whose acceptance it is, and what the budget holds."""
    if spec is None:
        return ()
    said = []
    if spec.acceptance is None and not spec.position_acceptance and not spec.tree:
        text = f"drafted tokens are accepted with chance {spec.first_acceptance:g} for want of a figure of yours"
        said.append(f"{text}: {default_source(spec.method)}")
    if max_num_seqs * (1 + spec.nodes) > max_num_batched_tokens:
        room = max_num_batched_tokens // (1 + spec.nodes)
        text = f"a step of {max_num_batched_tokens:,} tokens holds {room:,} requests with {spec.nodes} drafts each"
        said.append(f"{text}, fewer than max_num_seqs ({max_num_seqs:,})")
    return tuple(said)


def _expected(spec: SpeculativeSpec, chances: tuple[float, ...], drafts: int | None) -> float:
    if spec.method != "parallel":
        return 1.0 + sum(chances[: spec.depth if drafts is None else drafts])
    first, last = chances[0], chances[-1]
    share = first / (1.0 - last + first) if first else 0.0
    return 1.0 + share * sum(chances[:-1])


@cache
def beta_classes(mean: float, deviation: float) -> tuple[float, ...]:
    """Values of a Beta distribution that stand for equal shares of it: the means of its `CLASSES` slices.

    The mean over a slice of x f(x) is that share of the distribution with one success more.
    """
    from scipy.special import betainc, betaincinv

    weight = mean * (1.0 - mean) / deviation**2 - 1.0
    a, b = mean * weight, (1.0 - mean) * weight
    below = [float(betainc(a + 1.0, b, betaincinv(a, b, place / CLASSES))) for place in range(CLASSES + 1)]
    return tuple(CLASSES * mean * (high - low) for low, high in pairwise(below))


def _mistakes(spec: SpeculativeSpec) -> list[str]:
    """What does not go together, in words."""
    method, said = spec.method, []
    if method in OWN_MODEL and not spec.draft:
        said.append(f"draft: {method} needs the name of a draft model")
    if method in ("mtp", "medusa", "ngram") and spec.draft:
        said.append(f"draft: {method} drafts without a model of its own")
    if spec.one_pass and method not in ("draft-model", "eagle"):
        said.append(f"one_pass: is for draft-model and eagle, not {method}")
    if method == "parallel" and spec.draft_tokens < 2:
        said.append("draft_tokens: parallel drafts at least 2 tokens a round")
    given = spec.acceptance is not None
    if not given and not spec.position_acceptance and not spec.tree and default_acceptance(method) is None:
        said.append(f"acceptance: {method} needs how often drafts are accepted, or position_acceptance")
    if spec.position_acceptance:
        chances = (1.0, *spec.position_acceptance, 0.0)
        if len(spec.position_acceptance) != spec.draft_tokens:
            said.append(f"position_acceptance: must have draft_tokens ({spec.draft_tokens}) entries")
        if any(not later <= earlier for earlier, later in pairwise(chances)):
            said.append("position_acceptance: must be probabilities that do not increase")
        if given or spec.tree:
            said.append("position_acceptance: takes the place of acceptance and of a tree's arithmetic")
    if spec.acceptance_deviation:
        mean = spec.first_acceptance
        if spec.position_acceptance or spec.tree:
            said.append("acceptance_deviation: is for chains with one chance per token")
        elif spec.acceptance_deviation**2 >= mean * (1.0 - mean):
            said.append(
                f"acceptance_deviation: must be below {(mean * (1.0 - mean)) ** 0.5:.3f} about a mean of {mean:g}"
            )
    return said + _tree_mistakes(spec) + _adaptive_mistakes(spec)


def _tree_mistakes(spec: SpeculativeSpec) -> list[str]:
    if not spec.tree:
        return ["candidate_acceptance: is for trees"] if spec.candidate_acceptance else []
    said = []
    if spec.method not in ("draft-model", "eagle", "medusa"):
        said.append(f"tree: is for draft-model, eagle and medusa, not {spec.method}")
    if len(spec.tree) != spec.draft_tokens or min(spec.tree) < 1:
        said.append(f"tree: must have draft_tokens ({spec.draft_tokens}) entries of at least 1")
    elif len(spec.candidate_acceptance) < max(spec.tree):
        said.append(f"candidate_acceptance: must have an entry for each of {max(spec.tree)} candidates")
    elif spec.nodes > NODES:
        said.append(f"tree: has {spec.nodes} nodes, at most {NODES} are verified at a time")
    if min(spec.candidate_acceptance, default=0.0) < 0 or sum(spec.candidate_acceptance) > 1.0 + 1e-9:
        said.append("candidate_acceptance: must be probabilities that add up to at most 1")
    if spec.acceptance is not None:
        said.append("acceptance: of a tree comes from candidate_acceptance")
    if spec.one_pass:
        said.append("one_pass: is for chains")
    return said


def _adaptive_mistakes(spec: SpeculativeSpec) -> list[str]:
    said = []
    if spec.adaptive == "recent" and (spec.tree or spec.method == "parallel"):
        said.append("adaptive: recent is for chains that are verified after they are drafted")
    if spec.method == "parallel" and (spec.adaptive != "off" or spec.disable_above):
        said.append("adaptive: parallel drafts always, on accelerators of its own")
    if spec.adaptive == "load" and spec.disable_above:
        said.append("disable_above: adaptive by load finds the number of requests itself")
    return said


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    from importlib.resources import files

    text = (files("windtunnel") / "catalogue" / "speculation.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def default_acceptance(method: str) -> float | None:
    """The published acceptance of a method, None where it depends on the models or on the text."""
    entry = _defaults().get(method)
    return float(entry["acceptance"]) if entry is not None else None


def default_source(method: str) -> str:
    """Where the default comes from; empty without one."""
    return str(_defaults().get(method, {}).get("source", ""))
