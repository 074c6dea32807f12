"""Random scheduler cases with asynchronous scheduling and speculative tokens, from a seed.

Run as a program it writes the committed cases, which `vllm_oracle.py` then completes:

    python ahead_cases.py FOLDER async 20
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cases import KINDS, random_case
from windtunnel.serving.case import load_case, run_case
from windtunnel.serving.case_spec import drafting_of


def random_async_case(draw: random.Random, kind: str) -> dict[str, Any]:
    """A case of this kind, scheduled asynchronously."""
    return random_case(draw, kind) | {"async_scheduling": True}


def random_spec_case(draw: random.Random, kind: str) -> dict[str, Any]:
    """A case of this kind with drafts, half of them scheduled asynchronously."""
    case = random_case(draw, kind)
    tokens = draw.choice([1, 2, 3, 4, 7])
    spec: dict[str, Any] = {"method": draw.choice(["ngram", "eagle", "draft_model"]), "num_tokens": tokens}
    if spec["method"] != "ngram" and draw.random() < 0.3:
        spec["parallel"] = True
    if draw.random() < 0.3:
        spec["per_batch_size"] = [[1, 2, tokens], [4, 6, draw.randint(0, tokens)], [7, 99, draw.randint(0, 1)]]
    drafting = drafting_of(spec, [])
    assert drafting is not None
    threshold = case["long_prefill_token_threshold"]
    case |= {
        "spec": spec,
        "async_scheduling": draw.random() < 0.5,
        "max_num_batched_tokens": max(case["max_num_batched_tokens"], 1 + tokens + drafting.slots),
        "long_prefill_token_threshold": max(threshold, tokens + 1) if threshold else 0,
    }
    if "unchunked" in kind:
        case["max_num_batched_tokens"] += drafting.slots
    for request in case["requests"]:
        request["accepted"] = [draw.randint(0, tokens) for _ in range(draw.randint(1, 5))]
        if draw.random() < 0.5:
            request["proposed"] = [draw.randint(0, tokens) for _ in range(draw.randint(1, 4))]
    longest = max(min(r["prompt"] + r["output"], case["max_model_len"]) for r in case["requests"])
    needed = min(longest - 1 + drafting.spare_tokens, case["max_model_len"])
    case["num_blocks"] = max(case["num_blocks"], -(-needed // case["block_size"]) + 1 + draw.choice([0, 0, 1, 3]))
    return case


def random_lora_case(draw: random.Random, kind: str) -> dict[str, Any]:
    """A case of this kind whose requests name LoRA adapters, more than may run at once."""
    case = random_case(draw, kind) | {"max_loras": draw.choice([1, 2, 3])}
    for request in case["requests"]:
        request["adapter"] = draw.choice([0, 1, 1, 2, 3, 4, 5])
    return case


MAKERS = {"async": random_async_case, "spec": random_spec_case, "lora": random_lora_case}


def write_cases(folder: Path, which: str, count: int, seed: str, *, small: bool = False) -> None:
    """Cases of every kind in turn; `small` ones are short, and those with little memory preempt."""
    draw = random.Random(f"{which} {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        path = folder / f"{number:03d}-{kind}.json"
        while True:
            path.write_text(json.dumps(MAKERS[which](draw, kind)) + "\n")
            if not small or _worth_keeping(path, "tight" in kind):
                break


def _worth_keeping(path: Path, tight: bool) -> bool:
    result = run_case(load_case(path))
    preempted = int(result.preemptions.sum())
    return 15 < result.steps.sum() < 80 and (not tight or 2 < preempted < 40)


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "committed", small=True)
