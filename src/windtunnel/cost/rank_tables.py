"""Tables over a rank's sums of the batch, from which step surfaces are put together.

A table depends on a model's rank under a plan, the device and its link alone, so it is kept and shared
between the deployments that have those in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from windtunnel.cost.collective import Link
from windtunnel.cost.device import Device
from windtunnel.cost.energy import Energy, capped, energy_of, joules_of
from windtunnel.cost.gemm import gemm_table
from windtunnel.cost.measured.kernels import key_of
from windtunnel.cost.measured.tail import tail_per_token_s
from windtunnel.cost.padding import padded_tokens, padding
from windtunnel.cost.price import Links, seconds_of, widths_of
from windtunnel.cost.steps import eager_s, launches_of
from windtunnel.cost.surface import context_grid
from windtunnel.operators.attention import DecodeAttention
from windtunnel.operators.expand import (
    decode_operators,
    decode_window_operators,
    prefill_operators,
    sample_operators,
    token_operators,
)
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.operator import Number, Operator
from windtunnel.specs.engine import EngineSpec, Fusion
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

Floats = npt.NDArray[np.float64]

UNIT = 1e6
"""Step of the differences that give linear coefficients: large, so that they are not lost in the fixed time."""


def rounded(count: int) -> int:
    """The next power of two, so that settings share tables."""
    return 1 << max(count - 1, 1).bit_length()


def _frozen(array: Floats) -> Floats:
    """The array, which several surfaces share and none may write to."""
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True)
class Rank:
    """What the tables depend on: a model's rank under a plan, the device it runs on and its link to the others."""

    model: ModelSpec
    plan: PlanSpec
    device: Device
    link: Link

    @property
    def energy(self) -> Energy:
        """Energy constants of the device."""
        return energy_of(self.device, self.link)

    def seconds(self, operators: list[Operator], links: Links | None = None) -> Floats:
        """Seconds of operators with all their repetitions."""
        joined = links or Links(self.link, self.link)
        return _total(operators, lambda one: seconds_of(one, self.device, joined))

    def table(self, operators: list[Operator], size: int) -> Floats:
        """The same for operators over 0 to `size` rows; products of a shape are shared with other plans."""
        joined = Links(self.link, self.link)

        def one_s(one: Operator) -> Floats:
            shared = self.device.measured is None and self.plan.attention_data_parallel == 1
            if shared and isinstance(one, Matmul) and one.batch == 1:
                dtypes = (one.weight_dtype, one.compute_dtype)
                tables = (gemm_table(size, n, one.k, self.device, *dtypes) for n in widths_of(one, self.device))
                return np.asarray(sum(tables))
            return seconds_of(one, self.device, joined)

        return _total(operators, one_s)

    def joules(self, operators: list[Operator]) -> Floats:
        """Dynamic joules of operators with all their repetitions, on one rank."""
        energy = self.energy
        return _total(operators, lambda one: joules_of(one, energy))


def _total(operators: list[Operator], one: Callable[[Operator], Number]) -> Floats:
    """Sum over operators and their repetitions."""
    return np.asarray(sum((operator.count * one(operator) for operator in operators), start=0.0))


@lru_cache(maxsize=512)
def token_launches(model: ModelSpec, plan: PlanSpec, fused: tuple[Fusion, ...]) -> float:
    """Kernels that the tokens' part launches in a pass of an engine that fuses so much."""
    return launches_of(token_operators(model, plan, 1.0), fused)


@lru_cache(maxsize=512)
def token_tables(rank: Rank, size: int) -> tuple[Floats, Floats]:
    """Seconds and replica joules of the parts that depend on tokens alone, for 0 to `size` tokens."""
    return tables_of(rank, token_operators(rank.model, rank.plan, np.arange(size + 1.0)), size)


def executed_tables(rank: Rank, engine: EngineSpec, size: int) -> tuple[Floats, Floats]:
    """The token tables as the engine runs them, for 0 to at least `size` tokens.

    Without captured graphs the host launches every kernel; with them steps are padded to captured sizes. What the
    device does outside the model comes on top.
    """
    seconds, joules = token_tables(rank, rounded(size))
    launches = token_launches(rank.model, rank.plan, engine.kernels.fused)
    if not engine.graphs:
        seconds = np.maximum(seconds, launches * engine.launch_s)
        seconds[0] = 0.0
    architecture = rank.device.accelerator.architecture
    floor = eager_s(rank.model, engine, launches, architecture)
    if floor:
        beyond = np.arange(len(seconds)) > engine.graph_tokens
        seconds = np.where(beyond, np.maximum(seconds, floor), seconds)
    if engine.capture_tokens:
        executed = padding(len(seconds) - 1, engine)
        seconds, joules = seconds[executed], joules[executed]
    if engine.step_device_s:
        seconds = seconds + np.where(np.arange(len(seconds)) > 0, engine.step_device_s, 0.0)
    return seconds, joules


@lru_cache(maxsize=512)
def sample_tables(rank: Rank, size: int) -> tuple[Floats, Floats]:
    """Seconds and replica joules of LM head and sampling, for 0 to `size` sequences."""
    return tables_of(rank, sample_operators(rank.model, rank.plan, np.arange(size + 1.0)), size)


def tables_of(rank: Rank, operators: list[Operator], size: int) -> tuple[Floats, Floats]:
    """Seconds and replica joules of operators over 0 to `size` rows."""
    seconds, joules = rank.table(operators, size), rank.joules(operators)
    seconds[0] = joules[0] = 0.0
    return _frozen(seconds), _frozen(rank.plan.ranks_per_stage * capped(joules, seconds, rank.energy))


