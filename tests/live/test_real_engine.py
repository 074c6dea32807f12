"""Against the real vLLM on a CPU (see `engine.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from live import engine
from windtunnel.live.bench import Bench, bench
from windtunnel.live.endpoint import Endpoint
from windtunnel.live.load import LoadSettings
from windtunnel.live.prompts import Vocabulary
from windtunnel.workload.table import request_table

pytestmark = pytest.mark.slow


def test_lengths_sharing_and_gauges(tmp_path: Path) -> None:
    """Exact prompt and output lengths, shared prefixes found by the engine's cache, its gauges recorded."""
    engine.python()
    n, shared = 24, 256
    own = np.arange(n)
    segments = (2 * np.arange(n + 1), np.stack([np.zeros(n), 1 + own], axis=1).ravel(), np.tile([shared, 40], n))
    table = request_table(own * 0.25, np.full(n, shared + 40), 2 + own % 7, segments=segments)
    settings = LoadSettings(vocabulary=Vocabulary(10, 8000))
    with engine.serving(engine.write_model(tmp_path / "model"), 18211, max_num_seqs=16) as url:
        measured = bench(Bench(table, Endpoint(url), settings, tmp_path / "out"))
        chat_refused = bench(Bench(table, Endpoint(url), settings, warmup=0))
    assert measured.ok.all(), measured.meta["notes"]
    np.testing.assert_array_equal(measured.prompt_reported, table.prompt_tokens)
    np.testing.assert_array_equal(measured.output_received, table.output_tokens)
    np.testing.assert_array_equal(np.diff(measured.token_offset), table.output_tokens)
    assert chat_refused.ok.all()
    hits, queries = measured.engine["prefix_hits"], measured.engine["prefix_queries"]
    share = (hits[-1] - hits[0]) / (queries[-1] - queries[0])
    assert share == pytest.approx(shared / (shared + 40), abs=0.15)
    assert np.nanmax(measured.engine["running"]) <= 16
