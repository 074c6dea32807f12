"""Steps padded to captured graph sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.padding import largest_capture, padded_tokens, padding
from windtunnel.specs.assemble import deployment
from windtunnel.specs.engine import EngineSpec

ENGINE = EngineSpec(name="one", capture_tokens=512, max_num_seqs=256)


@given(st.integers(0, 3000), st.integers(1, 1024))
def test_padding_is_upward_small_and_idempotent(tokens: int, seqs: int) -> None:
    engine = ENGINE.model_copy(update={"max_num_seqs": seqs})
    padded = padded_tokens(tokens, engine)
    assert tokens <= padded < tokens + 16
    assert padded_tokens(padded, engine) == padded
    if tokens > largest_capture(engine):
        assert padded == tokens


def test_captured_sizes_are_vllms() -> None:
    sizes = sorted(set(padding(512, ENGINE).tolist()) - {0})
    assert sizes == [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)]
    assert padded_tokens(300, ENGINE.model_copy(update={"graphs": False})) == 300


def test_a_padded_step_costs_what_its_graph_costs() -> None:
    padded = step_surface(deployment("meta-llama/Llama-3.1-8B", "h100-sxm", engine=ENGINE))
    plain = step_surface(
        deployment("meta-llama/Llama-3.1-8B", "h100-sxm", engine=ENGINE.model_copy(update={"capture_tokens": 0}))
    )
    assert padded.token_s[9] == plain.token_s[16]
    assert np.array_equal(padded.token_s[513:], plain.token_s[513:])
