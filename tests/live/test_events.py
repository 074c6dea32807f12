from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.live.events import EventDecoder

EVENTS = [b'{"a": 1}', "grün ✓".encode(), b"[DONE]", b""]


@given(st.lists(st.sampled_from(EVENTS), max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_events_do_not_depend_on_where_the_network_cuts(
    events: list[bytes], newline: bytes, data: st.DataObject
) -> None:
    stream = b"".join(b": comment" + newline + b"data: " + event + newline + newline for event in events)
    stream += b": end" + newline  # a bare CR at the very end could still be half of CR LF
    decoder = EventDecoder()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == events


def test_several_data_lines_are_one_event() -> None:
    assert EventDecoder().feed(b"event: x\ndata: a\ndata:b\nid: 3\n\n") == [b"a\nb"]


@pytest.mark.parametrize("rest", [b"data: {", b"data: {}\n"])
def test_an_event_without_its_end_is_unfinished(rest: bytes) -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: 1\n\n" + rest) == [b"1"]
    assert decoder.unfinished
