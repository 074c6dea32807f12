"""Speculative decoding as arithmetic: how many tokens a round of drafting and verification gives.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML 2023 (arXiv:2211.17192): each
drafted token is accepted with the same probability, independently.
"""

from __future__ import annotations

import random


def expected_tokens(acceptance: float, draft_tokens: int) -> float:
    """Mean tokens of a round that drafts so many and verifies them at once: (1 - a**(k+1)) / (1 - a).

    >>> round(expected_tokens(0.8, 4), 4)
    3.3616
    >>> expected_tokens(1.0, 4)
    5.0
    """
    if acceptance >= 1.0:
        return draft_tokens + 1.0
    return float((1.0 - acceptance ** (draft_tokens + 1)) / (1.0 - acceptance))


def serial_token_s(acceptance: float, draft_tokens: int, draft_s: float, verify_s: float) -> float:
    """Seconds per token when drafting and verification take turns (eq. 1 of the paper, with its own costs).

    Args:
        acceptance: chance that a drafted token is accepted.
        draft_tokens: tokens drafted per round.
        draft_s: time of one draft step.
        verify_s: time of the target's step over all drafted tokens and one more.
    """
    return (draft_tokens * draft_s + verify_s) / expected_tokens(acceptance, draft_tokens)


def parallel_token_s(
    acceptance: float, draft_tokens: int, draft_s: float, verify_s: float, rounds: int = 20_000, seed: int = 0
) -> float:
    """Seconds per token when draft and target work at the same time (PEARL, arXiv:2408.11850, algorithm 2).

    A round lasts as long as the slower of the two. In *pre-verify* the target judges the first token that is
    being drafted; if it is accepted, the round's tokens go on to *post-verify*: the target judges the rest of
    them while the next ones are drafted. A rejection gives the target's own token, drops what was drafted
    meanwhile and returns to pre-verify. Played out, since the chain of rounds has no simple mean.

    Args:
        acceptance, draft_tokens, draft_s, verify_s: as in `serial_token_s`.
        rounds: how many rounds are played.
        seed: of the draws.
    """
    draw = random.Random(seed).random
    tokens, pending = 0, 0  # pending: drafted tokens that wait for their verdict
    for _ in range(rounds):
        if pending == 0:
            tokens += 1  # the first drafted token, or the target's own in its place
            pending = draft_tokens - 1 if draw() < acceptance else 0
            if pending == 0 and draft_tokens > 1:
                continue
        else:
            kept = 0
            while kept < pending and draw() < acceptance:
                kept += 1
            tokens += kept
            if kept == pending:
                pending = draft_tokens
            else:
                tokens += 1
                pending = 0
    return rounds * max(draft_tokens * draft_s, verify_s) / tokens


def best_serial(acceptance: float, draft_s: float, verify_s: float, most: int = 24) -> tuple[int, float]:
    """The draft length with the least time per token when taking turns, and that time."""
    times = {k: serial_token_s(acceptance, k, draft_s, verify_s) for k in range(1, most + 1)}
    best = min(times, key=lambda k: times[k])
    return best, times[best]
