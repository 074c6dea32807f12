"""What the same traffic costs on different hardware."""

import windtunnel as wt

SLO = "ttft_p95<3s,tpot_p95<80ms"
for accelerator in ["l4", "a100-80g-sxm", "h100-sxm", "mi300x"]:
    result = wt.plan(
        "llama-3.1-8b",
        workload=wt.WorkloadSpec(requests=600, arrivals={"rate_per_s": 4.0}),
        accelerators=[accelerator],
        max_accelerators=8,
        slo=SLO,
    )
    best = result.pick
    answer = f"{best.label}, ${best.usd_per_h:.2f}/h, {best.binding}" if best else "nothing holds the targets"
    print(f"{accelerator:14} {answer}")
