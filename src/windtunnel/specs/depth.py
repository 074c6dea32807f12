"""Early exit: how many of its layers a model runs for a token that it generates, and by which rule in a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windtunnel.specs.fields import Spec

DepthRule = Literal["together", "deepest", "each"]


class DepthSpec(Spec):
    """Adaptive depth of decoding; prompts go through all layers, and the cache keeps all of them.

    A token leaves after any layer beyond the least with the same chance, which follows from the mean share; with
    `survival` the share of tokens that each layer sees is given instead.
    """

    mean_share: float = Field(1.0, gt=0, le=1, description="mean share of the layers that a generated token runs")
    least_share: float = Field(
        0.0, ge=0, le=1, description="share of the layers that every token runs; at most the mean"
    )
    survival: tuple[float, ...] = Field(
        (), description="measured instead: share of tokens that run the 1st, 2nd, ... layer; must not increase"
    )
    rule: DepthRule = Field(
        "together",
        description="together: a batch leaves as one, as position decides its depth (SkipDecode); deepest: layers run "
        "until the last token of the batch leaves (token-level exit in batches of fixed shape); each: a layer runs for "
        "the tokens that still need it, in batches that shrink",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DepthSpec:
        if self.survival:
            if any(not 0.0 <= one <= 1.0 for one in self.survival):
                raise ValueError("survival must be shares between 0 and 1")
            if any(later > one for one, later in zip(self.survival, self.survival[1:], strict=False)):
                raise ValueError("survival must not increase from layer to layer")
            if self.mean_share != 1.0 or self.least_share:
                raise ValueError("survival says the depths; mean_share and least_share do not go with it")
            if not self.survival[0]:
                raise ValueError("survival must begin above 0")
        elif self.least_share > self.mean_share:
            raise ValueError(f"least_share ({self.least_share}) is above mean_share ({self.mean_share})")
        return self
