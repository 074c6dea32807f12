"""What becomes of drafts: drawn from the probabilities of acceptance, or as listed with the requests.

`book` holds first the most tokens drafted per request by the number of requests in the step (0 to
`max_num_seqs`) and, where `WORLD.draft_octaves` is above 1, by the octave of their mean context; then the
probabilities that at least 1, 2, ... drafts are accepted (per class of requests), or for listed outcomes two
numbers per request (where its list begins, how many pairs it has) and the lists of pairs (accepted, proposed; -1
proposes all). `drafting.make_book` writes it.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, mix, njit


@inlined
def _outcomes(world: Any) -> int:
    """Where the probabilities, or the places of the lists, begin."""
    return int((world.max_num_seqs + 1) * world.draft_octaves)


@njit
def most_drafts(world: Any, book: Any, requests: int, context: int) -> int:
    """Most tokens to draft per request after a step of so many requests with so much context together."""
    if world.draft_octaves == 1:
        return int(book[requests])
    octave, mean = 0, context // max(requests, 1)
    while mean >= 32 and octave < world.draft_octaves - 1:
        mean >>= 1
        octave += 1
    return int(book[requests * world.draft_octaves + octave])


@njit
def _pair(world: Any, book: Any, i: int, sample: int) -> int:
    """Where the pair of request i's sample stands."""
    at = _outcomes(world) + 2 * i
    return int(book[at]) + 2 * (sample % int(book[at + 1]))


@inlined
def _drawn(world: Any, i: int, sample: int) -> float:
    """A number from 0 to 1 that depends on the seed, the request and its sample alone."""
    return float(((mix(mix(world.seed + 1, i), sample) >> 11) & 0x1FFFFFFFFFFFFF) / 9007199254740992.0)


@inlined
def _chances(world: Any, i: int) -> int:
    """Where the probabilities of request i begin: those of its class, where requests differ."""
    place = _outcomes(world)
    if world.draft_classes > 1:
        place += int(_drawn(world, -1 - i, 0) * world.draft_classes) * (world.draft_tokens + 1)
    return int(place)


@njit
def accepted_drafts(world: Any, book: Any, i: int, sample: int, verified: int) -> int:
    """How many of the verified drafts of request i's sample of this number are accepted."""
    if world.listed:
        return min(int(book[_pair(world, book, i, sample)]), verified)
    if verified == 0:
        return 0
    drawn = _drawn(world, i, sample)
    accepted = 0
    first = _chances(world, i)
    while accepted < verified and drawn < book[first + accepted]:
        accepted += 1
    return accepted


@njit
def proposed_drafts(world: Any, book: Any, slot: Any, i: int, sample: int, most: int) -> int:
    """How many tokens are drafted after this sample.

    A drafter that works beside the target has drafted them when the target agrees with the token that it began
    with (`agreeing`: PEARL); one that follows the request's last rounds drafts two more after a full one (`recent`).
    """
    if world.listed:
        proposed = int(book[_pair(world, book, i, sample) + 1])
        if proposed >= 0:
            return min(proposed, most)
    if world.agreeing:
        if slot.accepted < slot.verified:
            return 0
        return most if _drawn(world, i, sample) < book[_chances(world, i) + slot.verified] else 0
    if world.recent:
        if slot.verified > 0:
            slot.length += 2 if slot.accepted == slot.verified else -1
            slot.length = min(max(slot.length, 1), world.draft_tokens)
        return int(min(most, slot.length))
    return most
