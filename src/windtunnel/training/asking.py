"""Turn what a user writes into a question: batch sizes, values of the plan, presets and files.

4M-tokens                    tokens a step: binary millions where they are whole sequences, else decimal ones
recompute=none,selective     values of a plan's field to try
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from windtunnel.errors import Problem, SpecError, nearest, shorten
from windtunnel.specs.hardware import AcceleratorSpec, NodeSpec
from windtunnel.specs.load import Collector, build, names, read_yaml, resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingDtype, TrainingEngine, TrainingJob, TrainingPlan
from windtunnel.specs.training_check import assembled_job, job_problems
from windtunnel.training.presets import preset_plan, training_presets
from windtunnel.units import parse_count

Values = dict[str, tuple[Any, ...]]
"""Fields of the plan and the values to try."""
_WHOLE = ("stage_layers", "recompute_modules")
"""Fields whose value is itself a list."""
_TOKENS = "-tokens"


def batch_sequences(value: str | int, seq_len: int, where: str = "global_batch") -> int:
    """Sequences of a global batch given in sequences (`1024`) or tokens (`4M-tokens`).

    Tokens of whole sequences are wanted: `4M-tokens` of 8,192 is 512 sequences, since 4 x 2^20 is what batches
    of powers of two mean by it; where that does not divide, 4 x 10^6 is taken if it does.

    Raises:
        SpecError: not a batch size, or no whole number of sequences.

    >>> batch_sequences("4M-tokens", 8192), batch_sequences("4M-tokens", 2000), batch_sequences(96, 8192)
    (512, 2000, 96)
    """
    text = str(value).strip()
    tokens = text.casefold().endswith((_TOKENS, "tokens"))
    stem = text.casefold().removesuffix("tokens").rstrip("- ")
    try:
        number = parse_count(stem.upper() if stem[-1:].isalpha() else stem)
    except ValueError:
        hint = "sequences such as 1024, or tokens such as 4M-tokens"
        raise SpecError(Problem("is not a batch size", where, got=shorten(value), allowed=hint)) from None
    if not tokens:
        if number != int(number) or number < 1:
            raise SpecError(Problem("must be whole sequences, 1 or more", where, got=shorten(value)))
        return int(number)
    powers = {"K": 1024.0 / 1e3, "M": 1024.0**2 / 1e6, "G": 1024.0**3 / 1e9}
    for factor in (powers.get(stem[-1:].upper(), 1.0), 1.0):
        sequences = number * factor / seq_len
        if sequences >= 1 and abs(sequences - round(sequences)) < 1e-9 * sequences:
            return round(sequences)
    below = max(int(number // seq_len), 1)
    near = f"{below * seq_len} or {(below + 1) * seq_len} tokens ({below} or {below + 1} sequences)"
    raise SpecError(Problem(f"must be whole sequences of {seq_len} tokens", where, got=shorten(value), allowed=near))


def plan_values(settings: Iterable[str], where: str = "set") -> Values:
    """Fields of a plan from `KEY=VALUE[,VALUE]`, each value checked.

    Raises:
        SpecError: every mistake, together.

    >>> plan_values(["tensor_parallel=4,8", "recompute=full"])
    {'tensor_parallel': (4, 8), 'recompute': ('full',)}
    """
    found: Values = {}
    problems: list[Problem] = []
    known = TrainingPlan.model_fields
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        key = key.replace("-", "_")
        if not equals or not text:
            problems.append(
                Problem("reads KEY=VALUE", where, got=shorten(setting), allowed="such as tensor_parallel=8")
            )
        elif key not in known:
            allowed = ", ".join(known)
            problems.append(Problem("no such field of a plan", where, "", repr(key), allowed, nearest(key, known)))
        else:
            words = [yaml.safe_load(word) for word in text.split(",")]
            values: list[Any] = [tuple(words)] if key in _WHOLE else words
            found[key] = tuple(dict.fromkeys(_checked(key, value, where, problems) for value in values))
    if problems:
        raise SpecError(problems)
    return found


def _checked(key: str, value: Any, where: str, problems: list[Problem]) -> Any:
    """A value as its field takes it; what is wrong with it is kept."""
    field = TrainingPlan.model_fields[key]
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problems.append(Problem(error.errors()[0]["msg"], where, key, shorten(value)))
        return value


def values_of(fields: Mapping[str, Any], where: str = "set") -> Values:
    """The same from a mapping: a list holds values to try, anything else is the only one.

    Raises:
        SpecError: every mistake, together.
    """
    found: Values = {}
    problems: list[Problem] = []
    known = TrainingPlan.model_fields
    for key, given in fields.items():
        if key not in known:
            allowed = ", ".join(known)
            problems.append(Problem("no such field of a plan", where, "", repr(key), allowed, nearest(key, known)))
            continue
        several = isinstance(given, list | tuple) and (
            key not in _WHOLE or isinstance(next(iter(given), 0), list | tuple)
        )
        found[key] = tuple(_checked(key, value, where, problems) for value in (given if several else (given,)))
    if problems:
        raise SpecError(problems)
    return found


def given_plan(
    name: str | TrainingPlan | Mapping[str, Any], values: Values, where: str = "plan"
) -> tuple[TrainingPlan, TrainingEngine | None]:
    """A plan as it is, from its fields, a preset's name or a YAML file, with single values laid over it.

    Returns:
        The plan, and the preset's engine.

    Raises:
        SpecError: no such preset or file, or a field that is wrong.
    """
    many = [key for key, found in values.items() if len(found) > 1]
    if many:
        raise SpecError([Problem("one given layout has one value of each field", "set", key) for key in many])
    single = {key: found[0] for key, found in values.items()}
    if isinstance(name, TrainingPlan):
        return build(TrainingPlan, name.model_dump() | single, where), None
    if isinstance(name, Mapping):
        fields = {str(key).replace("-", "_"): value for key, value in name.items()}
        return build(TrainingPlan, fields | single, where), None
    if name in training_presets():
        plan, engine = preset_plan(name)
        return build(TrainingPlan, plan.model_dump() | single, where), engine
    if not name.endswith((".yaml", ".yml")) and not Path(name).exists():
        known = training_presets()
        allowed = f"a .yaml file, or {', '.join(known)}"
        raise SpecError(Problem("no such plan", where, got=repr(name), allowed=allowed, nearest=nearest(name, known)))
    data = {str(key).replace("-", "_"): value for key, value in read_yaml(Path(name)).items()}
    return build(TrainingPlan, data | single, name), None


def precisions(given: Sequence[str], where: str = "precision") -> tuple[TrainingDtype, ...]:
    """Formats of matrix arithmetic to try.

    Raises:
        SpecError: an unknown one.
    """
    known = tuple(name for name in get_args(TrainingDtype) if name not in ("fp32", "tf32"))
    wrong = [name for name in given if name not in known]
    if wrong:
        allowed = ", ".join(known)
        raise SpecError(
            [Problem("unknown number format", where, "", repr(n), allowed, nearest(n, known)) for n in wrong]
        )
    return cast("tuple[TrainingDtype, ...]", tuple(given))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The parts of a question as a user gives them; see `windtunnel.train` for their meaning."""

    model: str | ModelSpec
    accelerators: Sequence[str | AcceleratorSpec]
    gpus: Sequence[int]
    global_batch: str | int
    seq_len: int
    engine: TrainingEngine = "megatron"
    node: str | NodeSpec | None = None
    fabric: str = ""
    plan: TrainingPlan | None = None


