"""Collectives among the ranks of a tensor-parallel group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windtunnel.operators.operator import Number, Operator, Part

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(Operator):
    """A collective over `group` ranks; message_bytes is the size of the whole tensor."""

    kind: Kind


def collective(
    name: str, part: Part, count: float, message_bytes: Number, group: int, kind: Kind = "all_reduce"
) -> Collective:
    """The collective over a tensor of `message_bytes`, which every rank reads and writes once."""
    return Collective(
        name=name,
        part=part,
        count=count,
        read_bytes=message_bytes,
        write_bytes=message_bytes,
        message_bytes=message_bytes,
        group=group,
        kind=kind,
    )


def sent_bytes(kind: Kind, message_bytes: Number, group: int) -> Number:
    """Bytes that a rank must send at least: 2 (n - 1) / n of the tensor to reduce it everywhere, else (n - 1) / n."""
    share = (group - 1) / group
    return (2.0 if kind == "all_reduce" else 1.0) * share * message_bytes
