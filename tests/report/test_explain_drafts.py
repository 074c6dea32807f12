"""A step with drafts taken apart: it is the step that the simulator runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windtunnel.operators.batch import decode_batch
from windtunnel.report.explain import explain_record, explain_step, explain_text
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.workload.table import request_table

REQUESTS, PROMPT = 3, 400
SPECS: dict[str, dict[str, Any]] = {
    "draft-model": {"draft": "llama-3.2-1b", "acceptance": 0.0, "draft_tokens": 3},
    "one-pass": {"draft": "llama-3.2-1b", "acceptance": 0.0, "draft_tokens": 3, "one_pass": True},
    "eagle": {"method": "eagle", "acceptance": 0.0, "draft_tokens": 2},
    "medusa": {"method": "medusa", "acceptance": 0.0, "draft_tokens": 2},
    "tree": {"method": "eagle", "tree": [2, 2], "draft_tokens": 2, "candidate_acceptance": [0.0, 0.0]},
    "ngram": {"method": "ngram", "acceptance": 0.0, "draft_tokens": 5, "host_s": 2e-4},
    "sharded": {"draft": "llama-3.2-1b", "acceptance": 0.0, "draft_tokens": 3, "tp": 2},
}


def deployment(spec: dict[str, Any] | None) -> DeploymentSpec:
    given = dict(spec or {})
    plan = {"tensor_parallel": given.pop("tp", 1)}
    engine = {"extends": "vllm", "max_model_len": 2048, **({"speculative": given} if given else {})}
    return load_deployment({"model": "llama-3.1-8b", "accelerator": "h100-sxm", "plan": plan, "engine": engine})


@pytest.mark.parametrize("name", list(SPECS))
def test_the_step_is_the_one_that_the_simulator_runs(name: str) -> None:
    found = deployment(SPECS[name])
    spec = found.engine.speculative
    assert spec is not None
    table = request_table(np.zeros(REQUESTS), np.full(REQUESTS, PROMPT), np.full(REQUESTS, 50))
    steps = serve(found, table, record_steps=True).simulation.step_table
    assert steps is not None
    step = 20  # nothing is accepted, so that a step adds one token to each request
    context = PROMPT + step + spec.nodes
    assert steps.tokens[step] == REQUESTS * (1 + spec.nodes)
    explained = explain_step(found, decode_batch(REQUESTS, context), "A step")
    assert explained.batch.tokens == steps.tokens[step]
    assert explained.seconds == pytest.approx(steps.end_s[step] - steps.start_s[step], rel=2e-3)
    assert sum(row.seconds for row in explained.rows) == pytest.approx(explained.seconds)
    assert explained.limit_s < explained.seconds
    assert explained.tokens_out == REQUESTS
    drafting = [row for row in explained.rows if row.name.startswith("drafting")]
    assert drafting
    assert "drafting" in explain_text(explained)
    assert explain_record(explained)["tokens_out"] == REQUESTS


def test_energy_of_a_run_is_that_of_its_steps() -> None:
    found = deployment(SPECS["draft-model"])
    table = request_table(np.zeros(REQUESTS), np.full(REQUESTS, PROMPT), np.full(REQUESTS, 400))
    run = serve(found, table)
    explained = explain_step(found, decode_batch(REQUESTS, PROMPT + 200), "A step")
    dynamic = explained.joules - explained.step.static_w * explained.seconds
    assert float(run.simulation.dynamic_j.sum()) == pytest.approx(400 * dynamic, rel=0.03)


def test_a_step_without_drafts_is_as_before() -> None:
    plain = explain_step(deployment(None), decode_batch(3, 500), "A step")
    off = explain_step(deployment({"method": "eagle", "disable_above": 2}), decode_batch(3, 500), "A step")
    assert plain.seconds == plain.step.total_s == off.seconds
    assert plain.tokens_out == 3
    assert (
        explain_step(
            deployment({"method": "eagle", "disable_above": 3}), decode_batch(3, 500), "A step"
        ).batch.draft_tokens
        == 12
    )


def test_drafting_beside_the_target_hides_the_shorter_of_both() -> None:
    spec = {"method": "parallel", "draft": "llama-3.2-1b", "acceptance": 0.8, "draft_tokens": 3}
    explained = explain_step(deployment(spec), decode_batch(1, 500), "A step")
    drafting = sum(one.count * one.seconds for one in explained.drafting)
    assert explained.seconds == max(explained.step.total_s, drafting) == explained.step.total_s
