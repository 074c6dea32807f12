"""The batch of one step, as the sums that its cost depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Batch:
    """Aggregates of the requests that one step schedules. A step of a replica is one forward pass.

    Attributes:
        decode_requests: requests that compute one token each.
        decode_context_tokens: sum over them of the cached tokens that they attend to.
        decode_window_tokens: the same with each request cut at the sliding window (0 without one).
        prefill_requests: requests that compute a chunk of their prompt.
        prefill_tokens: sum of the chunks.
        prefill_pairs: query-key pairs of causal attention: length * start + length * (length + 1) / 2
            for a chunk of `length` tokens after `start` computed ones.
        prefill_window_pairs: the same where a token attends to at most the window's tokens.
        prefill_context_tokens: sum of start + length, the keys that the chunks read.
        sampled: rows for which a token is sampled (decodes, their drafted tokens, and last chunks).
        draft_tokens: drafted tokens that the decoding requests verify beside their own, all together.
    """

    decode_requests: int = 0
    decode_context_tokens: int = 0
    decode_window_tokens: int = 0
    prefill_requests: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    prefill_window_pairs: int = 0
    prefill_context_tokens: int = 0
    sampled: int = 0
    draft_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return self.decode_requests + self.draft_tokens + self.prefill_tokens

    @property
    def prefill_keys(self) -> tuple[float, float]:
        """Keys that the last queries of a chunk attend to: the mean over the chunks, and over queries in a window."""
        if not self.prefill_tokens:
            return 0.0, 0.0
        mean = self.prefill_context_tokens / max(self.prefill_requests, 1)
        return mean, self.prefill_window_pairs / self.prefill_tokens

    @property
    def queries(self) -> int:
        """Tokens of a decoding request, its drafted ones included, on average and rounded."""
        return 1 + round(self.draft_tokens / self.decode_requests) if self.decode_requests else 1

    def with_drafts(self, tokens: int) -> Batch:
        """The batch in which every decoding request verifies so many drafted tokens more."""
        drafts = self.decode_requests * tokens
        return replace(self, draft_tokens=self.draft_tokens + drafts, sampled=self.sampled + drafts)

    @property
    def requests(self) -> int:
        """Requests that the step schedules."""
        return self.decode_requests + self.prefill_requests

    def __add__(self, other: Batch) -> Batch:
        return Batch(*(getattr(self, name) + getattr(other, name) for name in Batch.__slots__))


def decode_batch(requests: int, context_tokens: int, window_tokens: int = 0) -> Batch:
    """`requests` requests that decode, each with the same context.

    >>> decode_batch(4, 1000).decode_context_tokens
    4000
    """
    windowed = min(context_tokens, window_tokens) if window_tokens else 0
    return Batch(
        decode_requests=requests,
        decode_context_tokens=requests * context_tokens,
        decode_window_tokens=requests * windowed,
        sampled=requests,
    )


def prefill_batch(chunks: Iterable[tuple[int, int]], window_tokens: int = 0, last: bool = True) -> Batch:
    """Chunks of prompts, each (tokens computed before, tokens in the chunk).

    Args:
        chunks: one entry per request.
        window_tokens: the sliding window of the model's windowed layers, 0 for none.
        last: whether the chunks end their prompts, so that each samples a token.

    >>> prefill_batch([(0, 4), (10, 2)]).prefill_pairs
    33
    """
    total = Batch()
    for start, length in chunks:
        total += Batch(
            prefill_requests=1,
            prefill_tokens=length,
            prefill_pairs=causal_pairs(start, length),
            prefill_window_pairs=windowed_pairs(start, length, window_tokens) if window_tokens else 0,
            prefill_context_tokens=start + length,
            sampled=int(last),
        )
    return total


def causal_pairs(start: int, length: int) -> int:
    """Query-key pairs of `length` tokens after `start` computed ones; a token attends to itself too."""
    return length * start + length * (length + 1) // 2


def windowed_pairs(start: int, length: int, window_tokens: int) -> int:
    """The same when each token attends to the last `window_tokens` tokens at most, itself included."""
    growing = min(max(window_tokens - start, 0), length)
    return causal_pairs(start, growing) + (length - growing) * window_tokens