@lru_cache(maxsize=512)
def decode_tables(rank: Rank, max_requests: int, max_context: int, queries: int = 1) -> tuple[Floats, Floats, Floats]:
    """Decode attention over (requests, mean context), of full and windowed layers, and its joules' coefficients.

    With `queries` tokens per request, a time that was measured for one grows as the model's does.
    """
    model, plan = rank.model, rank.plan
    requests = np.arange(max_requests + 1.0)[:, None]
    mean = context_grid(max_context)[None, :]
    shape = (max_requests + 1, mean.shape[1])

    def table(operators: Callable[..., list[Operator]]) -> Floats:
        found = np.array(np.broadcast_to(rank.seconds(operators(model, plan, requests, requests * mean)), shape))
        if queries > 1:
            modelled = replace(rank, device=replace(rank.device, measured=None))
            one = modelled.seconds(operators(model, plan, requests, requests * mean))
            several = modelled.seconds(operators(model, plan, requests, requests * mean, queries))
            found *= np.divide(several, one, out=np.ones(shape), where=one > 0)
        found[0] = 0.0
        return found

    full = table(decode_operators)
    windowed = table(decode_window_operators) if model.attended_tokens else np.zeros((0, 0))

    def joules(count: float, context: float, window: float) -> float:
        full_ = decode_operators(model, plan, count, context, queries)
        operators = full_ + decode_window_operators(model, plan, count, window, queries)
        return float(rank.joules(operators) + rank.energy.active_w * rank.seconds(operators))

    _, per_request, per_token, per_window = _line(joules, 3)
    inside = np.minimum(mean, model.attended_tokens)
    drawn = requests * (per_request + per_token * mean + per_window * inside)
    most = rank.energy.dynamic_w * (full + (at_contexts(windowed, inside[0], max_context) if windowed.size else 0.0))
    over = float(np.max(np.divide(drawn, most, out=np.zeros_like(drawn), where=most > 0)))
    coefficients = plan.ranks_per_stage * np.array([per_request, per_token, per_window]) / max(1.0, over)
    return _frozen(full), _frozen(windowed), _frozen(coefficients)


def at_contexts(table: Floats, contexts: Floats, max_context: int) -> Floats:
    """Rows of a decode table at other mean contexts than those of its columns, linear in between."""
    grid = context_grid(max_context)
    return np.stack([np.interp(contexts, grid, row) for row in table])


def tails(rank: Rank, engine: EngineSpec, spread: tuple[float, ...], mean: Floats) -> Floats:
    """What unequal contexts add to decode attention, as a table like `decode_tables`; see `measured.tail`."""
    measured, accelerator = rank.device.measured, rank.device.accelerator
    requests = np.array([padded_tokens(count, engine) for count in range(engine.max_num_seqs + 1)], dtype=np.float64)
    tails = np.zeros((len(requests), len(mean)))
    for operator in decode_operators(rank.model, rank.plan, 1.0, 1.0):
        rate = measured.lane_rates.get(key_of(operator) or (), 0.0) if measured else 0.0
        if rate and isinstance(operator, DecodeAttention):
            each = requests / rank.plan.attention_data_parallel
            bandwidth = accelerator.memory_bandwidth_bytes_per_s
            per_token = tail_per_token_s(each, spread, operator, rate, accelerator.processors, bandwidth)
            tails += operator.count * per_token[:, None] * mean[None, :]
    return tails


@lru_cache(maxsize=128)
def mixed_tables(rank: Rank, max_requests: int, max_context: int) -> tuple[Floats, Floats]:
    """What decode attention adds to a step with prompts, as a table like `decode_tables`; empty when as alone."""
    requests = np.arange(max_requests + 1.0)[:, None]
    mean = context_grid(max_context)[None, :]
    total = requests * mean
    nothing = np.zeros((0, 0))
    device, joined = rank.device, Links(rank.link, rank.link)
    if rank.model.attended_tokens or not (device.measured or device.unpacked_rate):
        return nothing, nothing
    fixed, per_token = np.zeros(total.shape), np.zeros(total.shape)
    for operator in decode_operators(rank.model, rank.plan, requests, total):
        measured = device.measured if isinstance(operator, DecodeAttention) else None
        line = measured.decode_beside_prompts(operator) if measured else None  # type: ignore[arg-type]
        modelled = seconds_of(operator, device, joined, beside_tokens=1.0)
        fixed += operator.count * (modelled if line is None else np.where(np.isnan(line[0]), modelled, line[0]))
        per_token += 0.0 if line is None else operator.count * np.nan_to_num(line[1])
    fixed[0] = per_token[0] = 0.0
    return _frozen(fixed), _frozen(per_token)


@lru_cache(maxsize=512)
def prefill_lines(rank: Rank) -> tuple[Floats, Floats]:
    """Coefficients of prefill attention: seconds of a rank and joules of the replica."""

    def of(quantity: Callable[[list[Operator]], Floats]) -> Floats:
        return np.array(_line(lambda *sums: float(quantity(prefill_operators(rank.model, rank.plan, *sums))), 7))

    seconds = of(rank.seconds)
    return _frozen(seconds), _frozen(rank.plan.ranks_per_stage * capped(of(rank.joules), seconds, rank.energy))


def _line(function: Callable[..., float], inputs: int) -> tuple[float, ...]:
    """(constant, slopes) of a function that is linear in its inputs where they are positive.

    At nothing it may be nothing: kernels that have no work are not launched.
    """
    least = [1.0] * inputs
    value = function(*least)
    slopes = []
    for i in range(inputs):
        point = list(least)
        point[i] += UNIT
        slopes.append((function(*point) - value) / UNIT)
    return max(value - sum(slopes), 0.0), *slopes
