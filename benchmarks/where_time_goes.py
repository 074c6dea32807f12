"""Where the time of a simulation goes: samples of the running machine code, by part of the loop.

    python benchmarks/where_time_goes.py [--only NAME] [--seconds 5] [--functions 20] [--lines 20]

Needs Linux, `perf` (with `kernel.perf_event_paranoid` at most 2) and the binutils `nm` and
`addr2line`. The loop is compiled with line tables, without the cache; `perf` samples the processor
clock while a workload of `hot_loop.py` is run over and over; every sampled address is looked up in
the compiled object's line tables, through all calls that were inlined there. A sample belongs to the
innermost function that is listed under `PARTS`. What is not compiled code is timed by the clock.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hot_loop import WORKLOADS, h100_8b_surface, settings
from windtunnel.serving import simulate
from windtunnel.serving.run import run
from windtunnel.workload.table import request_table

SAMPLES_PER_S = 2000
PARTS = {
    "events": "loop.*",
    "arrivals": "loop._arrive arrivals.* queue.push_back",
    "routing": "routing.*",
    "admission": "vllm._admit_waiting admission.* batch.open_row batch.take_row batch.admit queue.pop_head",
    "KV blocks": "kv_cache.* content.* jit.mix batch.vacate batch.take_blocks",
    "composition": "vllm.* batch.grant batch.finish_composing batch.count_prefill batch.clear_step "
    "batch.advance_decodes batch.advance_granted batch.recount",
    "preemption": "batch.preempt vllm._victim queue.push_front",
    "timing": "timing.* price.*",
    "finishing": "ending.* batch.enter_decode batch._leave_decode",
    "records": "log.*",
}
"""Functions of `windtunnel/serving` (module.function, * for all others of a module) by part of the loop.

What is not listed belongs to whoever calls it.
"""
_SERVING = Path(simulate.__file__).parent
Chain = tuple[str, ...]
"""Functions `module.function:line`, innermost first."""


def work(name: str, seconds: float, folder: Path) -> None:
    """Say where the code lies, then run a workload for some seconds and say how long its parts took.

    The first of two processes compiles and keeps the object, the second loads it: in a process that
    compiles, functions that are not inlined run from objects of their own.
    """
    table, limits, options = WORKLOADS[name][1]()
    surface = h100_8b_surface()
    spent, used = [0.0], list[Any]()
    execute = simulate.execute

    def timed(arrays: Any, loop: Any) -> int:
        began = time.perf_counter()
        status = execute(arrays, loop)
        spent[0] += time.perf_counter() - began
        used.append(loop.run_loop)
        return status

    simulate.execute = timed
    run(request_table([0.0], [8], [2]), surface, settings())
    run(table, surface, limits, **options)
    (overload,) = used[-1].overloads.values()
    if not (folder / "loop.o").exists():
        (folder / "loop.o").write_bytes(overload.library._get_compiled_object())
        return
    symbol = overload.fndesc.llvm_func_name
    print(json.dumps([symbol, overload.library.get_pointer_to_function(symbol)]), flush=True)
    spent[0], runs, began = 0.0, 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        run(table, surface, limits, **options)
        runs += 1
    print(json.dumps([(time.perf_counter() - began) / runs, spent[0] / runs]), flush=True)


def sample(name: str, seconds: float) -> tuple[float, float, Counter[Chain]]:
    """Seconds of a run, of these in the loop, and the samples of the loop by chain of calls."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = os.environ | {"NUMBA_DEBUGINFO": "1", "NUMBA_CACHE_DIR": str(folder / "cache")}
        command = [sys.executable, __file__, "--work", temporary, "--only", name, "--seconds", str(seconds)]
        subprocess.run(command, env=environment, check=True)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            symbol, start = json.loads(worker.stdout.readline())
            perf = ["perf", "record", "-q", "-e", "cpu-clock:u", "-F", str(SAMPLES_PER_S), "-p", str(worker.pid)]
            subprocess.run([*perf, "-o", f"{temporary}/perf"], check=True)
            whole_s, loop_s = json.loads(worker.stdout.readline())
        listing = subprocess.run(["perf", "script", "-i", f"{temporary}/perf", "-F", "ip"], check=True, **_TEXT)
        symbols = subprocess.run(["nm", f"{temporary}/loop.o"], check=True, **_TEXT).stdout.splitlines()
        placed = {fields[2]: int(fields[0], 16) for fields in map(str.split, symbols) if len(fields) == 3}
        base = start - placed[symbol]
        # Compiled code ends a little behind its last function; addresses beyond find no line.
        end = max(placed.values()) + 65536
        counts = Counter(int(address, 16) - base for address in listing.stdout.split())
        inside = {offset: count for offset, count in counts.items() if 0 <= offset < end}
        chains: Counter[Chain] = Counter()
        for offset, chain in _chains(folder / "loop.o", list(inside)).items():
            chains[chain] += inside[offset]
    return whole_s, loop_s, chains


