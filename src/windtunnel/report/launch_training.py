"""What a launch of a training engine consists of, and how one is put together."""

from __future__ import annotations

from dataclasses import dataclass, field

from windtunnel.report.launch import Launch
from windtunnel.specs.training import TrainingJob


@dataclass(frozen=True, slots=True)
class TrainingLaunch:
    """How to start a training job with one engine, or why that engine cannot run its layout.

    Attributes:
        engine: its name and the version whose flags these are.
        arguments: the command, one word each; empty where the engine cannot run the layout.
        files: (name, content) of the files that the command reads.
        notes: what the command cannot say, or says a little differently from what was priced.
        refusals: why the engine cannot run the layout.
    """

    engine: str
    arguments: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    def text(self, width: int = 78) -> str:
        """The command over several lines, a backslash at the end of each but the last; empty without one."""
        return Launch(self.engine, self.arguments).text(width) if self.arguments else ""


@dataclass(slots=True)
class Draft:
    """A launch being put together.

    Attributes:
        words: the command so far.
        notes, refusals: as in `TrainingLaunch`.
    """

    words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def flag(self, name: str, *values: object, when: object = True) -> None:
        """Add a flag with its values."""
        if when:
            self.words += [f"--{name}", *(str(value) for value in values)]

    def note(self, text: str, *, when: object = True) -> None:
        """Say something beside the command."""
        if when:
            self.notes.append(text)

    def refuse(self, text: str, *, when: object = True) -> None:
        """Say why there can be no command."""
        if when:
            self.refusals.append(text)

    def launch(self, engine: str, files: tuple[tuple[str, str], ...] = ()) -> TrainingLaunch:
        """The launch; without command and files where something stands against it."""
        if self.refusals:
            return TrainingLaunch(engine, refusals=tuple(self.refusals))
        return TrainingLaunch(engine, tuple(self.words), files, tuple(self.notes))


def torchrun(job: TrainingJob) -> list[str]:
    """The words that start one process per accelerator on every node."""
    per_node = min(job.gpus, job.node.accelerators)
    nodes = -(-job.gpus // job.node.accelerators)
    if nodes == 1:
        return ["torchrun", "--standalone", "--nproc-per-node", str(per_node)]
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "HEAD_NODE:29500"]
    return ["torchrun", "--nnodes", str(nodes), "--nproc-per-node", str(per_node), *place]


def place_notes(job: TrainingJob, draft: Draft) -> None:
    """Where the command runs."""
    nodes = -(-job.gpus // job.node.accelerators)
    if nodes > 1:
        draft.note(f"start it on each of the {nodes:,} nodes; HEAD_NODE is the address of the first")
    if nodes > 1 and job.gpus % job.node.accelerators:
        draft.refuse(f"{job.gpus:,} accelerators do not fill nodes of {job.node.accelerators}")


def common_refusals(job: TrainingJob, draft: Draft, engine: str) -> None:
    """What none of the engines' training scripts offers."""
    plan, model = job.plan, job.model
    draft.refuse(f"{engine}'s script trains all weights, the plan trains LoRA adapters", when=plan.lora_rank)
    draft.refuse(
        f"{engine} has no update of each layer inside the backward pass",
        when=plan.layerwise_update and engine != "torchtitan",
    )
    draft.refuse(f"{engine} has no layers with linear attention as {model.name} has them", when=model.linear)
    draft.refuse(
        f"{engine} shards weights over the ranks that share states, not over {plan.zero_weight_group} of them",
        when=plan.zero_weight_group,
    )
    if engine != "DeepSpeed":
        widths = plan.quantized_weights_comm or plan.quantized_gradients_comm
        draft.refuse(f"{engine} does not gather weights or reduce gradients in 8 or 4 bits (ZeRO++)", when=widths)
        draft.refuse(f"{engine} keeps no second copy of weights (ZeRO++)", when=plan.zero_secondary_group)
