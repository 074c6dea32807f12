"""What a deployment of your own does with bursty traffic: described in YAML, simulated, saved."""

from pathlib import Path

import windtunnel as wt

HERE = Path(__file__).parent
traffic = wt.WorkloadSpec(
    requests=800,
    arrivals={"kind": "gamma", "rate_per_s": 6.0, "cv": 2.0},
    prompt={"kind": "lognormal", "median_tokens": 700, "p90_tokens": 3000},
    output={"kind": "lognormal", "median_tokens": 150, "p90_tokens": 500},
)
run = wt.simulate(
    HERE / "custom_deployment.yaml", traffic, slo="ttft_p99<2s,tpot_p99<60ms", prices={"l40s-at-300w": 0.90}
)
print(run.table())
run.save("custom-deployment.html")
rate, energy = run.metrics.value("output_tokens_per_s"), run.metrics.value("joules_per_output_token")
print(f"{rate:.0f} tokens/s, {energy:.2f} J each")
