"""Prompts with the workload's exact lengths and shared prefixes.

A workload says what its prompts consist of as segments of content; each content id stands for one endless
sequence of token ids, so that two prompts agree exactly as far as their segments do. Where nothing is
shared every request has content of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.errors import Problem, SpecError
from windtunnel.workload.table import RequestTable

Ints = npt.NDArray[np.int64]

_STEP, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

WORDS: tuple[str, ...] = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
)
"""Common English words: nearly every tokenizer makes one token of each when a space stands before it."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids that prompts are drawn from: `first` to `last`, both included.

    The default leaves out the first ids, where special tokens and single bytes stand in the usual
    vocabularies, and stays below the size of every common one.
    """

    first: int = 300
    last: int = 7999

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise SpecError(
                Problem("must be FIRST:LAST with 0 <= FIRST < LAST", "--token-ids", got=f"{self.first}:{self.last}")
            )


def content(content_id: int, start: int, tokens: int, size: int) -> Ints:
    """Numbers below `size` at places start to start + tokens of a content's sequence (splitmix64)."""
    with np.errstate(over="ignore"):
        place = np.arange(start, start + tokens, dtype=np.uint64)
        x = (np.uint64(content_id & 0xFFFFFFFFFFFFFFFF) * _MIX_1) ^ ((place + np.uint64(1)) * _STEP)
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        x ^= x >> np.uint64(31)
    return (x % np.uint64(size)).astype(np.int64)


def prompt_numbers(table: RequestTable, row: int, size: int, salt: int = 0) -> Ints:
    """The prompt of a row as numbers below `size`; a run with another salt shares nothing with this one."""
    if not table.shares_prefixes:
        return content(_salted(row, salt), 0, int(table.prompt_tokens[row]), size)
    a, b = int(table.segment_offset[row]), int(table.segment_offset[row + 1])
    parts = [
        content(_salted(int(table.segment_id[i]), salt), 0, int(table.segment_tokens[i]), size) for i in range(a, b)
    ]
    return np.concatenate(parts)


def _salted(content_id: int, salt: int) -> int:
    return (content_id * 2 + 1) ^ (salt * 0x51ED270B)


def token_prompt(table: RequestTable, row: int, vocabulary: Vocabulary, salt: int = 0) -> list[int]:
    """The prompt of a row as token ids."""
    size = vocabulary.last - vocabulary.first + 1
    numbers: list[int] = (prompt_numbers(table, row, size, salt) + vocabulary.first).tolist()
    return numbers


def text_prompt(table: RequestTable, row: int, words: int, salt: int = 0) -> str:
    """The prompt of a row as text of so many words, with the row's sharing kept from its start."""
    numbers = prompt_numbers(table, row, len(WORDS), salt)
    if words > len(numbers):
        more = content(_salted(-2 - row, salt), 0, words - len(numbers), len(WORDS))
        numbers = np.concatenate([numbers, more])
    return " ".join(WORDS[i] for i in numbers[:words])
