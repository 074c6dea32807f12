"""At which load does speculative decoding stop paying? Output tokens per second with drafts, relative to none."""

import windtunnel as wt

DRAFTERS = {
    "1B draft model": "speculative:draft=llama-3.2-1b:tokens=4:acceptance=0.7",
    "the same, adaptive": "speculative:draft=llama-3.2-1b:tokens=4:acceptance=0.7:adaptive=load",
    "EAGLE head": "speculative:method=eagle:tokens=4",
}


def tokens_per_s(requests: int, *techniques: str) -> float:
    """Output tokens per second when so many requests come at once."""
    deployment = wt.deployment("llama-3.1-8b", "h100-sxm", techniques=techniques)
    traffic = wt.request_table([0.0] * requests, [200] * requests, [200] * requests)
    return wt.simulate(deployment, traffic).metrics.output_tokens_per_s


print("requests", *DRAFTERS, sep="  ")
for requests in (1, 16, 64, 256):
    plain = tokens_per_s(requests)
    gains = [tokens_per_s(requests, technique) / plain for technique in DRAFTERS.values()]
    print(f"{requests:8}", *(f"{gain:{len(name)}.2f}" for name, gain in zip(DRAFTERS, gains, strict=True)), sep="  ")
