"""Load an endpoint with a workload and keep everything measured."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import Problem, SpecError
from windtunnel.live.client import ask
from windtunnel.live.connection import connector
from windtunnel.live.endpoint import Endpoint, found_model, need_aiohttp
from windtunnel.live.gauges import GaugePoller
from windtunnel.live.load import Load, LoadSettings, Progress, open_journal
from windtunnel.live.measurement import Measurement, measurement, save
from windtunnel.live.prompts import WORDS
from windtunnel.live.reference import Reference, measure_reference
from windtunnel.workload.table import RequestTable

if TYPE_CHECKING:
    import aiohttp

PROBE_WORDS = (24, 72)
"""Two prompts of so many words tell how many tokens a word and the chat template take."""
CLOCK_JUMP_S = 0.25


@dataclass(slots=True)
class Bench:
    """What is to be run, and where its results go.

    Attributes:
        table: the workload.
        endpoint, settings: where to and how.
        folder: where the measurement is kept; None keeps it in memory alone.
        warmup: requests of the workload's first lengths sent one after the other before the clock starts.
        about: plain values for the measurement's `meta`.
        reference: the Python that measures the machine's speed right before and after the load; None: nobody does.
    """

    table: RequestTable
    endpoint: Endpoint
    settings: LoadSettings = field(default_factory=LoadSettings)
    folder: Path | None = None
    warmup: int = 1
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reference: str | None = None


def bench(plan: Bench, progress: Progress | None = None) -> Measurement:
    """Run a load to its end, or until Ctrl-C, and return (and keep) what was measured.

    Raises:
        SpecError: nobody answers at the address, the model is unknown, or the server refuses such requests.
        MissingDependencyError: aiohttp is not installed.
    """
    need_aiohttp()
    with asyncio.Runner() as runner:
        return runner.run(_bench(plan, progress))


async def _bench(plan: Bench, progress: Progress | None) -> Measurement:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    # Proxies and credentials of the environment are not used: only the named address is talked to.
    async with aiohttp.ClientSession(connector=connector(), timeout=timeout, trust_env=False) as session:
        plan.endpoint = await found_model(session, plan.endpoint)
        plan.endpoint, plan.settings = await _probe(session, plan)
        await _warm_up(session, plan)
        before = await _reference(plan)
        return await _measure(session, plan, progress, before)


async def _reference(plan: Bench) -> list[Reference]:
    """The machine's speed now, while the engine is idle."""
    if plan.reference is None:
        return []
    found = await asyncio.to_thread(measure_reference, plan.reference)
    if found is None:
        plan.notes.append(f"the machine's speed could not be measured by {plan.reference or 'this Python'}")
    return [found] if found is not None else []


async def _probe(session: aiohttp.ClientSession, plan: Bench) -> tuple[Endpoint, LoadSettings]:
    """Find out what the server accepts, dropping what it refuses; for chat, how long its template is."""
    endpoint, settings = plan.endpoint, plan.settings
    refused = ""
    while True:
        answer = await _short(session, endpoint, settings, PROBE_WORDS[0])
        if answer.status == "http 400" or answer.status == "http 422":
            if not endpoint.extras:
                raise SpecError(Problem(f"the server refuses a plain request: {answer.message}", "--url"))
            dropped = _blamed(answer.message, endpoint.extras)
            refused = f"{refused}, {dropped}" if refused else dropped
            endpoint = endpoint.without(dropped)
            continue
        break
    if answer.status not in ("ok", "no tokens", "more tokens than asked"):
        said = f": {answer.message}" if answer.message else ""
        raise SpecError(Problem(f"a first request failed with {answer.status}{said}", "--url", got=repr(endpoint.path)))
    if refused:
        plan.notes.append(f"the server does not accept {refused}: output lengths may differ from those asked for")
    if endpoint.kind == "chat":
        settings = await _template(session, plan, endpoint, answer.prompt_reported)
    elif answer.prompt_reported not in (-1, PROBE_WORDS[0]):
        extra = answer.prompt_reported - PROBE_WORDS[0]
        plan.notes.append(f"the server counts {extra:+d} tokens a prompt beside those sent")
    return endpoint, settings


def _blamed(message: str, extras: tuple[str, ...]) -> str:
    """The extra that a refusal names, or else the rarest one still in use."""
    fields = {"continuous_usage": "continuous_usage_stats", "usage": "stream_options"}
    for name in extras:
        if fields.get(name, name) in message:
            return name
    return extras[0]


async def _short(session: aiohttp.ClientSession, endpoint: Endpoint, settings: LoadSettings, words: int) -> Any:
    if endpoint.kind == "completions":
        prompt: list[int] | str = [settings.vocabulary.first + i for i in range(words)]
    else:
        prompt = " ".join(WORDS[i % len(WORDS)] for i in range(words))
    return await ask(session, endpoint, endpoint.body(prompt, 2), 2, settings.timeout_s)


