"""Limits of time and money that a plan must keep, checked before anything starts."""

from __future__ import annotations

import math
from pathlib import Path

import yaml

from remora import catalog
from remora.errors import SpecError
from remora.planning.makespan import Forecasts


def check_limits(found: Forecasts, max_hours: float | None, max_cost: float | None) -> None:
    """Raises:
    SpecError: what is left takes longer or costs more, or has no price to be checked by.
    """
    way = found.ways[0]
    hours = way.seconds / 3600
    rate = f"at {found.rate.overall:.2g} FLOP/s a worker, {found.rate.source}"
    if max_hours is not None and not hours <= max_hours:
        raise SpecError(
            f"it would take {hours:,.4g} hours ({rate}), and --max-hours is {max_hours:,g}; nothing was started; "
            "next: fewer steps or trials, more workers, or a higher limit"
        )
    if max_cost is None:
        return
    if way.cost is None:
        raise SpecError(
            f"--max-cost {max_cost:,g}: there is no price; next: set cluster.gpu_price, or give remora plan --price"
        )
    if not way.cost <= max_cost:
        raise SpecError(
            f"it would cost {way.cost:,.4g} ({way.gpu_hours:,.4g} GPU-hours, {rate}), and --max-cost is "
            f"{max_cost:,g}; nothing was started; next: fewer steps or trials, or a higher limit"
        )


def price_of(file: Path, device: str) -> float:
    """The price of an hour of a device in a file of prices.

    Raises:
        SpecError: it cannot be read, has an unknown device, or not this one.
    """
    try:
        said = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise SpecError(f"--prices {file}: {str(e).splitlines()[0]}; it holds lines like h100: 2.99") from None
    if not isinstance(said, dict) or not all(map(_is_price, said.values())):
        raise SpecError(f"--prices {file}: expected device: price of an hour, such as h100: 2.99")
    prices = {str(name): float(price) for name, price in said.items()}
    for name in prices:
        catalog.device(name)
    if device not in prices:
        raise SpecError(f"--prices {file} has no price of {device}; it has {', '.join(prices)}")
    return prices[device]


def _is_price(said: object) -> bool:
    return isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < math.inf
