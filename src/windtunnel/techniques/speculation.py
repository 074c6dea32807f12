"""Speculative decoding as arithmetic: how many tokens a round of drafting and verification gives.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML 2023 (arXiv:2211.17192): each
drafted token is accepted with the same probability, independently.
"""

from __future__ import annotations


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


def parallel_tokens(acceptance: float, draft_tokens: int) -> float:
    """Mean tokens of a round when draft and target work at the same time (PEARL, arXiv:2408.11850, algorithm 2).

    In *pre-verify* the target judges the first token that is being drafted meanwhile: the round gives that token
    or the target's own. Accepted, the next round is *post-verify*: the target judges the tokens drafted before and
    the first of those being drafted, as many as a round drafts; all accepted, it goes on so; a rejection gives the
    target's own token, drops what was drafted meanwhile and returns to pre-verify. With chance a of acceptance and
    k tokens a round, post-verify gives (1 - a**k) / (1 - a) tokens on average and follows itself with chance a**k,
    so that in the long run a round gives (1 - a**k) / (1 - a) / (1 - a**k + a).

    >>> round(parallel_tokens(0.8, 4), 4)
    2.1212
    >>> parallel_tokens(1.0, 4), parallel_tokens(0.0, 4)
    (4.0, 1.0)
    """
    if acceptance >= 1.0:
        return float(draft_tokens)
    all_kept = acceptance**draft_tokens
    return float((1.0 - all_kept) / (1.0 - acceptance) / (1.0 - all_kept + acceptance))


def parallel_token_s(acceptance: float, draft_tokens: int, draft_s: float, verify_s: float) -> float:
    """Seconds per token when draft and target work at the same time; a round lasts as long as the slower of the two.

    Args:
        acceptance, draft_tokens, draft_s, verify_s: as in `serial_token_s`.
    """
    return max(draft_tokens * draft_s, verify_s) / parallel_tokens(acceptance, draft_tokens)


def acceptance_of(token_s: float, draft_tokens: int, draft_s: float, verify_s: float) -> float:
    """The acceptance at which taking turns takes `token_s` seconds per token, by bisection; 0 or 1 beyond them."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        slower = serial_token_s(middle, draft_tokens, draft_s, verify_s) > token_s
        low, high = (middle, high) if slower else (low, middle)
    return (low + high) / 2.0
