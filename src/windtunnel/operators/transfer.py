"""Point-to-point transfers between pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.operators.operator import Number, Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Operator):
    """A message from one rank to its peer in the next stage."""


def transfer(name: str, count: float, message_bytes: Number) -> Transfer:
    """Send `message_bytes` to the next stage."""
    return Transfer(
        name=name,
        part="hop",
        count=count,
        read_bytes=message_bytes,
        write_bytes=message_bytes,
        message_bytes=message_bytes,
        group=2,
    )
