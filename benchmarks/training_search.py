"""Speed of the training search: layouts in closed form, pipelines played out, whole searches.

Compare ratios between two commits on one machine, not seconds between machines.

    python benchmarks/training_search.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import assembled_job
from windtunnel.training.closed_form import step_seconds
from windtunnel.training.memory_fits import peak_bytes
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.screen import screen
from windtunnel.training.search import price_layout, search_layouts
from windtunnel.training.space import divided, table_of
from windtunnel.training.step import price

JOBS = {
    "llama-3.1-405b on 16,384 h100-sxm": ("llama-3.1-405b", 16_384, 2_048, 8_192),
    "llama-3.1-70b on 1,024 h100-sxm": ("llama-3.1-70b", 1_024, 512, 8_192),
    "deepseek-v3 on 2,048 h100-sxm": ("deepseek-v3", 2_048, 15_360, 4_096),
}
PLAYED = 200


def job_of(name: str) -> TrainingJob:
    model, gpus, batch, seq = JOBS[name]
    return assembled_job(model, "h100-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=seq)


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The quickest of a few runs."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def rates(name: str) -> dict[str, float]:
    """Layouts a second in closed form and played out, and seconds of a search and of one given layout."""
    job = job_of(name)
    question = TrainingQuestion((job,))
    table = table_of(job, question.features, {})
    table = table.take(np.logical_and.reduce(list(divided(table, job).values())))
    flags = job.model_copy(update={"plan": TrainingPlan(sequence_parallel=True, zero_stage=1)})
    closed = seconds(lambda: step_seconds(flags, table.degrees()))
    memory = seconds(lambda: peak_bytes(flags, table.degrees()))
    blocks, rng = screen(question).blocks, np.random.default_rng(0)
    some = [blocks[int(rng.integers(len(blocks)))] for _ in range(PLAYED)]
    layouts = [block.layout(int(rng.integers(len(block.seconds)))) for block in some]
    played = seconds(lambda: [price(layout) for layout in layouts], 1)
    whole = seconds(lambda: search_layouts(question), 1)
    answer = search_layouts(question)
    assert answer.best is not None
    best = answer.best.job
    return {
        "closed_form_per_s": len(table) / closed,
        "memory_per_s": len(table) / memory,
        "played_per_s": PLAYED / played,
        "search_s": whole,
        "layouts": answer.counts.valid,
        "explain_s": seconds(lambda: price_layout(best, timeline=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    found = {name: rates(name) for name in JOBS}
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for name, row in found.items():
        print(
            f"{name:<36} closed form {row['closed_form_per_s']:>9,.0f}/s, memory {row['memory_per_s']:>9,.0f}/s, "
            f"played {row['played_per_s']:>5,.0f}/s, search {row['search_s']:5.2f} s over {row['layouts']:,} layouts, "
            f"one layout {row['explain_s']:.3f} s"
        )


if __name__ == "__main__":
    main()