_TEXT: Any = {"stdout": subprocess.PIPE, "text": True}


def _chains(compiled: Path, offsets: list[int]) -> dict[int, Chain]:
    """The functions of `serving` that an offset belongs to, through inlined calls, innermost first."""
    asked = "\n".join(f"{offset:#x}" for offset in offsets)
    command = ["addr2line", "-a", "-i", "-e", str(compiled)]
    answer = subprocess.run(command, input=asked, check=True, **_TEXT).stdout.splitlines()
    found: dict[int, Chain] = {}
    for text in answer:
        if text.startswith("0x"):
            offset = int(text, 16)
            found[offset] = ()
            continue
        path, _, line = text.partition(" ")[0].rpartition(":")
        if path.startswith(str(_SERVING)) and line.isdigit():
            place = f"{_function(Path(path), int(line))}:{line}"
            found[offset] += (place,)
    return found


def _function(path: Path, line: int) -> str:
    """`module.function` that a line stands in."""
    for first, last, name in _functions(path):
        if first <= line <= last:
            return f"{path.stem}.{name}"
    return f"{path.stem}.?"


@functools.cache
def _functions(path: Path) -> list[tuple[int, int, str]]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [(n.lineno, n.end_lineno or n.lineno, n.name) for n in nodes if isinstance(n, ast.FunctionDef)]


def part_of(chain: Chain) -> str:
    """The part of the loop that a chain of calls belongs to."""
    owners = {name: part for part, names in PARTS.items() for name in names.split()}
    for place in chain:
        function = place.partition(":")[0]
        for known in (function, f"{function.partition('.')[0]}.*"):
            if known in owners:
                return owners[known]
    return "elsewhere"


def report(name: str, seconds: float, functions: int, lines: int) -> None:
    """Measure one workload and print its table."""
    whole_s, loop_s, chains = sample(name, seconds)
    total = sum(chains.values())
    parts: Counter[str] = Counter()
    for chain, count in chains.items():
        parts[part_of(chain)] += count
    print(f"{WORKLOADS[name][0]}: {whole_s * 1e3:.1f} ms, of which {loop_s * 1e3:.1f} in the loop ({total} samples)")
    print(f"  {'arrays before and after':<28}{1 - loop_s / whole_s:7.1%} of the run")
    for part, count in parts.most_common():
        print(f"  {part:<28}{count / total * loop_s / whole_s:7.1%} of the run {count / total:7.1%} of the loop")
    for title, most, key in (("function", functions, ":"), ("line", lines, "\n")):
        if most:
            print(f"  by innermost {title}:")
            own = Counter[str]()
            for chain, count in chains.items():
                own[chain[0].partition(key)[0] if chain else "?"] += count
            for place, count in own.most_common(most):
                print(f"    {place:<40}{count / total:7.1%}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--functions", type=int, default=0)
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.only, given.seconds, given.work)
        return
    for name in [given.only] if given.only else WORKLOADS:
        report(name, given.seconds, given.functions, given.lines)


if __name__ == "__main__":
    main()
