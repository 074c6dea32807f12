"""A scheduling policy of your own: serve first whoever can still be served in time.

On an hour of chat traffic at the edge of what one accelerator carries, first come first served makes everybody
late: the queue holds requests whose deadline has passed in front of those that could still make it. Twenty lines
of Python do better.
"""

import windtunnel as wt
from windtunnel.serving.policy import Policy

LIMIT_S = 2.0  # the first token is due this long after arrival
SLO = f"ttft_p99<{LIMIT_S}s,tpot_p99<100ms"
PREFILL_TOKENS_PER_S = 20_000.0


def deadline(request, now_s):
    """Earliest deadline first among those that can still meet it; the others afterwards."""
    due_s = request.arrival_s + LIMIT_S
    hopeless = now_s + request.prompt / PREFILL_TOKENS_PER_S > due_s
    return due_s + (1e6 if hopeless else 0.0)


def main() -> None:
    deployment = wt.deployment("llama-3.1-8b", "l40s", plan=wt.PlanSpec(weight_dtype="fp8"))
    few = deployment.engine.model_copy(update={"max_num_seqs": 48})  # small batches keep the time per token low
    deployment = deployment.model_copy(update={"engine": few})
    traffic = "azure-conversation"
    policy = Policy(order=deadline, starves=True)
    print(f"{'':24}goodput/s  in time  ttft p50")
    for name, chosen in (("first come first served", None), ("deadline-aware", policy)):
        m = wt.simulate(deployment, traffic, slo=SLO, policy=chosen).metrics
        print(f"{name:24}{m.goodput_per_s:9.2f}{m.attainment:9.1%}{m.latency_s['ttft']['p50']:9.2f} s")
    for note in policy.notes:
        print(note)


if __name__ == "__main__":
    main()
