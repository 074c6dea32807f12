"""The answer of `train` as text and as a record; what is searched for an engine can be launched with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.report.train_facts import binding, limit_s, parts_of, rate_band, seconds_interval
from windtunnel.report.train_launch import launch_commands
from windtunnel.report.train_text import counted, money, runners_up, train_text
from windtunnel.specs.training import TrainingPlan
from windtunnel.specs.training_check import assembled_job, training_job
from windtunnel.training.answer import TrainingAnswer
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.screen import screen
from windtunnel.training.search import price_layout, search_layouts

FEW: dict[str, tuple[Any, ...]] = {"context_parallel": (1,), "zero_group": (0,), "micro_batch": (1, 2)}


@pytest.fixture(scope="module")
def answer() -> TrainingAnswer:
    job = assembled_job("llama-3.1-8b", "h100-sxm", gpus=16, global_batch_sequences=64, seq_len=4096)
    return search_layouts(TrainingQuestion((job,), wanted=FEW, tokens=15e12))


def test_parts_limits_and_intervals_add_up(answer: TrainingAnswer) -> None:
    assert answer.best is not None
    step = answer.best.step
    parts = parts_of(step)
    assert sum(part.seconds for part in parts) == pytest.approx(step.seconds, rel=1e-4)
    assert sum(part.share for part in parts) == pytest.approx(1.0, rel=1e-4)
    shares = [share for _, share in binding(step)]
    assert shares == sorted(shares, reverse=True)
    assert limit_s(step) / step.seconds == pytest.approx(step.mfu)
    low, high = seconds_interval(step)
    assert low < step.seconds < high
    for provenance in ("calibrated", "datasheet", "never heard of"):
        band = rate_band(provenance)
        assert 0 < band[0] < 1 < band[1]


def test_the_text_fits_and_lists_runners_up(answer: TrainingAnswer) -> None:
    text = train_text(answer, top=3)
    assert max(map(len, text.splitlines())) <= 80
    assert "15T tokens take" in text
    shown = runners_up(answer, 3)
    assert len(shown) == 3
    joined = " ".join(text.split())
    for one in shown:
        assert f"- {one.label}:" in joined
        assert one.why in joined
    assert "Runners-up" not in train_text(answer, top=0)
    assert "torchrun" in train_text(answer, launch=True)


def test_no_answer_has_its_text_too(answer: TrainingAnswer) -> None:
    nothing = replace(answer, best=None, candidates=(), frontier=(), budget=None)
    assert "No layout of llama-3.1-8b fits. No cluster of up to 65,536" in " ".join(train_text(nothing).split())
    large = training_job("llama-3.1-405b", "h100-sxm", gpus=8, global_batch_sequences=8, seq_len=4096)
    assert "does not fit" in train_text(price_layout(large))
    offloaded = TrainingPlan(zero_stage=2, offload_optimizer="host", recompute="full")
    small = training_job("llama-3.1-8b", "h100-sxm", gpus=8, global_batch_sequences=8, seq_len=4096, plan=offloaded)
    assert "optimiser states on the host" in " ".join(train_text(price_layout(small)).split())


def test_counts_and_money_read_well() -> None:
    assert (counted(15e12), counted(2e9), counted(16_777_216), counted(512.0)) == ("15T", "2B", "16.8M", "512")
    assert (money(12.5), money(2.5e6)) == ("$12.50", "$2.5 million")


@pytest.mark.parametrize("engine", ["megatron", "torchtitan", "deepspeed"])
def test_what_is_searched_for_an_engine_can_be_launched_with_it(engine: Any) -> None:
    job = assembled_job("llama-3.1-8b", "h100-sxm", gpus=24, global_batch_sequences=48, seq_len=4096, engine=engine)
    blocks, rng = screen(TrainingQuestion((job,))).blocks, np.random.default_rng(2)
    assert blocks
    for block in (blocks[int(i)] for i in rng.integers(len(blocks), size=60)):
        layout = block.layout(int(rng.integers(len(block.seconds))))
        own = launch_commands(layout)[0]
        assert own.refusals == (), f"{layout.plan.label()}: {own.refusals}"
