"""LoRA adapters of a deployment: how many, how large, how many at a time, and whose requests use which."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windtunnel.specs.fields import Spec


class LoraSpec(Spec):
    """Low-rank adapters served beside one another over the same weights.

    Hu et al., LoRA (arXiv:2106.09685); served together as in S-LoRA (arXiv:2311.03285) and Punica
    (arXiv:2310.18547). All adapters lie in host memory; `max_loras` of them on the device.
    """

    adapters: int = Field(1, ge=1, le=100_000, description="adapters that requests may name")
    rank: int = Field(16, ge=1, le=1024, description="rank of every adapter, and of the slots set aside for them")
    targets: Literal["all-linear", "attention"] = Field(
        "all-linear", description="adapted matrices: of attention and MLP, or of attention alone; never routed experts"
    )
    max_loras: int = Field(
        1, ge=1, description="adapters on the device, and most different ones in a step (vLLM's --max-loras, default 1)"
    )
    popularity: Literal["uniform", "zipf", "tenant"] = Field(
        "uniform",
        description="which adapter a request names: drawn evenly, drawn with chances that fall with the rank in "
        "popularity, or the tenant's own (tenant modulo adapters)",
    )
    zipf_exponent: float = Field(1.0, ge=0, le=10, description="zipf: chances are 1 / rank^exponent")
    base_share: float = Field(0.0, ge=0, le=1, description="share of requests that use no adapter")

    @model_validator(mode="after")
    def _consistent(self) -> LoraSpec:
        if self.max_loras > self.adapters:
            raise ValueError(f"max_loras ({self.max_loras}) is more than there are adapters ({self.adapters})")
        return self
