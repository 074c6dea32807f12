"""From traffic to a deployment in ten lines."""

import windtunnel as wt

result = wt.plan(
    model="meta-llama/Llama-3.1-8B-Instruct",
    workload="azure-conversation",
    accelerators=["h100-sxm", "l40s"],
    max_accelerators=4,
    slo="ttft_p99<2s,tpot_p99<50ms",
)
print(wt.show(result))
wt.save(result, "first-prediction.html")
