"""A scheduling policy of your own, as plain Python functions.

    def deadline(request, now_s):
        return request.arrival_s + 0.001 * request.prompt

    policy = Policy(order=deadline)

A function names the arguments that it wants, of those its question has:

| question | arguments | answer |
| --- | --- | --- |
| `order` | request, replica, now_s | the waiting request with the smallest value is looked at first |
| `victim` | request, replica, now_s, place, computed | the running request with the largest value is preempted |
| `chunk` | request, replica, now_s, wanted, available | tokens of its prompt that the request gets in this step |
| `admit` | request, replica, now_s, need, free | whether a waiting request that fits is taken in now |
| `route` | request, replica, now_s, index | an arriving request goes to the replica with the smallest value |

`request` has arrival_s, prompt and output (tokens; the output is the truth, which a real scheduler does not know),
generated, preemptions, tenant's number in `tie` order and `key` (its priority); `replica` has running, waiting,
free_blocks and the like: the fields of `state.REQUEST` and `state.REPLICA`.

A function is compiled where it can be; otherwise it is called through Python, which is some hundred times slower,
and `Policy.notes` says why. An exception stops the run with `PolicyError`, naming your line.
"""

from __future__ import annotations

import ctypes
import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from windtunnel.errors import PolicyError, Problem, nearest
from windtunnel.serving.settings import HookAddresses

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "order": ("request", "replica", "now_s"),
    "victim": ("request", "replica", "now_s", "place", "computed"),
    "chunk": ("request", "replica", "now_s", "wanted", "available"),
    "admit": ("request", "replica", "now_s", "need", "free"),
    "route": ("request", "replica", "now_s", "index"),
}
"""Questions, and what their functions may ask for; the last two are the hook's own numbers."""

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)


@dataclass(slots=True)
class Policy:
    """Functions that answer a scheduler's questions; None leaves what vLLM does.

    Attributes:
        order, victim, chunk, admit, route: see the module.
        starves: whether a request may wait for ever while others keep coming (declared, not a fault).
        compiled: False calls every function through Python, which is slow and easy to debug.
        notes: which functions were not compiled, and why; filled on first use.

    Raises:
        PolicyError: a function asks for an argument that its question does not have.
    """

    order: Callable[..., Any] | None = None
    victim: Callable[..., Any] | None = None
    chunk: Callable[..., Any] | None = None
    admit: Callable[..., Any] | None = None
    route: Callable[..., Any] | None = None
    starves: bool = False
    compiled: bool = True
    notes: list[str] = field(default_factory=list)
    _kept: list[Any] = field(default_factory=list, repr=False)
    _failed: list[BaseException] = field(default_factory=list, repr=False)
    _hooks: HookAddresses | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problems = [problem for name in ARGUMENTS for problem in _argument_problems(name, getattr(self, name))]
        if problems:
            raise PolicyError(problems)

    @property
    def scheduler(self) -> str:
        """The scheduler that asks this policy: `custom`, or `vllm` when it only routes."""
        asked = any(getattr(self, name) is not None for name in ARGUMENTS if name != "route")
        return "custom" if asked else "vllm"

    def hooks(self, plain: bool = False) -> HookAddresses:
        """The functions as the kernel calls them, compiled where that is possible.

        Args:
            plain: for a kernel that runs as plain Python, which takes functions by their place in a list.
        """
        given = {name: getattr(self, name) for name in ARGUMENTS if getattr(self, name) is not None}
        if plain:
            return HookAddresses(**{name: _listed(self._asked(name, function)) for name, function in given.items()})
        if self._hooks is None:
            self._hooks = HookAddresses(**{name: self._address(name, function) for name, function in given.items()})
        return self._hooks

    def in_python(self) -> Policy:
        """The same policy with every function called through Python, where exceptions keep their lines."""
        functions = {name: getattr(self, name) for name in ARGUMENTS}
        return Policy(**functions, starves=self.starves, compiled=False)

    def failure(self) -> PolicyError | None:
        """The exception that stopped a run, with the line that raised it; None when there was none."""
        if not self._failed:
            return None
        error = self._failed.pop()
        self._failed.clear()
        where = traceback.extract_tb(error.__traceback__)
        place = where[-1] if where else None
        said = f"{type(error).__name__}: {error}"
        if place is None:
            return PolicyError(Problem(f"the policy raised {said}"))
        line = (place.line or "").strip()
        return PolicyError(Problem(f"the policy raised {said}", place.filename, f"line {place.lineno}", line))

    def _address(self, name: str, function: Callable[..., Any]) -> int:
        if self.compiled:
            try:
                hook = _compiled(name, function)
            except Exception as error:  # whatever the compiler dislikes, Python may still run
                self.notes.append(f"{name} is called through Python, as it cannot be compiled: {_reason(error)}")
            else:
                self._kept.append(hook)
                return int(hook.address)
        callback = _CALLBACK(self._guarded(name, function))
        self._kept.append(callback)
        return int(ctypes.cast(callback, ctypes.c_void_p).value or 0)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., float]:
        """The function behind its C interface: records by their addresses."""
        from windtunnel.serving import state

        kinds = (state.REQUEST, state.REPLICA, state.WORLD)
        asked = self._asked(name, function)

        def hook(request: int, replica: int, world: int, a: int, b: int) -> float:
            records = [_record(at, kind) for at, kind in zip((request, replica, world), kinds, strict=True)]
            return asked(*records, a, b)

        return hook

    def _asked(self, name: str, function: Callable[..., Any]) -> Callable[..., float]:
        """The function with the arguments that it wants; an exception is kept and nan stops the run."""
        wanted, numbers = _wanted(function), ARGUMENTS[name][3:]

        def hook(request: Any, replica: Any, world: Any, a: int, b: int) -> float:
            try:
                values = {"request": request, "replica": replica, "now_s": float(world.now_s)}
                values |= dict(zip(numbers, (a, b), strict=False))
                answer = float(function(*(values[argument] for argument in wanted)))
                if math.isnan(answer):
                    raise ValueError(f"{name} answered nan")
            except BaseException as error:  # must not cross the compiled loop
                self._failed.append(error)
                return math.nan
            return answer

        return hook


