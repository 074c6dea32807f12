"""What an accelerator costs per hour: packaged list prices, and the user's own."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.fields import Source
from windtunnel.specs.hardware import PriceSpec
from windtunnel.specs.load import catalogue_folder, names, resolve


@lru_cache(maxsize=1)
def price_table() -> tuple[tuple[PriceSpec, bool], ...]:
    """Every packaged price, with whether it is its accelerator's default."""
    text = (catalogue_folder("prices") / "prices.csv").read_text(encoding="utf-8")
    rows = []
    for row in csv.DictReader(text.splitlines()):
        source = Source.model_validate({"kind": row["kind"], "source": row["source"], "date": row["date"]})
        price = PriceSpec(
            accelerator=row["accelerator"],
            usd_per_h=float(row["usd_per_h"]),
            provider=row["provider"],
            instance=row["instance"],
            region=row["region"],
            date=row["date"],
            sources=(source,),
        )
        rows.append((price, row["default"] == "yes"))
    return tuple(rows)


def price_usd_per_h(
    accelerator: str, *, overrides: Mapping[str, float] | None = None, provider: str | None = None
) -> PriceSpec:
    """The price of one accelerator, US dollars per hour.

    The user's own price wins; then the named provider's row; then the row marked as default, which is
    the cheapest widely quoted on-demand price without commitment (or a stated estimate).

    Args:
        accelerator: catalogue name, or the name of an accelerator of the user's own.
        overrides: user's prices by accelerator, US dollars per accelerator and hour.
        provider: take this provider's row instead of the default.

    Raises:
        SpecError: no price is known for it.
    """
    if overrides and accelerator in overrides:
        source = Source(kind="assumed", source="given by the user")
        return PriceSpec(
            accelerator=accelerator,
            usd_per_h=overrides[accelerator],
            provider="own",
            region="-",
            date="",
            sources=(source,),
        )
    rows = [(price, default) for price, default in price_table() if price.accelerator == accelerator]
    if provider is not None:
        rows = [(price, True) for price, _ in rows if price.provider.casefold() == provider.casefold()]
    for price, default in rows:
        if default:
            return price
    hint = f'give one with --price "{accelerator}=2.50" (US dollars per accelerator and hour)'
    raise SpecError(Problem("no price is known", "prices", accelerator, allowed=hint))


def parse_prices(text: str, file: str = "--price") -> dict[str, float]:
    """Prices from text such as `h100-sxm=2.5,a100-80g-sxm=1.2`.

    Raises:
        SpecError: every mistake in the text, together.
    """
    found: dict[str, float] = {}
    problems: list[Problem] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            usd = float(value)
        except ValueError:
            usd = float("nan")
        if not equals or not 0 <= usd < float("inf"):
            problems.append(
                Problem("a price reads NAME=DOLLARS", file, got=repr(part), allowed="such as h100-sxm=2.50")
            )
            continue
        try:
            found[resolve("accelerators", name.strip(), file).name] = usd
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError(problems)
    return found


def without_price() -> list[str]:
    """Catalogue accelerators that no packaged price covers (the tests keep this empty)."""
    priced = {price.accelerator for price, default in price_table() if default}
    return [name for name in names("accelerators") if name not in priced]
