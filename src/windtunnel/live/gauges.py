"""The engine's own gauges over time, read from its Prometheus endpoint while a load runs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp

NAMES: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
    "kv_share": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
    "generated_tokens": ("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
    "steps": ("vllm:iteration_tokens_total_count",),
    "step_tokens": ("vllm:iteration_tokens_total_sum",),
}
"""What is kept, and the names that engines give it (of several, the first found)."""

_WANTED = {metric: name for name, metrics in NAMES.items() for metric in metrics}


def read_gauges(text: str) -> dict[str, float]:
    """The known gauges in a page of the Prometheus text format; several engines' values are summed.

    >>> read_gauges('vllm:num_requests_running{engine="0"} 3.0')
    {'running': 3.0}
    """
    by_metric: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        metric = line.split("{", 1)[0].split(" ", 1)[0]
        if metric not in _WANTED:
            continue
        try:
            value = float(line.rsplit("}", 1)[-1].split()[0 if "}" in line else 1])
        except (ValueError, IndexError):
            continue
        by_metric[metric] = by_metric.get(metric, 0.0) + value
    found: dict[str, float] = {}
    for name, metrics in NAMES.items():
        known = [by_metric[metric] for metric in metrics if metric in by_metric]
        if known:
            found[name] = known[0]
    return found


class GaugePoller:
    """Reads the gauges at an interval until it is cancelled; an endpoint without them is asked only once."""

    def __init__(self, url: str, interval_s: float = 0.5) -> None:
        self.url, self.interval_s = url, interval_s
        self.rows: list[dict[str, float]] = []

    async def run(self, session: aiohttp.ClientSession, start_s: float) -> None:
        """Poll; times are seconds after `start_s` of the monotonic clock."""
        while await self.once(session, start_s):
            await asyncio.sleep(self.interval_s)

    async def once(self, session: aiohttp.ClientSession, start_s: float) -> bool:
        """Read the gauges one time. Returns whether there will be more."""
        import aiohttp

        try:
            async with session.get(self.url, timeout=aiohttp.ClientTimeout(total=5)) as response:
                if response.status != 200:
                    return False
                found = read_gauges(await response.text())
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError):
            return bool(self.rows)
        if found:
            self.rows.append({"time_s": time.monotonic() - start_s, **found})
        return bool(found)

    def columns(self) -> dict[str, list[float]]:
        """One list per gauge, `time_s` among them; nan where one was missing."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        return {name: [row.get(name, float("nan")) for row in self.rows] for name in names}
