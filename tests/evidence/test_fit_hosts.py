"""The factor of a server's host is found again from first tokens predicted with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evidence.test_inferencex_servers import ROW
from windtunnel.evidence.fit_engines import HostFit, with_constants
from windtunnel.evidence.fit_hosts import fit_host, host_times
from windtunnel.evidence.inferencex import claims_of_row
from windtunnel.evidence.outcomes import predict
from windtunnel.evidence.table import Row
from windtunnel.specs.load import resolve

HOST = HostFit(node="dgx-b300", preset="sglang", like="vllm-server")


@pytest.mark.parametrize("factor", [0.4, 0.8])
def test_a_known_factor_is_recovered(factor: float) -> None:
    present = resolve("nodes", HOST.node).host_time
    engine = with_constants(resolve("engines", HOST.preset), host_times(resolve("engines", HOST.like), present, factor))
    claims = []
    for clients in ("4", "8"):
        changed = {"system": "b300_sxm", "backend": "sglang", "backend_version": "0.5.10", "concurrency": clients}
        claim = claims_of_row(Row(2, ROW | changed | {"model_path": "zai-org/GLM-5"}))[0]
        assert claim.scenario is not None
        claims.append(replace(claim, measured=1e3 * predict(claim.scenario, engine).values[claim.value]))
    found, rows = fit_host(claims, HOST)
    assert rows == 2
    assert found == pytest.approx(factor, rel=0.02)
