"""Replays scheduler cases through the real vLLM's scheduler on a virtual clock, asynchronous or with drafts.

Run by an interpreter that has vLLM 0.32 (see the docstring of `test_ahead.py`):

    python vllm_oracle.py FOLDER        writes NAME.expected.jsonl beside every NAME.json

No model runs: vLLM's own `Scheduler` or `AsyncScheduler` composes the steps, in the order in which
`EngineCore.step` and `EngineCore.step_with_batch_queue` call it, and each step takes the time of
the case's linear cost. A case has two fields more than a plain one:

    "async_scheduling": true
    "spec": {"method": "ngram" | "eagle" | "draft_model", "num_tokens": 3, "parallel": false,
             "per_batch_size": [[1, 4, 3], [5, 16, 1]]}

and a request may say what becomes of its drafts: `"accepted": [2, 0]` is the number that its first,
second, first, ... step with a sample accepts (never more than are verified; placeholders that
stand where nothing was drafted are all rejected), `"proposed": [3, 1]` likewise how many tokens
are drafted after it (at most `num_tokens`; all of them when absent).

or `"max_loras": 2`, with which requests may name an `"adapter"` from 1 on.

The lines are those of a plain case. With asynchronous scheduling a step is composed while the one
before is still under way: "start" is when it was composed, "end" when its tokens were processed;
"waiting" is counted once it was composed, "running" and "free_blocks" once it was processed. A
step that holds nobody takes no time.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    LoRAConfig,
    ModelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

SAME_MOMENT_S = 1e-12
TOKEN = 11
"""Every generated token; the product's replay of cases assumes the same."""

MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 1024,
    "max_position_embeddings": 65536, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def speculation(spec: dict[str, Any] | None) -> SpeculativeConfig | None:
    """vLLM's settings for these drafts.

    They are made for n-gram drafts, which need no second model, and renamed: the scheduler asks
    them only for what follows from the method (slots ahead, drafting slots, blocks to drop).
    """
    if spec is None:
        return None
    config = SpeculativeConfig(method="ngram", num_speculative_tokens=spec["num_tokens"], prompt_lookup_max=2)
    config.method = spec["method"]
    config.parallel_drafting = spec.get("parallel", False)
    config.num_speculative_tokens_per_batch_size = spec.get("per_batch_size")
    return config


