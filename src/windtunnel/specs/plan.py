"""The plan: how a model is laid out on hardware."""

from __future__ import annotations

from pydantic import Field, model_validator

from windtunnel.specs.fields import Dtype, Spec


class PlanSpec(Spec):
    """Parallel layout and number formats of one deployment.

    One replica uses tensor_parallel * attention_data_parallel * pipeline_parallel accelerators. With
    experts, expert_parallel spreads the routed experts over that many of the replica's ranks of a
    stage; the rest share out the width of each expert. With attention_data_parallel, that many groups
    of tensor_parallel ranks run attention for requests of their own and share the experts.
    """

    tensor_parallel: int = Field(1, ge=1, description="TP degree")
    pipeline_parallel: int = Field(1, ge=1, description="PP degree")
    attention_data_parallel: int = Field(
        1, ge=1, description="groups of TP ranks that attend to requests of their own and share the experts"
    )
    expert_parallel: int = Field(1, ge=1, description="EP degree, a divisor of a stage's ranks")
    replicas: int = Field(1, ge=1, description="copies of the model, each with its own scheduler")
    weight_dtype: Dtype = Field("bf16", description="stored weights")
    compute_dtype: Dtype | None = Field(None, description="matrix arithmetic; default follows the weights")
    kv_dtype: Dtype = Field("bf16", description="KV cache")

    @model_validator(mode="after")
    def _consistent(self) -> PlanSpec:
        if self.ranks_per_stage % self.expert_parallel:
            what = "tensor_parallel" if self.attention_data_parallel == 1 else "the ranks of a stage"
            raise ValueError(f"expert_parallel ({self.expert_parallel}) must divide {what} ({self.ranks_per_stage})")
        return self

    @property
    def ranks_per_stage(self) -> int:
        """TP x attention DP: the ranks that share the experts of a stage."""
        return self.tensor_parallel * self.attention_data_parallel

    @property
    def accelerators_per_replica(self) -> int:
        """TP x attention DP x PP."""
        return self.ranks_per_stage * self.pipeline_parallel

    @property
    def accelerators(self) -> int:
        """TP x attention DP x PP x replicas."""
        return self.accelerators_per_replica * self.replicas

    @property
    def matmul_dtype(self) -> Dtype:
        """Number format of the matrix units: weight-only formats compute in bf16."""
        if self.compute_dtype is not None:
            return self.compute_dtype
        return "bf16" if self.weight_dtype in ("int4", "mxfp4", "fp6", "fp4", "q4_k_m") else self.weight_dtype

    def label(self) -> str:
        """Short text such as `TP4 PP1 x2 fp8`."""
        parts = [f"TP{self.tensor_parallel}"]
        if self.pipeline_parallel > 1:
            parts.append(f"PP{self.pipeline_parallel}")
        if self.attention_data_parallel > 1:
            parts.append(f"ADP{self.attention_data_parallel}")
        if self.expert_parallel > 1:
            parts.append(f"EP{self.expert_parallel}")
        parts.append(f"x{self.replicas}")
        kv = "" if self.kv_dtype in ("bf16", "fp16") else f" kv-{self.kv_dtype}"
        return " ".join(parts) + f" {self.weight_dtype}{kv}"
