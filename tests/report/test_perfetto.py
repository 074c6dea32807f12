from __future__ import annotations

import itertools
import json
from collections import defaultdict
from typing import Any

import pytest

from windtunnel.report.perfetto import KINDS, pipeline_trace
from windtunnel.specs.training import TrainingPlan
from windtunnel.specs.training_check import training_job
from windtunnel.training.step import StepTime, price


def step(batch: int = 64, timeline: bool = True, **plan: Any) -> StepTime:
    given = {"tensor_parallel": 4, "pipeline_parallel": 4, "sequence_parallel": True} | plan
    job = training_job(
        "llama-3.1-8b", "h100-sxm", gpus=32, global_batch_sequences=batch, seq_len=4096, plan=TrainingPlan(**given)
    )
    return price(job, timeline=timeline)


def slices(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


LAYOUTS = [
    {"zero_stage": 1},
    {"virtual_stages": 2, "overlap_p2p": False},
    {"schedule": "zero-bubble"},
    {"schedule": "gpipe"},
    {"schedule": "dualpipe"},
    {"pipeline_parallel": 1, "zero_stage": 3},
]


@pytest.mark.parametrize("plan", LAYOUTS)
def test_every_pass_is_there_once_and_nothing_overlaps(plan: dict[str, Any]) -> None:
    priced = step(**plan)
    trace = json.loads(json.dumps(pipeline_trace(priced), allow_nan=False))
    plan_ = priced.job.plan
    stages = plan_.pipeline_parallel * plan_.virtual_stages
    kinds = 3 if plan_.schedule in ("zero-bubble", "dualpipe") and plan_.pipeline_parallel > 1 else 2
    passes = [one for one in slices(trace) if one["cat"] in KINDS.values()]
    counted: defaultdict[str, int] = defaultdict(int)
    for one in passes:
        counted["forward" if one["cat"] == "forward" else "gradients"] += 1
    assert counted["forward"] == priced.job.microbatches * stages
    if kinds == 2:
        assert counted["gradients"] == priced.job.microbatches * stages
    by_thread: defaultdict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for one in slices(trace):
        assert one["dur"] >= 0
        assert one["ts"] + one["dur"] <= priced.seconds * 1e6 + 0.01
        by_thread[one["pid"], one["tid"]].append(one)
    for members in by_thread.values():
        members.sort(key=lambda one: one["ts"])
        for before, after in itertools.pairwise(members):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.01


@pytest.mark.parametrize("plan", LAYOUTS)
def test_passes_add_up_to_the_time_a_rank_is_busy(plan: dict[str, Any]) -> None:
    priced = step(**plan)
    busy: defaultdict[int, float] = defaultdict(float)
    for one in slices(pipeline_trace(priced)):
        if one["tid"] == 0:
            busy[one["pid"]] += one["dur"] / 1e6
    for rank, one in enumerate(priced.ranks):
        assert busy[rank] == pytest.approx(one.busy_s, rel=1e-4)


def test_what_follows_the_passes_ends_with_the_step() -> None:
    priced = step(zero_stage=1)
    trace = pipeline_trace(priced)
    last = max(slices(trace), key=lambda one: one["ts"] + one["dur"])
    assert last["name"] == "host"
    assert (last["ts"] + last["dur"]) / 1e6 == pytest.approx(priced.seconds)
    names = {one["name"] for one in slices(trace)}
    assert {"optimiser", "data parallel", "forward 0"} <= names
    processes = [one for one in trace["traceEvents"] if one["name"] == "process_name"]
    assert [one["args"]["name"] for one in processes] == [f"pipeline rank {rank} (8 layers)" for rank in range(4)]


def test_a_long_step_is_cut_in_its_middle_and_says_so() -> None:
    priced = step(batch=512)
    trace = pipeline_trace(priced, most_passes=200)
    cut = [one for one in slices(trace) if one["cat"] == "cut"]
    passes = [one for one in slices(trace) if one["cat"] in KINDS.values()]
    assert len(cut) == 4
    assert 150 <= len(passes) <= 250
    hidden = len(priced.timeline) - len(passes)
    assert cut[0]["name"].startswith(f"{hidden:,} passes not shown")
    assert "not shown" in trace["otherData"]
    # The first and the last pass stay.
    assert min(one["ts"] for one in passes) == 0.0
    assert max(one["ts"] + one["dur"] for one in passes) == pytest.approx(1e6 * max(r.end_s for r in priced.timeline))


def test_a_step_without_timeline_is_played_again() -> None:
    bare = step(timeline=False, zero_stage=1)
    assert bare.timeline == ()
    assert pipeline_trace(bare) == pipeline_trace(step(zero_stage=1))