def _record(address: int, kind: Any) -> Any:
    """The record at an address, with its fields as attributes."""
    memory = (ctypes.c_char * kind.itemsize).from_address(address)
    return np.frombuffer(memory, dtype=kind).view(np.recarray)[0]


def _listed(function: Callable[..., float]) -> int:
    """The function's number in the list that plain kernels look into."""
    from windtunnel.serving.plain import PYTHON_HOOKS

    PYTHON_HOOKS.append(function)
    return len(PYTHON_HOOKS)


def _wanted(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _argument_problems(name: str, function: Callable[..., Any] | None) -> list[Problem]:
    if function is None:
        return []
    if not callable(function):
        return [Problem("must be a function", "policy", name, repr(function))]
    allowed = ARGUMENTS[name]
    said = f"{name} ({getattr(function, '__name__', 'function')})"
    return [
        Problem(
            "asks for an unknown argument",
            "policy",
            said,
            repr(argument),
            ", ".join(allowed),
            nearest(argument, allowed),
        )
        for argument in _wanted(function)
        if argument not in allowed
    ]


def _compiled(name: str, function: Callable[..., Any]) -> Any:
    """The function as a C function of numba; raises whatever the compiler raises."""
    import numba

    from windtunnel.serving import state

    compiler: Any = numba
    kinds = (state.REQUEST, state.REPLICA, state.WORLD)
    records = [compiler.types.CPointer(compiler.from_dtype(kind)) for kind in kinds]
    signature = compiler.types.float64(*records, compiler.types.int64, compiler.types.int64)
    numbers = dict(zip(ARGUMENTS[name][3:], ("a", "b"), strict=False))
    places = {
        "request": "carray(request, 1)[0]",
        "replica": "carray(replica, 1)[0]",
        "now_s": "carray(world, 1)[0].now_s",
        **numbers,
    }
    arguments = ", ".join(places[argument] for argument in _wanted(function))
    text = (
        "def hook(request, replica, world, a, b):\n"
        f"    try:\n        return answer({arguments}) * 1.0\n"
        "    except Exception:\n        return nan\n"  # the run stops, and is asked again in Python
    )
    space: dict[str, Any] = {
        "nan": math.nan,
        "answer": compiler.njit(function, error_model="numpy"),
        "carray": compiler.carray,
    }
    exec(compile(text, f"<policy {name}>", "exec"), space)
    return compiler.cfunc(signature, error_model="numpy")(space["hook"])


def _reason(error: Exception) -> str:
    """The first telling line of a compiler's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Failed in", "File", "During"))]
    return (telling or lines or [type(error).__name__])[0][:160]
