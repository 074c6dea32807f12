"""The conformance suite: what every scheduling policy must keep to, built in or your own.

    from windtunnel.testing import check_policy
    check_policy(my_policy)            # or check_policy("sarathi")

Random workloads are served with little memory and with plenty, and every step is looked at:

- conservation of tokens: a request that finishes had its prompt and all tokens but the last computed, no more
  except what a preemption made necessary again;
- conservation of blocks: never more in use than there are, and all free when everybody has left;
- limits: no step above the token budget, never more than `max_num_seqs` running;
- progress: everything is served, and no replica stands idle while requests wait;
- no starvation, unless declared: a large early request is served although small ones keep coming;
- determinism: the same run twice is the same, and plain Python gives what compiled code gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.cost.surface import linear_surface
from windtunnel.errors import PolicyError, Problem
from windtunnel.serving.policy import Policy
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.serving.schedulers import scheduler_info
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import RequestTable, request_table

__all__ = ["Conformance", "check_policy", "run_violations", "violations"]

SURFACE = linear_surface(0.05, 5e-4, 5e-8)
"""Slow steps, so that promises in seconds (promotion after so long) come to bear within a short run."""
ROOMY = SchedulerSettings(8, 128, 400, 400, 8, scheduler="vllm")
TIGHT = SchedulerSettings(8, 128, 400, 60, 8, scheduler="vllm")


@dataclass(frozen=True, slots=True)
class Conformance:
    """What was checked.

    Attributes:
        name: the policy.
        runs: simulations that were looked at.
        steps: their steps.
        preemptions: how often a request was preempted in them.
        violations: what does not hold; empty for a policy that conforms.
    """

    name: str
    runs: int
    steps: int
    preemptions: int
    violations: tuple[str, ...]


def check_policy(policy: Policy | str, *, runs: int = 6, seed: int = 0) -> Conformance:
    """Check a policy; returns what was looked at.

    Args:
        policy: functions of your own, or a scheduler's name.
        runs: random workloads per amount of memory.
        seed: of the workloads.

    Raises:
        PolicyError: every violation found, or the exception that the policy raised.
    """
    found = violations(policy, runs=runs, seed=seed)
    if found.violations:
        raise PolicyError([Problem(text, f"policy {found.name}") for text in found.violations])
    return found


def violations(policy: Policy | str, *, runs: int = 6, seed: int = 0) -> Conformance:
    """As `check_policy`, with the violations in the answer."""
    name = policy if isinstance(policy, str) else policy.scheduler
    said: dict[str, None] = {}
    count, steps, preemptions = 0, 0, 0
    for number in range(runs):
        workload = random_workload(np.random.default_rng([seed, number]))
        for settings in (ROOMY, TIGHT):
            one = serve(policy, workload, settings)
            count, steps, preemptions = (
                count + 1,
                steps + int(one.steps.sum()),
                preemptions + int(one.preemptions.sum()),
            )
            said.update(dict.fromkeys(run_violations(one)))
            said.update(dict.fromkeys(_determinism(policy, workload, settings, one, plain=number == 0)))
    said.update(dict.fromkeys(_starvation(policy)))
    return Conformance(name, count, steps, preemptions, tuple(said))


def serve(
    policy: Policy | str, workload: RequestTable, settings: SchedulerSettings, compiled: bool = True
) -> Simulation:
    """One run with every step kept, with what the scheduler needs (room on the host, prompts in one piece)."""
    if not isinstance(policy, str):
        return run(workload, SURFACE, settings, record_steps=True, compiled=compiled, policy=policy)
    info = scheduler_info(policy)
    changed: dict[str, Any] = {"scheduler": policy}
    if info.whole_prompts:
        changed |= {"enable_chunked_prefill": False, "max_num_batched_tokens": settings.max_model_len}
    if info.swaps or info.may_swap:
        changed |= {"host_blocks": settings.num_blocks, "swap_block_s": 1e-5}
    return run(workload, SURFACE, replace(settings, **changed), record_steps=True, compiled=compiled)


def random_workload(rng: np.random.Generator, n: int = 40) -> RequestTable:
    """Bursts and gaps, prompts and outputs of one token to many, three tenants, some priorities."""
    arrivals = np.cumsum(rng.exponential(0.5, n) * rng.choice([0.0, 1.0, 4.0], n))
    return request_table(
        arrivals,
        rng.integers(1, 200, n),
        rng.integers(1, 120, n),
        priority=rng.integers(0, 3, n),
        tenant=rng.integers(0, 3, n),
    )


def run_violations(run_: Simulation) -> Iterator[str]:
    """What does not hold in one run of which every step was kept: tokens, blocks, limits, progress, time.

    Verified drafts that were rejected, or accepted beyond a request's end, are computed for nothing.
    """
    settings = run_.settings
    steps = run_.step_table
    assert steps is not None
    usable = settings.num_blocks - 1
    if run_.stop != "done" or not run_.finished.all():
        missing = int((~run_.finished).sum())
        yield f"progress: {missing} of {len(run_)} requests were never served to their end"
        return
    prompt, output = run_.workload.prompt_tokens, run_.workload.output_tokens
    computed = np.zeros(len(run_), dtype=np.int64)
    np.add.at(computed, steps.entry_request, steps.entry_tokens)
    needed = prompt + output - 1 - run_.cached_tokens
    if np.any(computed < needed):
        yield "tokens: a request finished although not all of its tokens were computed"
    calm = run_.preemptions == 0
    drafts = settings.drafting
    if drafts is not None:
        least = needed.sum() + int(run_.drafted.sum() - run_.accepted.sum())
        # Beyond a request's end, in a step under way at its end, and beside a prompt found in the prefix cache.
        rounds = 1 + settings.async_scheduling + settings.enable_prefix_caching
        if calm.all() and not least <= computed.sum() <= least + rounds * (1 + drafts.tokens) * len(run_):
            yield "tokens: more or fewer tokens were computed than requests have and rejected, without a preemption"
    elif np.any(computed[calm] > needed[calm]) and settings.scheduler != "static":  # whose batches are padded
        yield "tokens: more tokens were computed than a request has, without a preemption"
    if not np.array_equal(run_.output_tokens, output):
        yield "tokens: a request got another number of tokens than it asked for"
    if np.any(steps.free_blocks < 0) or np.any(steps.free_blocks > usable):
        yield "blocks: more blocks in use than there are"
    if steps.free_blocks[-1] != usable:
        yield "blocks: blocks are still held although everybody has left"
    if np.any(steps.tokens > settings.max_num_batched_tokens):
        yield "limits: a step above the token budget"
    if np.any(steps.running > settings.max_num_seqs):
        yield "limits: more requests running than max_num_seqs"
    if np.any(run_.scheduled_s < run_.arrival_s) or np.any(run_.first_token_s <= run_.scheduled_s):
        yield "time: a request was served before it came, or gave a token at once"


def _determinism(
    policy: Policy | str, workload: RequestTable, settings: SchedulerSettings, first: Simulation, plain: bool
) -> Iterator[str]:
    if not np.array_equal(serve(policy, workload, settings).finish_s, first.finish_s):
        yield "determinism: the same run twice is not the same"
    if plain and not np.array_equal(serve(policy, workload, settings, compiled=False).finish_s, first.finish_s):
        yield "determinism: plain Python gives another result than compiled code"


def _starvation(policy: Policy | str) -> Iterator[str]:
    """A large request comes when all places are taken; small ones keep coming, faster than they can be served."""
    declared = scheduler_info(policy).starves if isinstance(policy, str) else policy.starves
    if declared:
        return
    n = 600
    small = request_table(0.075 + 0.1 * np.arange(n), np.full(n, 24), np.full(n, 16))
    places = ROOMY.max_num_seqs
    arrival = np.concatenate([np.zeros(places), [0.05], small.arrival_s])
    prompt = np.concatenate([np.full(places, 24), [240], small.prompt_tokens])
    output = np.concatenate([np.full(places, 16), [100], small.output_tokens])
    one = serve(policy, request_table(arrival, prompt, output), ROOMY)
    served_by_then = int((one.finish_s < one.finish_s[places]).sum())
    if not np.isfinite(one.finish_s[places]) or served_by_then > 0.9 * n:
        yield f"starvation: a large early request was served after {served_by_then} of {n} later small ones"
