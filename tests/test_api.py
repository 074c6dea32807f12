"""The library's front, as a program uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import windtunnel as wt
from windtunnel.answers import Plan
from windtunnel.search.result import PlanResult

TRAFFIC = {"arrival_s": [0.3 * i for i in range(60)], "prompt_tokens": [500] * 60, "output_tokens": [40] * 60}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return wt.plan(
        "llama-3.1-8b",
        accelerators=["l4", "h100-sxm"],
        slo="ttft_p99<2s,tpot_p99<80ms",
        workload=wt.request_table(**TRAFFIC),
        max_accelerators=2,
    )


def test_plan_answers_and_shows(plan: PlanResult) -> None:
    assert plan.pick is not None
    text = wt.show(plan)
    assert plan.pick.deployment.accelerator.name in text


def test_simulate_answers() -> None:
    found = wt.simulate(wt.deployment("llama-3.1-8b", "h100-sxm"), wt.request_table(**TRAFFIC), slo="ttft_p99<2s")
    assert found.metrics.finished == 60
    assert found.simulation.ttft_s.shape == (60,)
    assert found.usd_per_h > 0
    assert found.memory.fits
    assert found.notes == ()
    assert "Every target holds" in wt.show(found)


def test_simulate_takes_a_name_and_a_spec() -> None:
    found = wt.deployment("llama-3.1-8b", "h100-sxm")
    spec = wt.WorkloadSpec(requests=50, arrivals={"rate_per_s": 5.0})
    assert wt.simulate(found, spec, prices={"h100-sxm": 1.0}).usd_per_h == 1.0
    assert wt.simulate(found, "chat-fixed").workload_name == "chat-fixed"


def test_results_are_written_whole(plan: PlanResult, tmp_path: Path) -> None:
    found = wt.deployment("llama-3.1-8b", "h100-sxm")
    served = wt.simulate(found, wt.request_table(**TRAFFIC))
    explained = wt.explain(found, wt.decode_batch(8, 1000))
    for name, result in (("plan", plan), ("run", served), ("step", explained)):
        path = wt.save(result, tmp_path / f"{name}.json")
        assert isinstance(json.loads(path.read_text()), dict)
    for name, result in (("plan", plan), ("run", served)):
        assert "<html" in wt.save(result, tmp_path / f"{name}.html").read_text()
    with pytest.raises(wt.InputError, match=r"cannot write this kind of file, got '\.html'; allowed: \.json"):
        wt.save(explained, tmp_path / "step.html")
    with pytest.raises(wt.InputError, match=r"allowed: \.json or \.html"):
        wt.save(served, tmp_path / "run.pdf")


def test_explain_adds_up_and_shows() -> None:
    found = wt.deployment("llama-3.1-8b", "h100-sxm")
    explained = wt.explain(found, wt.decode_batch(8, 1000) + wt.prefill_batch([(0, 256)]))
    assert "The step" in wt.show(explained)


def test_mistakes_are_raised_together() -> None:
    with pytest.raises(wt.InputError) as caught:
        wt.plan("llama-3.1-8", accelerators=["h100-smx", "l4"], slo="tfft<2s", engine="vlm")
    found = {problem.file: problem.nearest for problem in caught.value.problems}
    assert found == {"model": found["model"], "accelerator": "h100-sxm", "slo": "ttft", "engine": "vllm"}
    assert found["model"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_accelerators": 0}, "max_accelerators: must be at least 1, got 0"),
        ({"accelerators": []}, "accelerators: no accelerator given"),
        ({"precisions": ["fp9"]}, "precisions: unknown number format, got 'fp9'.*did you mean 'fp"),
        ({"precisions": []}, "precisions: no number format given"),
        ({"prices": {"h100-smx": 1.0}}, "prices: unknown accelerator, got 'h100-smx'.*did you mean 'h100-sxm'"),
        ({"prices": {"l4": -1.0}}, r"prices: l4: must be 0 or more dollars, got -1\.0"),
        ({"prices": {"l4": float("nan")}}, "prices: l4: must be 0 or more dollars, got nan"),
        ({"workload": wt.request_table([], [], [])}, "workload: there is no request to serve"),
        ({"workload": "azure-conversatio"}, "did you mean 'azure-conversation'"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"accelerators": ["l4"], "slo": "ttft<2s", "workload": wt.request_table(**TRAFFIC)}
    with pytest.raises(wt.InputError, match=message):
        wt.plan("llama-3.1-8b", **{**asked, **given})


def test_one_accelerator_need_not_be_in_a_list_and_counts_once() -> None:
    workload = wt.request_table([0.0, 1.0], [100, 100], [5, 5])
    asked: dict[str, Any] = {"slo": "ttft<2s", "workload": workload, "max_accelerators": 1, "prices": {"L4": 0.25}}
    alone, twice = (wt.plan("llama-3.1-8b", accelerators=a, **asked) for a in ("l4", ["l4", "L4"]))
    assert alone.accelerators == twice.accelerators == ("l4",)
    assert len(alone.candidates) == len(twice.candidates)
    assert alone.pick is not None
    assert alone.pick.usd_per_h == 0.25


def test_what_does_not_fit_is_infeasible() -> None:
    with pytest.raises(wt.InfeasibleError, match="does not fit: weights"):
        wt.simulate(wt.deployment("llama-3.1-70b", "l4"), wt.request_table(**TRAFFIC))


def test_catalogue_lists_names() -> None:
    assert "h100-sxm" in wt.catalogue("accelerators")
    with pytest.raises(wt.InputError, match="did you mean 'models'"):
        wt.catalogue("model")


def test_plan_clips_requests_to_the_models_context() -> None:
    found = wt.plan(
        "opt-125m",
        accelerators=["l4"],
        slo="ttft_p99<2s",
        workload=wt.request_table([0.0, 1.0, 2.0], [500, 5000, 500], [10, 10, 10]),
        max_accelerators=1,
        precisions=["bf16"],
    )
    assert found.pick is not None
    assert found.pick.metrics is not None
    assert found.pick.metrics.rejected == 0
    assert any("2,048" in note or "2048" in note for note in found.notes)


def test_an_unknown_name_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = wt.simulat
    assert set(wt.__all__) <= set(dir(wt))


def test_answers_carry_their_own_verbs(plan: Plan, tmp_path: Path) -> None:
    explained = wt.explain(wt.deployment("llama-3.1-8b", "h100-sxm"), wt.decode_batch(8, 1000))
    served = wt.simulate(wt.deployment("llama-3.1-8b", "h100-sxm"), wt.request_table(**TRAFFIC))
    for answer in (plan, served, explained):
        assert answer.table() == wt.show(answer)
        assert json.loads(json.dumps(answer.as_dict(), allow_nan=False)) == answer.as_dict()
        assert answer.as_dict() == json.loads(answer.save(tmp_path / "answer.json").read_text())


def test_a_deployment_may_be_a_file() -> None:
    path = Path(__file__).parent.parent / "examples" / "custom_deployment.yaml"
    served = wt.simulate(path, wt.request_table(**TRAFFIC), prices={"l40s-at-300w": 1.0})
    assert served.usd_per_h == 4.0
    assert served.deployment.accelerator.max_w == 300
    assert served.metrics.finished == 60
    assert wt.explain(str(path), wt.decode_batch(4, 500)).seconds > 0


def test_train_searches_prices_a_plan_and_is_written(tmp_path: Path) -> None:
    job: dict[str, Any] = {"accelerators": "h100-sxm", "gpus": 8, "global_batch": "256k-tokens", "seq_len": 4096}
    few = {"context_parallel": 1, "tp_overlap": False, "micro_batch": [1, 2]}
    found = wt.train("llama-3.1-8b", **job, values=few, tokens=1e12, prices={"h100-sxm": 2.0})
    assert found.best is not None
    assert found.best.job.global_batch_sequences == 64
    assert {c.job.plan.micro_batch for c in found.candidates} <= {1, 2}
    assert found.table() == wt.show(found)
    assert found.table().startswith("Train llama-3.1-8b on 8 x h100-sxm")
    assert json.loads(found.save(tmp_path / "train.json").read_text()) == found.as_dict()
    assert "<html" in found.save(tmp_path / "train.html").read_text()
    given = wt.train("llama-3.1-8b", **job, plan="fsdp", values={"micro_batch": 2})
    assert given.best is not None
    assert given.best.job.engine == "torchtitan"
    again = wt.train("llama-3.1-8b", **job, plan=given.best.job.plan, engine="torchtitan")
    assert again.best is not None
    assert again.best.step.seconds == given.best.step.seconds


def test_train_says_everything_that_is_wrong_at_once() -> None:
    with pytest.raises(wt.InputError) as caught:
        wt.train(
            "lama-3.1-8b", accelerators="h10", gpus=0, global_batch=8, seq_len=1, values={"tp": 8, "zero_stage": [1, 9]}
        )
    for text in ("'llama-3.1-8b'", "accelerator", "gpus", "no such field of a plan", "zero_stage"):
        assert text in str(caught.value)
