"""What becomes of drafts: drawn from the probabilities of acceptance, or as listed with the requests.

`book` holds first the most tokens drafted per request by the number of requests in the step (0 to
`max_num_seqs`), then the probabilities that at least 1, 2, ... drafts are accepted, or for listed
outcomes two numbers per request (where its list begins, how many pairs it has) and the lists of
pairs (accepted, proposed; -1 proposes all). `drafting.make_book` writes it.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import mix, njit


@njit
def _pair(world: Any, book: Any, i: int, sample: int) -> int:
    """Where the pair of request i's sample stands."""
    at = world.max_num_seqs + 1 + 2 * i
    return int(book[at]) + 2 * (sample % int(book[at + 1]))


@njit
def accepted_drafts(world: Any, book: Any, i: int, sample: int, verified: int) -> int:
    """How many of the verified drafts of request i's sample of this number are accepted."""
    if world.listed:
        return min(int(book[_pair(world, book, i, sample)]), verified)
    if verified == 0:
        return 0
    drawn = ((mix(mix(world.seed + 1, i), sample) >> 11) & 0x1FFFFFFFFFFFFF) / 9007199254740992.0
    accepted = 0
    first = world.max_num_seqs + 1
    while accepted < verified and drawn < book[first + accepted]:
        accepted += 1
    return accepted


@njit
def proposed_drafts(world: Any, book: Any, i: int, sample: int, most: int) -> int:
    """How many tokens are drafted after this sample."""
    if world.listed:
        proposed = int(book[_pair(world, book, i, sample) + 1])
        if proposed >= 0:
            return min(proposed, most)
    return most
