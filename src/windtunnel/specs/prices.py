"""What an accelerator costs per hour: packaged list prices, and the user's own."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from functools import lru_cache

from windtunnel.errors import Problem, SpecError, nearest
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
    accelerator: str,
    *,
    overrides: Mapping[str, float] | None = None,
    provider: str | None = None,
    region: str | None = None,
) -> PriceSpec:
    """The price of one accelerator, US dollars per hour.

    The user's own price wins; then the newest row of the named provider and region; then the row marked
    as default, which is the cheapest widely quoted on-demand price without commitment (or a stated estimate).

    Args:
        accelerator: catalogue name, or the name of an accelerator of the user's own.
        overrides: user's prices by accelerator, US dollars per accelerator and hour.
        provider: take this provider's newest row instead of the default.
        region: take a row of this region (such as `us-east-1`) instead of the default.

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
    chosen = [price for price, default in rows if default]
    if provider is not None or region is not None:
        asked = [
            price
            for price, _ in rows
            if (provider is None or price.provider.casefold() == provider.casefold())
            and (region is None or price.region.casefold() == region.casefold())
        ]
        chosen = sorted(asked, key=lambda price: price.date, reverse=True)
    if chosen:
        return chosen[0]
    hint = f'give one with --price "{accelerator}=2.50" (US dollars per accelerator and hour)'
    if rows:
        offered = sorted({f"{price.provider} in {price.region}" for price, _ in rows if price.provider != "assumed"})
        wanted = " in ".join(part for part in (provider, region) if part)
        hint = f"{', '.join(offered)}; or {hint}" if offered else hint
        raise SpecError(Problem(f"no price is known for {accelerator} there", "prices", "", wanted, hint))
    close = nearest(accelerator, {price.accelerator for price, _ in price_table()})
    raise SpecError(Problem("no price is known", "prices", accelerator, allowed=hint, nearest=close))


def parse_prices(text: str, file: str = "--price", known: Collection[str] = ()) -> dict[str, float]:
    """Prices from text such as `h100-sxm=2.5,a100-80g-sxm=1.2`.

    Args:
        text: names and US dollars per accelerator and hour.
        file: flag or file for the error message.
        known: names of the user's own accelerators, allowed beside those of the catalogue.

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
        if name.strip() in known:
            found[name.strip()] = usd
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
