"""The stages of a prediction one by one: model + hardware + plan -> operators -> cost -> simulation -> metrics."""

import windtunnel as wt
from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.memory import memory_need
from windtunnel.cost.steps import price_step
from windtunnel.operators.expand import expand

deployment = wt.deployment(
    "llama-3.1-8b",
    "h100-sxm",
    plan=wt.PlanSpec(tensor_parallel=1, replicas=1, weight_dtype="bf16"),
)
batch = wt.decode_batch(64, 1200) + wt.prefill_batch([(0, 512)])

operators = expand(deployment.model, deployment.plan, batch)
step = price_step(deployment, batch)
print(f"{len(operators)} operators, {sum(o.count * o.flops for o in operators) / 1e12:.1f} TFLOP in the step")
print(f"step {step.total_s * 1e3:.1f} ms, at the hardware's limit {step.limit_s * 1e3:.1f} ms")

memory = memory_need(deployment)
surface = step_surface(deployment)
print(f"{memory.kv_blocks:,} KV blocks of {memory.block_tokens} tokens; steps of up to {surface.max_tokens:,} tokens")

traffic = wt.request_table(
    arrival_s=[0.1 * i for i in range(200)], prompt_tokens=[800] * 200, output_tokens=[100] * 200
)
run = wt.simulate(deployment, traffic, slo="ttft_p99<1s,tpot_p99<50ms")
print(f"TTFT p99 {run.metrics.latency_s['ttft']['p99'] * 1e3:.0f} ms, {run.metrics.output_tokens_per_s:.0f} tokens/s")
