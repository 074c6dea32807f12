"""What the user gave: flags laid over a settings file, read field by field with every mistake collected."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError, Problem, SpecError, nearest, shorten

if TYPE_CHECKING:
    from windtunnel.specs.slo import SloSpec


class Given:
    """Flags over the fields of a settings file.

    Reading a field never raises: a mistake is kept in `problems` and the default is returned,
    so that one run reports every mistake. `check` raises them.

    Args:
        flags: field name to the flag's value, None where the flag was not given.
        path: the settings file, if any.
    """

    def __init__(self, flags: Mapping[str, Any], path: str | None = None) -> None:
        self.problems: list[Problem] = []
        self._flags = {name: value for name, value in flags.items() if value is not None}
        self._file = path or ""
        self._fields: dict[str, Any] = {}
        if path is not None:
            self._read(path, flags)

    def _read(self, path: str, known: Mapping[str, Any]) -> None:
        from windtunnel.specs.load import read_yaml

        with self:
            fields = {str(key).replace("-", "_"): value for key, value in read_yaml(Path(path)).items()}
            for key in fields.keys() - known.keys():
                allowed = ", ".join(sorted(known))
                self.problems.append(Problem("unknown field", path, "", repr(key), allowed, nearest(key, known)))
            self._fields = {key: value for key, value in fields.items() if key in known}

    def __enter__(self) -> Given:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.problems.extend(error.problems)
            return True
        return False

    def check(self) -> None:
        """Raise everything collected, if anything was."""
        if self.problems:
            raise SpecError(self.problems)

    def where(self, name: str) -> str:
        """The flag or the file's field that a value came from."""
        if name in self._flags or name not in self._fields:
            return "--" + name.replace("_", "-")
        return f"{self._file}: {name}"

    def has(self, name: str) -> bool:
        """Whether a field was given at all."""
        return name in self._flags or name in self._fields

    def raw(self, name: str, default: Any = None) -> Any:
        """The value as given."""
        return self._flags.get(name, self._fields.get(name, default))

    def wrong(self, name: str, message: str, allowed: str = "", close: str = "") -> None:
        """Keep a problem with a field's value."""
        self.problems.append(Problem(message, self.where(name), "", shorten(self.raw(name)), allowed, close))

    def missing(self, name: str, what: str) -> None:
        """Keep the problem that a field without a default was not given."""
        self.problems.append(Problem("is required", self.where(name), allowed=what))

    def text(self, name: str, default: str = "") -> str:
        """A piece of text."""
        value = self.raw(name, default)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        self.wrong(name, "must be text")
        return default

    def words(self, name: str, default: str = "") -> tuple[str, ...]:
        """Several words: `a,b` on the command line, also a list in a file."""
        value = self.raw(name, default)
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        found = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
        if not found and self.has(name):
            self.wrong(name, "names nothing")
        return found

    def whole(self, name: str, default: int, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self.raw(name, default)
        if not _number(value) or value != int(value):
            self.wrong(name, "must be a whole number")
        elif value < least:
            self.wrong(name, "is too small", f"{least} or more")
        else:
            return int(value)
        return default

    def positive(self, name: str, most: float = math.inf) -> float | None:
        """A finite number above zero, None when it was not given."""
        value = self.raw(name)
        if value is None:
            return None
        top = "" if most == math.inf else f" and at most {most:g}"
        if not _number(value) or not 0 < value <= most:
            self.wrong(name, "must be a number above 0" + top)
            return None
        return float(value)

    def slo(self, default: str = "") -> SloSpec:
        """Latency targets, from text or from a mapping in a file."""
        from windtunnel.specs.load import build
        from windtunnel.specs.slo import SloSpec, parse_slo

        value = self.raw("slo", default)
        with self:
            if isinstance(value, dict):
                return build(SloSpec, value, self.where("slo"))
            if value or self.has("slo"):
                return parse_slo(self.text("slo", default), self.where("slo"))
        return SloSpec()

    def prices(self, known: Collection[str] = ()) -> dict[str, float]:
        """The user's own prices, US dollars per accelerator and hour; `known` names accelerators of the user's own."""
        from windtunnel.specs.prices import parse_prices

        value = self.raw("price", "")
        text = ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else self.text("price")
        with self:
            return parse_prices(text, self.where("price"), known)
        return {}

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """One of a few words."""
        value = self.text(name, default)
        if value in allowed:
            return value
        self.wrong(name, "not an allowed value", ", ".join(allowed), nearest(value, allowed))
        return default


def _number(value: Any) -> bool:
    """Whether a value is a finite number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
