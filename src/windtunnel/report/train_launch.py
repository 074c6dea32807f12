"""Launch arguments of a training job for Megatron-LM, torchtitan and DeepSpeed.

An engine that cannot run the layout says why: a command that runs another layout than the one that was
priced would be worse than none.
"""

from __future__ import annotations

from windtunnel.report.launch_deepspeed import deepspeed
from windtunnel.report.launch_megatron import megatron
from windtunnel.report.launch_torchtitan import torchtitan
from windtunnel.report.launch_training import TrainingLaunch
from windtunnel.specs.training import TrainingJob

__all__ = ["TrainingLaunch", "launch_commands", "launch_text"]

_OWN = {"torchtitan": "torchtitan", "fsdp": "torchtitan", "deepspeed": "DeepSpeed"}


def launch_commands(job: TrainingJob) -> tuple[TrainingLaunch, ...]:
    """How to start a job with each engine, or why it cannot run there; the job's own engine first."""
    own = _OWN.get(job.engine, "Megatron-LM")
    return tuple(
        sorted((megatron(job), torchtitan(job), deepspeed(job)), key=lambda one: not one.engine.startswith(own))
    )


def launch_text(launch: TrainingLaunch, width: int = 78) -> str:
    """One engine's launch for a terminal: files, command and notes, or the reasons against it."""
    if launch.refusals:
        return "\n".join([f"{launch.engine}: cannot run this layout", *(f"  - {one}" for one in launch.refusals)])
    parts = [f"# {launch.engine}"]
    for name, content in launch.files:
        parts += [f"cat > {name} <<'END'", content.rstrip(), "END"]
    parts.append(launch.text(width))
    return "\n".join([*parts, *(f"# {note}" for note in launch.notes)])