async def _template(session: aiohttp.ClientSession, plan: Bench, endpoint: Endpoint, first_tokens: int) -> LoadSettings:
    """For chat: tokens per word and tokens of the template, from two prompts of different length."""
    second = await _short(session, endpoint, plan.settings, PROBE_WORDS[1])
    if first_tokens < 0 or second.prompt_reported <= first_tokens:
        plan.notes.append("the server does not report prompt tokens: one token a word is assumed")
        return plan.settings
    per_word = (second.prompt_reported - first_tokens) / (PROBE_WORDS[1] - PROBE_WORDS[0])
    extra = round(first_tokens - per_word * PROBE_WORDS[0])
    plan.notes.append(f"prompts are text: {per_word:.2f} tokens a word and {extra} of the chat template, as measured")
    return replace(plan.settings, words_per_token=1.0 / per_word, extra_tokens=extra)


async def _warm_up(session: aiohttp.ClientSession, plan: Bench) -> None:
    """A few requests before the clock starts: first use compiles, allocates and fills caches."""
    for row in range(min(plan.warmup, len(plan.table))):
        words = int(plan.table.prompt_tokens[row])
        await _short(session, plan.endpoint, plan.settings, words)


async def _measure(
    session: aiohttp.ClientSession, plan: Bench, progress: Progress | None, before: list[Reference]
) -> Measurement:
    journal = open_journal(plan.folder) if plan.folder is not None else None
    load = Load(plan.table, plan.endpoint, plan.settings, journal, progress)
    gauges = GaugePoller(f"{plan.endpoint.root}/metrics")
    wall_s, clock_s = time.time(), time.monotonic()
    polling = asyncio.create_task(gauges.run(session, clock_s))
    try:
        await load.run(session)
    except asyncio.CancelledError:
        # Ctrl-C: keep what came; the command ends with its own exit code.
        plan.notes.append(f"interrupted after {len(load.records):,} of {len(plan.table):,} requests")
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    finally:
        polling.cancel()
        if journal is not None:
            journal.close()
    await gauges.once(session, clock_s)
    whole = len(load.records) == len(plan.table)
    references = [*before, *(await _reference(plan) if whole else [])]
    jump_s = (time.time() - wall_s) - (time.monotonic() - clock_s)
    if abs(jump_s) > CLOCK_JUMP_S:
        plan.notes.append(f"the wall clock jumped by {jump_s:+.2f} s; latencies are of the monotonic clock and hold")
    shift_s = load.start_s - clock_s
    engine = gauges.columns()
    if engine:
        engine["time_s"] = [at_s - shift_s for at_s in engine["time_s"]]
    plan.notes += observations(load.records)
    meta = {
        **plan.about,
        "url": plan.endpoint.url,
        "endpoint": plan.endpoint.kind,
        "model": plan.endpoint.model,
        "requests": len(plan.table),
        "clock_s": load.start_s,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s)),
        "salt": plan.settings.salt,
        "retries": plan.settings.retries,
        "timeout_s": plan.settings.timeout_s,
        "extras": list(plan.endpoint.extras),
        "references": [one.as_dict() for one in references],
        "notes": plan.notes,
    }
    measured = measurement(load.records, meta, engine)
    if plan.folder is not None:
        save(measured, plan.folder)
    return measured


def observations(records: list[dict[str, Any]]) -> list[str]:
    """What a reader of the figures should know: failures, lengths that differ, a client that fell behind."""
    notes = []
    failed = Counter(record["status"] for record in records if record["status"] != "ok")
    for status, count in failed.most_common():
        example = next((r["message"] for r in records if r["status"] == status and r.get("message")), "")
        notes.append(f"{count:,} requests failed: {status}" + (f" ({example})" if example else ""))
    good = [record for record in records if record["status"] == "ok"]
    short = sum(record["output_received"] < record["output_tokens"] for record in good)
    if short:
        notes.append(f"{short:,} answers are shorter than asked for: the endpoint ends them itself (ignore_eos)")
    other = sum(record["prompt_reported"] not in (-1, record["prompt_tokens"]) for record in good)
    if other:
        notes.append(f"{other:,} prompts were counted by the server with another length than asked for")
    late = sorted(record["sent_s"] - record["due_s"] for record in records if record["attempts"] == 1)
    if late and late[int(0.99 * (len(late) - 1))] > 0.01:
        p99_ms = 1e3 * late[int(0.99 * (len(late) - 1))]
        notes.append(f"the client itself was late by {p99_ms:.0f} ms (p99): it could not keep up with the load")
    retried = sum(record["attempts"] > 1 for record in records)
    if retried:
        notes.append(f"{retried:,} requests were sent more than once")
    return notes
