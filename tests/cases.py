"""Random scheduler cases of every kind, small and with extreme settings."""

from __future__ import annotations

import random
from typing import Any

KINDS = [
    "plain", "tight", "prefix", "prefix-tight", "priority", "priority-tight", "long-threshold", "unchunked", "burst",
    "single-seq", "long-tight", "long-prefix-tight", "priority-prefix-tight", "unchunked-prefix-tight",
    "priority-long-tight", "priority-long-prefix-tight",
]  # fmt: skip
"""The first ten are those of the recorded cases; the others combine them."""


def random_case(draw: random.Random, kind: str) -> dict[str, Any]:
    """A case of this kind that the engine accepts."""
    block_size = draw.choice([1, 2, 4, 8, 16, 32])
    most = 1 if kind == "single-seq" else draw.choice([1, 2, 3, 4, 8, 16])
    longest = draw.choice([24, 64, 128, 200])
    budget = max(draw.choice([1, 2, 4, 8, 16, 32, 64]), most)
    if "unchunked" in kind:
        budget = max(budget, longest)
    requests = _requests(draw, kind, block_size, longest)
    need = max(-(-(min(r["prompt"] + r["output"], longest) - 1) // block_size) for r in requests)
    need = max(need, 1)
    tight = need + 1 + draw.choice([0, 0, 1, draw.randint(0, need + 1)])
    return {
        "block_size": block_size,
        "num_blocks": tight if "tight" in kind else need * draw.randint(1, most + 1) + 2,
        "max_num_seqs": most,
        "max_num_batched_tokens": budget,
        "max_model_len": longest,
        "enable_chunked_prefill": "unchunked" not in kind,
        "enable_prefix_caching": "prefix" in kind,
        "policy": "priority" if "priority" in kind else "fcfs",
        "long_prefill_token_threshold": min(draw.choice([1, 3, 5, 16, 48, 100]), longest) if "long" in kind else 0,
        "watermark": draw.choice([0.01, 0.05, 0.2]) if draw.random() < 0.15 else 0.0,
        "cost": {"base": draw.choice([0.004, 0.01]), "per_token": 2e-5, "per_kv_token": 1e-8},
        "requests": requests,
    }


def _requests(draw: random.Random, kind: str, block_size: int, longest: int) -> list[dict[str, Any]]:
    most_prompt = min(longest - 1, draw.choice([8, 40, 100]))
    most_output = draw.choice([1, 3, 20, 60])
    prefix_tokens = [draw.choice([block_size, 2 * block_size, draw.randint(1, most_prompt)]) for _ in range(4)]
    requests, now_s = [], 0.0
    for _ in range(draw.randint(1, 14)):
        if kind != "burst" and draw.random() > 0.3:
            now_s += draw.expovariate(1 / draw.choice([0.001, 0.01, 0.1]))
        prompt = draw.choice([draw.randint(1, most_prompt), min(most_prompt, block_size * draw.randint(1, 4))])
        prefix = draw.randint(0, 3) if "prefix" in kind else 0
        if prefix and draw.random() < 0.3:
            prompt = min(prefix_tokens[prefix], most_prompt)
        elif prefix and draw.random() < 0.5:
            prompt = min(prompt + prefix_tokens[prefix], most_prompt)
        requests.append(
            {
                "arrival": round(now_s, draw.choice([2, 6])),
                "prompt": prompt,
                "output": draw.randint(1, most_output),
                "priority": draw.randint(0, 3) if "priority" in kind else 0,
                "prefix": prefix,
                "prefix_len": prefix_tokens[prefix] if prefix else 0,
            }
        )
    if draw.random() < 0.3:
        draw.shuffle(requests)
    return requests
