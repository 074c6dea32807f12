"""Prices: the packaged table, the user's own, and what is refused."""

from __future__ import annotations

import pytest

from windtunnel.errors import SpecError
from windtunnel.specs.load import names
from windtunnel.specs.prices import parse_prices, price_table, price_usd_per_h, without_price


def test_every_accelerator_has_one_default_price() -> None:
    assert without_price() == []
    defaults = [price.accelerator for price, default in price_table() if default]
    assert len(defaults) == len(set(defaults))


def test_every_price_is_of_a_known_accelerator_and_sourced() -> None:
    for price, _ in price_table():
        assert price.accelerator in names("accelerators")
        assert 0.01 < price.usd_per_h < 20.0
        assert price.date
        assert price.sources[0].source


def test_own_price_wins() -> None:
    price = price_usd_per_h("h100-sxm", overrides={"h100-sxm": 1.25})
    assert price.usd_per_h == 1.25
    assert price.provider == "own"
    assert price_usd_per_h("h100-sxm", overrides={"l4": 1.25}).usd_per_h != 1.25


def test_own_price_of_an_own_accelerator() -> None:
    assert price_usd_per_h("my-chip", overrides={"my-chip": 3.0}).usd_per_h == 3.0


def test_a_provider_can_be_chosen() -> None:
    price = price_usd_per_h("a100-40g-sxm", provider="aws")
    assert price.provider == "AWS"
    with pytest.raises(SpecError, match="no price is known"):
        price_usd_per_h("a100-40g-sxm", provider="nobody")


def test_unknown_accelerator_says_how_to_give_a_price() -> None:
    with pytest.raises(SpecError, match=r"my-chip: no price is known; allowed: give one with --price"):
        price_usd_per_h("my-chip")


def test_prices_as_text() -> None:
    assert parse_prices("h100-sxm=2.5, L4=0.3") == {"h100-sxm": 2.5, "l4": 0.3}
    assert parse_prices("") == {}


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_prices("h100-sxm=cheap,l4,h100-sxn=2,a10=-1,a30=nan")
    assert len(caught.value.problems) == 5
    assert caught.value.problems[2].nearest == "h100-sxm"


def test_a_providers_newest_price_wins() -> None:
    rows = [p for p, _ in price_table() if (p.accelerator, p.provider) == ("h100-sxm", "AWS")]
    assert len(rows) > 1
    assert price_usd_per_h("h100-sxm", provider="AWS").date == max(row.date for row in rows)


def test_a_region_can_be_chosen() -> None:
    assert price_usd_per_h("h100-sxm", region="us-central1").provider == "Google Cloud"
    assert price_usd_per_h("h100-sxm", provider="aws", region="US-EAST-1").provider == "AWS"
    with pytest.raises(SpecError, match="got aws in mars; allowed: AWS in us-east-1"):
        price_usd_per_h("h100-sxm", provider="aws", region="mars")


def test_a_misspelt_accelerator_is_told_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'h100-sxm'"):
        price_usd_per_h("h100-sxn")


def test_own_accelerators_can_be_priced() -> None:
    assert parse_prices("own=3, h100=2", known=["own"]) == {"own": 3.0, "h100-sxm": 2.0}


def test_prices_are_of_this_world() -> None:
    defaults = [price.accelerator for price, default in price_table() if default]
    assert len(defaults) == len(set(defaults))
    for price, _ in price_table():
        assert price.accelerator in names("accelerators")
        assert 0.01 <= price.usd_per_h <= 20
        assert price.date
        assert price.sources[0].kind in ("published", "assumed")
        assert (price.provider == "assumed") == (price.sources[0].kind == "assumed")
