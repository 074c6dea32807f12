"""The deployment: what runs. Model, accelerator, node, plan, engine and techniques."""

from __future__ import annotations

from pydantic import Field

from windtunnel.specs.engine import HOST_TIMES, EngineSpec
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec


class DeploymentSpec(Spec):
    """A model on hardware under a plan and an engine. Every name is already resolved."""

    model: ModelSpec
    accelerator: AcceleratorSpec
    node: NodeSpec
    scale_up: FabricSpec = Field(description="link between the node's accelerators")
    scale_out: FabricSpec = Field(description="link between nodes")
    plan: PlanSpec
    engine: EngineSpec
    techniques: tuple[str, ...] = ()

    @property
    def hosted_engine(self) -> EngineSpec:
        """The engine as its server's host runs it: times of the host's work scaled by the node's `host_time`."""
        by = self.node.host_time
        if by == 1.0:
            return self.engine
        return self.engine.model_copy(update={name: getattr(self.engine, name) * by for name in HOST_TIMES})

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens."""
        return self.engine.max_model_len or self.model.max_context_tokens

    @property
    def drafter_accelerators(self) -> int:
        """Accelerators of the drafter's own, per replica: those of parallel speculative decoding."""
        spec = self.engine.speculative
        return max(spec.draft_tensor_parallel, 1) if spec is not None and spec.method == "parallel" else 0

    @property
    def accelerators_per_replica(self) -> int:
        """Accelerators of one replica, the drafter's own included."""
        return self.plan.accelerators_per_replica + self.drafter_accelerators

    @property
    def accelerators(self) -> int:
        """Accelerators of all replicas."""
        return self.accelerators_per_replica * self.plan.replicas
