from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windtunnel.live.prompts import Vocabulary, text_prompt, token_prompt
from windtunnel.workload.table import RequestTable, request_table

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def chained(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> RequestTable:
    both = first + second
    segments = ([0, len(first), len(both)], [c for c, _ in both], [n for _, n in both])
    prompts = [sum(n for _, n in first), sum(n for _, n in second)]
    return request_table([0.0, 0.0], prompts, [1, 1], segments=segments)


@given(SIZES, SIZES, SIZES, st.integers(0, 3))
def test_prompts_agree_exactly_as_far_as_their_segments(
    shared: list[int], left: list[int], right: list[int], salt: int
) -> None:
    head = [(i, n) for i, n in enumerate(shared)]
    table = chained(
        head + [(100 + i, n) for i, n in enumerate(left)], head + [(200 + i, n) for i, n in enumerate(right)]
    )
    vocabulary = Vocabulary(300, 1_000_000)  # wide, so that two contents never begin alike by chance
    one, two = (token_prompt(table, row, vocabulary, salt) for row in (0, 1))
    assert [len(one), len(two)] == table.prompt_tokens.tolist()
    agree = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    assert agree == sum(shared)


def test_requests_that_share_nothing_differ_and_stay_in_the_vocabulary() -> None:
    table = request_table([0.0, 0.0], [500, 500], [1, 1])
    one, two = (token_prompt(table, row, Vocabulary(10, 99)) for row in (0, 1))
    assert one != two
    assert min(one + two) >= 10
    assert max(one + two) <= 99


def test_another_salt_shares_nothing() -> None:
    table = request_table([0.0], [64], [1])
    assert token_prompt(table, 0, Vocabulary(), 0)[:4] != token_prompt(table, 0, Vocabulary(), 1)[:4]


def test_text_has_so_many_words_and_keeps_the_sharing() -> None:
    table = chained([(1, 30), (2, 5)], [(1, 30), (3, 5)])
    one, two = (text_prompt(table, row, 40).split() for row in (0, 1))
    assert len(one) == len(two) == 40
    assert one[:30] == two[:30]
