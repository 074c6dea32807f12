"""Published joules and watts against predictions, where the published table is at hand."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from helpers import shared_file
from windtunnel.evidence.outcomes import predict_chunk
from windtunnel.evidence.score import family_of
from windtunnel.evidence.serving import claims_of
from windtunnel.evidence.table import read_table
from windtunnel.evidence.validate import compare


@pytest.mark.slow
def test_energy_rows_are_predicted_within_a_fifth() -> None:
    table = read_table(shared_file("evidence", "serving.csv"))
    claims = [c for c in claims_of(table) if family_of(c.tags["metric"]) == "energy"]
    scenarios = list(dict.fromkeys(c.scenario for c in claims if c.scenario is not None))
    results, _ = compare(claims, dict(predict_chunk(scenarios)))
    assert len(results) > 0.85 * len(claims)
    errors: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for one in results:
        for name in ("metric", "split"):
            errors[name, one.tag(name)].append(abs(one.error))
    medians = {key: float(np.median(found)) for key, found in errors.items() if len(found) >= 10}
    assert max(medians.values()) < 0.2, medians
