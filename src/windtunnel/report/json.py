"""Results as JSON: plain values only, non-finite numbers as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic import BaseModel


def plain(value: object) -> Any:
    """A value as JSON can hold it: mappings, lists, text, numbers, booleans and null.

    Not-a-number and infinities become null, since JSON has no name for them.

    >>> plain({"tpot_s": float("nan"), "counts": (1, 2)})
    {'tpot_s': None, 'counts': [1, 2]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="python", exclude_none=False))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no plain form")


def to_json(value: object, *, indent: int | None = 2) -> str:
    """A value as JSON text that ends in a newline and holds no NaN."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