def jobs_of(asked: Asked, where: Callable[[str], str] = str) -> tuple[TrainingJob, ...]:
    """The job on every cluster: accelerators in the order given, for each every number of them.

    Args:
        asked: what was asked.
        where: the flag or field that a name stands for in error messages.

    Raises:
        SpecError: every mistake, together.
    """
    collect = Collector()
    sequences = 1
    with collect:
        sequences = batch_sequences(asked.global_batch, asked.seq_len, where("global_batch"))
    found = []
    for accelerator in asked.accelerators:
        for gpus in asked.gpus:
            with collect:
                job = assembled_job(
                    asked.model,
                    accelerator,
                    gpus=gpus,
                    global_batch_sequences=sequences,
                    seq_len=asked.seq_len,
                    plan=asked.plan,
                    node=asked.node,
                    engine=asked.engine,
                )
                _check_node(job, where("node"))
                if asked.fabric:
                    job = job.model_copy(update={"scale_out": resolve("fabrics", asked.fabric, where("fabric"))})
                found.append(job)
    collect.check()
    return tuple(found)


def _check_node(job: TrainingJob, where: str) -> None:
    """A catalogue node holds what it is sold with; accelerators of the user's own may sit anywhere."""
    held, device = job.node.accelerator, job.accelerator.name
    if held != device and {held, device} <= set(names("accelerators")):
        fitting = ", ".join(name for name in names("nodes") if resolve("nodes", name).accelerator == device)
        raise SpecError(Problem(f"the node holds {held}, not {device}", where, "", job.node.name, fitting))


def check_formats(jobs: Iterable[TrainingJob], formats: Iterable[str], where: str = "precision") -> None:
    """Check that every accelerator computes in the formats.

    Raises:
        SpecError: one does not.
    """
    problems = []
    for job in jobs:
        for name in formats:
            plan = TrainingPlan(compute_dtype=cast("TrainingDtype", name))
            alone = job.model_copy(update={"plan": plan, "gpus": 1, "global_batch_sequences": 1})
            problems += [p for p in job_problems(alone) if p.path == "plan.compute_dtype"]
    if problems:
        raise SpecError([Problem(p.message, where, "", p.got, p.allowed) for p in dict.fromkeys(problems)])


def cluster_sizes(text: str | int | Sequence[int], where: str = "gpus") -> tuple[int, ...]:
    """Numbers of accelerators from `1024`, `"256,512"` or a list, each once.

    Raises:
        SpecError: not whole numbers above 0.
    """
    parts: Sequence[Any] = text.split(",") if isinstance(text, str) else text if isinstance(text, Sequence) else (text,)
    words = [str(part).strip() for part in parts]
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise SpecError(Problem("must be whole numbers above 0", where, got=shorten(text), allowed="such as 1024"))
    return tuple(dict.fromkeys(int(word) for word in words))
