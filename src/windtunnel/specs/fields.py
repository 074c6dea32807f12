"""Field types shared by the specs: quantities that accept units, and the frozen model they live in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from windtunnel import units

Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp6", "fp4", "int4", "nvfp4", "mxfp4", "q4_k_m"]
"""Number formats. `nvfp4` and `mxfp4` carry block scales; `int4` is weight-only with group scales; `q4_k_m` is
llama.cpp's mixture of 4- and 6-bit blocks."""

DTYPE_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp6": 0.75,
    "fp4": 0.5,
    # 4-bit values with their scales: 16-value blocks with an fp8 scale; 32-value blocks with an
    # 8-bit exponent; groups of 128 with an fp16 scale and a 4-bit zero point.
    "nvfp4": 0.5 + 1.0 / 16.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "int4": 0.5 + 2.5 / 128.0,
    # 4.85 bits a weight over a whole Llama model, embeddings at 4 and 6 bits included (llama.cpp's quantize tool).
    "q4_k_m": 4.85 / 8.0,
}
"""Bytes per stored value, scales included."""

Kind = Literal["measured", "datasheet", "calibrated", "assumed", "published"]
"""Where a catalogue value comes from."""

Seconds = Annotated[float, BeforeValidator(units.parse_seconds)]
Bytes = Annotated[float, BeforeValidator(units.parse_bytes)]
BytesPerSecond = Annotated[float, BeforeValidator(units.parse_bytes_per_s)]
FlopsPerSecond = Annotated[float, BeforeValidator(units.parse_flops_per_s)]
Hertz = Annotated[float, BeforeValidator(units.parse_hertz)]
Watts = Annotated[float, BeforeValidator(units.parse_watts)]
Count = Annotated[int, BeforeValidator(units.parse_count), Field(ge=0)]


class Spec(BaseModel):
    """A frozen specification; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class Source(Spec):
    """Where values of a catalogue entry come from.

    Attributes:
        fields: the fields it vouches for; empty means every field not named by another source.
        kind: measured, datasheet, calibrated, assumed or published.
        source: the document, table or package, as one would cite it.
        date: when it was published or read, ISO form.
        url: where to find it, when public.
    """

    fields: tuple[str, ...] = ()
    kind: Kind
    source: str
    date: str = ""
    url: str = ""