def make_scheduler(case: dict[str, Any]) -> Scheduler:
    """The real scheduler with the case's settings."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(MODEL))
        model = ModelConfig(
            model=folder, skip_tokenizer_init=True, dtype="bfloat16", seed=0, max_model_len=case["max_model_len"]
        )
        limits = SchedulerConfig(
            max_num_seqs=case["max_num_seqs"],
            max_num_batched_tokens=case["max_num_batched_tokens"],
            max_model_len=case["max_model_len"],
            enable_chunked_prefill=case.get("enable_chunked_prefill", True),
            long_prefill_token_threshold=case.get("long_prefill_token_threshold", 0),
            policy=case.get("policy", "fcfs"),
            is_encoder_decoder=False,
            async_scheduling=False,
            watermark=case.get("watermark", 0.0),
        )
        cache = CacheConfig(
            block_size=case["block_size"],
            gpu_memory_utilization=0.9,
            cache_dtype="auto",
            enable_prefix_caching=case.get("enable_prefix_caching", False),
        )
        config = VllmConfig(
            model_config=model, scheduler_config=limits, cache_config=cache, device_config=DeviceConfig("cpu")
        )
    # vLLM checks some combinations when it makes its settings; the scheduler itself does not care.
    config.speculative_config = speculation(case.get("spec"))
    if "max_loras" in case:
        config.lora_config = LoRAConfig(max_loras=case["max_loras"], max_lora_rank=16, max_cpu_loras=99)
    limits.async_scheduling = case.get("async_scheduling", False)
    limits.max_num_scheduled_tokens = case["max_num_batched_tokens"]
    cache.num_gpu_blocks = case["num_blocks"]
    layers = FullAttentionSpec(block_size=case["block_size"], num_kv_heads=1, head_size=1, dtype=torch.float32)
    kind = AsyncScheduler if limits.async_scheduling else Scheduler
    return kind(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=case["num_blocks"], kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layers)]
        ),
        log_stats=True,
        structured_output_manager=StructuredOutputManager(config),
        block_size=case["block_size"],
    )


def prompt_of(i: int, request: dict[str, Any]) -> list[int]:
    """The tokens of a prompt: those of its prefix, then its own."""
    prefix = request.get("prefix", 0)
    shared = min(request.get("prefix_len", 0), request["prompt"]) if prefix else 0
    own = [((i + 1) * 104729 + 31 * k) % 900 + 10 for k in range(request["prompt"] - shared)]
    if not shared:
        own[:2] = [10 + i % 900, 10 + i // 900][: len(own)]
    return [(prefix * 7919 + k) % 900 + 10 for k in range(shared)] + own


class Replay:
    """One case on the virtual clock."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.given = case["requests"]
        self.cost = case["cost"]
        self.scheduler = make_scheduler(case)
        self.hasher = get_request_block_hasher(case["block_size"], sha256)
        self.requests: dict[str, Request] = {}
        self.due = collections.deque(sorted(range(len(self.given)), key=lambda i: (self.given[i]["arrival"], i)))
        self.state: list[dict[str, Any]] = [
            {"first_token": None, "finish": None, "preemptions": 0, "cached_tokens": 0} for _ in self.given
        ]
        self.samples = [0] * len(self.given)
        self.now_s = self.free_s = 0.0
        self.lines: list[dict[str, Any]] = []

    def arrive(self) -> None:
        """Add the requests that have arrived by now."""
        while self.due and self.given[self.due[0]]["arrival"] <= self.now_s + SAME_MOMENT_S:
            i = self.due.popleft()
            given = self.given[i]
            params = SamplingParams(ignore_eos=True, max_tokens=given["output"], temperature=0.0)
            params.update_from_generation_config({}, eos_token_id=2)
            request = Request(
                request_id=str(i),
                prompt_token_ids=prompt_of(i, given),
                sampling_params=params,
                pooling_params=None,
                arrival_time=given["arrival"],
                priority=given.get("priority", 0),
                block_hasher=self.hasher,
                lora_request=LoRARequest(f"adapter-{one}", one, "nowhere")
                if (one := given.get("adapter", 0))
                else None,
            )
            self.requests[str(i)] = request
            self.scheduler.add_request(request)

    def compose(self) -> dict[str, Any] | None:
        """Let the scheduler compose a step now; None when it neither serves nor preempts anybody."""
        self.arrive()
        out = self.scheduler.schedule()
        tokens = dict(out.num_scheduled_tokens)
        preempted = sorted(int(k) for k in out.preempted_req_ids or ())
        if not tokens and not preempted:
            return None
        for i in preempted:
            self.state[i]["preemptions"] += 1
        for new in out.scheduled_new_reqs:
            self.state[int(new.req_id)]["cached_tokens"] = new.num_computed_tokens
        context = sum(self.requests[k].num_computed_tokens for k in tokens)
        cost = self.cost
        seconds = cost["base"] + cost["per_token"] * sum(tokens.values()) + cost["per_kv_token"] * context
        begin_s = max(self.now_s, self.free_s)
        self.free_s = begin_s + seconds if tokens or not self.case.get("async_scheduling") else begin_s
        line = {
            "step": len(self.lines), "start": self.now_s, "end": self.free_s, "scheduled": tokens,
            "preempted": preempted, "waiting": len(self.scheduler.waiting),
        }  # fmt: skip
        self.lines.append(line)
        admitted = {r.req_id for r in out.scheduled_new_reqs} | out.scheduled_cached_reqs.resumed_req_ids
        return {"line": line, "out": out, "sampled": [self.sample(out, k, k in admitted) for k in tokens]}

    def sample(self, out: Any, name: str, admitted: bool) -> tuple[list[int], int]:
        """The tokens that a request of the step will give, and how many are drafted after them."""
        if self.requests[name].is_prefill_chunk:
            return [], 0
        given, at = self.given[int(name)], self.samples[int(name)]
        self.samples[int(name)] += 1
        drafts = len(out.scheduled_spec_decode_tokens.get(name, ()))
        accepts, proposes = given.get("accepted", [0]), given.get("proposed")
        accepted = 0 if admitted else min(accepts[at % len(accepts)], drafts)
        most = out.num_spec_tokens_to_schedule
        return [TOKEN] * (1 + accepted), min(proposes[at % len(proposes)], most) if proposes else most

    def process(self, step: dict[str, Any]) -> None:
        """The step ends now."""
        out, line = step["out"], step["line"]
        names = list(out.num_scheduled_tokens)
        self.now_s = max(self.now_s, line["end"])
        before = {k for k in names if self.requests[k].is_finished()}
        sampled = [list(tokens) for tokens, _ in step["sampled"]]
        self.scheduler.update_from_output(
            out,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={k: n for n, k in enumerate(names)},
                sampled_token_ids=[list(tokens) for tokens in sampled],
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )
        finished = []
        for name, tokens in zip(names, sampled, strict=True):
            if name in before or not tokens:
                continue
            state = self.state[int(name)]
            if state["first_token"] is None:
                state["first_token"] = self.now_s
            if self.requests[name].is_finished():
                state["finish"] = self.now_s
                finished.append(int(name))
        if "spec" in self.case and not self.case.get("async_scheduling"):
            drafts = [[TOKEN] * count for _, count in step["sampled"]]
            self.scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))
        pool = self.scheduler.kv_cache_manager.block_pool
        line["finished"], line["running"] = finished, len(self.scheduler.running)
        line["free_blocks"] = pool.get_num_free_blocks()

    def run(self) -> list[dict[str, Any]]:
        """Replay the case: fill the queue of steps, else wait for the oldest (as the engine's core does)."""
        depth = 2 if self.case.get("async_scheduling") else 1
        queue: collections.deque[dict[str, Any]] = collections.deque()
        while any(state["finish"] is None for state in self.state):
            step = self.compose() if len(queue) < depth else None
            if step is not None:
                queue.append(step)
            elif queue:
                self.process(queue.popleft())
            elif self.due:
                self.now_s = self.given[self.due[0]]["arrival"]
            else:
                raise SystemExit("the scheduler makes no progress")
        while queue:
            self.process(queue.popleft())
        return [*self.lines, {"requests": self.state}]


def main(folder: Path) -> None:
    init_none_hash(sha256)
    for path in sorted(folder.glob("*.json")):
        lines = Replay(json.loads(path.read_text())).run()
        path.with_suffix(".expected.jsonl").write_text(
            "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
