"""One compiled loop per scheduler: the kernel's modules executed anew around another `compose`.

`kernel(name)` returns the event loop of a scheduler. The loop of `vllm` is the one that
importing `loop.py` compiles. For any other the kernel's modules are executed a second time
under names of their own, with the scheduler's module in the place of `composer.py`; numba then
compiles a loop for that scheduler alone, kept on disk in a folder of its own. Nothing is
decided at run time, and a scheduler more makes no other one slower to run or to compile. With
`compiled=False` the module `plain.py` stands in the place of `jit.py`, which gives the same
loop as plain Python in the same process.

**A scheduler** is a module in `serving/schedulers/` with one function,

    compose(world, requests, replica, slots, phase, blocks, cells, segments, log, book) -> None

made of the primitives in `batch.py`, `admission.py` and `steps.py`, and an entry in
`schedulers.SCHEDULERS`. `book` is the replica's own array of floats for whatever it has to
remember (`preparation.py` makes it); `replica.stall_s` delays the step it composes (swapping);
`replica.finished` heads a list, through `requests[i].next`, of the requests that finished since
it was last emptied (set it to -1).

**A policy of the user's own** needs no kernel of its own: the scheduler `custom` asks up to
four hooks (waiting order, victim, chunk, admission); a loop with the router `custom` asks a fifth. Hooks are C
functions passed by address (`hooks.py`, `settings.HookAddresses`), compiled with numba's `cfunc`
or plain Python behind ctypes; the loop they are called from is compiled once and stays cached.
"""

from __future__ import annotations

import ast
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from windtunnel.serving.jit import DISABLED
from windtunnel.serving.schedulers import scheduler_info

_ROOT = "windtunnel.serving."
_HERE = Path(__file__).parent
_AHEAD = {"composer": "ahead.compose", "ending": "ahead.ending", "timing": "ahead.timing"}
"""What stands in the place of what in the vLLM scheduler that composes ahead or with drafts ..."""
_ADAPTED = {"composer": "adapters.compose", "timing": "adapters.timing"}
"""... in the one with LoRA adapters ..."""
_EVICTING = {"kv_cache": "eviction"}
"""... in a prefix cache with another order of eviction ..."""
_WINDOWED = {"footprint": "windowed"}
"""... where sliding-window layers free what they no longer need ..."""
_ROUTED = {"routing": "custom_routing"}
"""... and with a router of the user's own."""
_SHARED = ("state", "jit", "plain")
"""Modules without anything to specialise."""

_LOCK = threading.Lock()
_KERNELS: dict[tuple[str, str], Kernel] = {}


@dataclass(frozen=True, slots=True)
class Kernel:
    """An event loop: `run_loop` takes `Arrays.arguments(compiled)` and returns a status of `state.py`."""

    run_loop: Any
    compiled: bool


def kernel(
    scheduler: str = "vllm",
    *,
    ahead: bool = False,
    evicting: bool = False,
    windowed: bool = False,
    routed: bool = False,
    adapted: bool = False,
    compiled: bool = True,
) -> Kernel:
    """The event loop of a scheduler, made on first use.

    Args:
        scheduler: a name of `schedulers.SCHEDULERS`.
        ahead: the loop for asynchronous scheduling or speculative tokens (of `vllm`).
        evicting: the loop whose prefix cache evicts in another order than least recently used.
        routed: the loop whose router is `custom`.
        adapted: the loop for LoRA adapters (of `vllm`).
        windowed: the loop in which sliding-window layers free what they no longer need.
        compiled: False for plain Python (NUMBA_DISABLE_JIT=1 makes all of them plain).

    Raises:
        SpecError: no scheduler has this name.
    """
    info = scheduler_info(scheduler)
    compiled = compiled and not DISABLED
    with _LOCK:
        kind = f"{'ahead_' * ahead}{'adapted_' * adapted}{'evicting_' * evicting}{'windowed_' * windowed}"
        kind += "routed_" * routed
        kind += "compiled" if compiled else "plain"
        if (info.module, kind) not in _KERNELS:
            swapped = _AHEAD if ahead else {"composer": info.module}
            swapped = swapped | (_ADAPTED if adapted else {})
            swapped = swapped | (_EVICTING if evicting else {}) | (_WINDOWED if windowed else {})
            swapped = swapped | (_ROUTED if routed else {})
            _KERNELS[info.module, kind] = Kernel(_run_loop(info.module, swapped, kind), compiled)
        return _KERNELS[info.module, kind]


def _run_loop(module: str, swapped: dict[str, str], kind: str) -> Any:
    if module == "vllm" and kind == "compiled":
        from windtunnel.serving.loop import run_loop

        return run_loop
    if kind.endswith("plain"):
        swapped = swapped | {"jit": "plain"}
    return _Instance(f"{_ROOT}kernels.{module.rpartition('.')[2]}_{kind}", swapped).module("loop").run_loop


@dataclass(slots=True)
class _Instance:
    """The kernel's modules executed anew: `name.loop`, `name.batch` and so on."""

    name: str
    swapped: dict[str, str]
    modules: dict[str, ModuleType] = field(default_factory=dict)

    def module(self, name: str) -> ModuleType:
        """The instance's own module of this name (below `windtunnel.serving`)."""
        name = self.swapped.get(name, name)
        if name not in self.modules:
            self.modules[name] = self._execute(name)
        return self.modules[name]

    def _execute(self, name: str) -> ModuleType:
        path = _HERE / (name.replace(".", "/") + ".py")
        tree = ast.parse(path.read_text(), str(path))
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(_ROOT):
                inner = self.swapped.get(node.module.removeprefix(_ROOT), node.module.removeprefix(_ROOT))
                node.module = _ROOT + inner if inner in _SHARED else self.module(inner).__name__
        # Symbols of compiled code carry the module's name, so no two instances may share one;
        # numba finds a loaded function's module in sys.modules.
        module = ModuleType(f"{self.name}.{name}")
        module.__file__ = str(path)
        module.__dict__["SWAPPED"] = self.swapped
        sys.modules[module.__name__] = module
        exec(compile(tree, str(path), "exec", dont_inherit=True), module.__dict__)
        return module
