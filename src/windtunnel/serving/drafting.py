"""Speculative tokens as the scheduler sees them, and the arrays that the kernel reads about them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.errors import Problem

Outcomes = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Drafting:
    """How many tokens are drafted for a request, what they take, and how many are accepted.

    Attributes:
        tokens: most draft tokens verified per request and step (the nodes of a draft tree).
        acceptance: probability that at least 1, 2, ... of them are accepted, not increasing; the
            chain or the best path through the tree. May be shorter than `tokens`.
        lookahead: KV slots that the drafter wants beyond the tokens of a step.
        slots: what one request takes of the step's token budget for drafting, beside its tokens.
        drop_block: whether the last block found in the prefix cache is computed anew (drafters
            that read the target's hidden states).
        by_batch: tokens drafted when a step holds 0, 1, 2, ... requests (the last value goes on);
            empty for `tokens` always.
        by_load: instead, per such number of requests, by the octave of their mean context: below 32 tokens,
            below 64, and so on (the last value goes on).
        recent: whether a request's length follows its last rounds: two more after one that accepted all,
            one fewer after another.
        classes: instead of `acceptance`, that of equally many requests each; a request's class is drawn.
        agreeing: whether drafts exist only when the target agreed with the token that they continue, which was
            drafted while it worked; `acceptance` then has one entry more than `tokens`.
        outcomes: for replays, per row of the workload the pairs (accepted, proposed) that its
            samples take in turn; proposed -1 is all. Empty to draw from `acceptance`.
    """

    tokens: int
    acceptance: tuple[float, ...] = ()
    lookahead: int = 0
    slots: int = 0
    drop_block: bool = False
    by_batch: tuple[int, ...] = ()
    outcomes: Outcomes = ()
    by_load: tuple[tuple[int, ...], ...] = ()
    recent: bool = False
    classes: tuple[tuple[float, ...], ...] = ()
    agreeing: bool = False

    @property
    def spare_tokens(self) -> int:
        """Tokens beyond a request's own for which it may hold KV blocks at its end."""
        return 2 * (self.tokens + 1) + self.lookahead


def drafting_problems(drafting: Drafting, budget: int, threshold: int) -> list[Problem]:
    """What the engine would refuse, or never serve, in these settings.

    Args:
        drafting: the settings.
        budget: most tokens of a step.
        threshold: most prompt tokens of one request in a step, 0 for no limit.
    """
    problems = []
    if drafting.tokens < 1:
        problems.append(Problem("must be at least 1", path="drafting.tokens", got=str(drafting.tokens)))
    if min(drafting.lookahead, drafting.slots) < 0:
        problems.append(Problem("must not be negative", path="drafting"))
    known = drafting.classes or (drafting.acceptance,)
    if any(not later <= earlier for one in known for earlier, later in pairwise((1.0, *one, 0.0))):
        text = "must be probabilities that do not increase"
        problems.append(Problem(text, path="drafting.acceptance", got=str(drafting.acceptance)))
    if any(not 0 <= tokens <= drafting.tokens for tokens in (*drafting.by_batch, *chain(*drafting.by_load))):
        text = f"must lie between 0 and drafting.tokens ({drafting.tokens})"
        problems.append(Problem(text, path="drafting.by_batch", got=str(drafting.by_batch)))
    least = 1 + drafting.tokens + drafting.slots
    if budget < least:
        text = f"must be at least {least} for one request with its drafts"
        problems.append(Problem(text, path="max_num_batched_tokens", got=str(budget)))
    if 0 < threshold <= drafting.tokens:
        text = f"must be 0 or above the number of draft tokens ({drafting.tokens})"
        problems.append(Problem(text, path="long_prefill_token_threshold", got=str(threshold)))
    return problems


def make_book(drafting: Drafting | None, max_num_seqs: int) -> npt.NDArray[np.float64]:
    """One replica's book, laid out as `ahead.outcome` reads it."""
    if drafting is None:
        return np.zeros(max_num_seqs + 2)
    by_load = drafting.by_load or tuple((tokens,) for tokens in drafting.by_batch) or ((drafting.tokens,),)
    lengths = [float(n) for count in range(max_num_seqs + 1) for n in by_load[min(count, len(by_load) - 1)]]
    if not drafting.outcomes:
        classes = drafting.classes or (drafting.acceptance,)
        chances = np.zeros((len(classes), drafting.tokens + 1))
        for row, one in zip(chances, classes, strict=True):
            known = one[: drafting.tokens + drafting.agreeing]
            row[: len(known)] = known
        return np.concatenate([lengths, chances.ravel()])
    at = len(lengths) + 2 * len(drafting.outcomes)
    places: list[float] = []
    flat: list[float] = []
    for pairs in drafting.outcomes:
        places += [at + len(flat), len(pairs)]
        flat += [number for pair in pairs for number in pair]
    return np.array([*lengths, *places, *flat], dtype=np.float64)


def write_drafting(world: npt.NDArray[Any], drafting: Drafting | None) -> None:
    """Set the fields of `WORLD` that the scheduler reads."""
    world["draft_octaves"] = world["draft_classes"] = 1
    if drafting is not None:
        world["draft_tokens"], world["draft_slots"] = drafting.tokens, drafting.slots
        world["lookahead"], world["drop_block"] = drafting.lookahead, drafting.drop_block
        world["by_batch"] = bool(drafting.by_batch or drafting.by_load)
        world["listed"] = bool(drafting.outcomes)
        world["recent"], world["agreeing"] = drafting.recent, drafting.agreeing
        world["draft_classes"] = max(len(drafting.classes), 1)
        if drafting.by_load:
            world["draft_octaves"] = len(drafting.by_load[0])
