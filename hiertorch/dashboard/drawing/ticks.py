"""Where an axis ends and which numbers stand along it: steps of 1, 2 or 5 times a power of ten."""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["LARGEST", "SMALLEST", "decades", "limits", "nice", "short", "whole", "written"]

LARGEST, SMALLEST = 1e300, 1e-290
"""Sizes beyond which spans could overflow, or steps be rounded to 0."""

SAME = 1e-10  # relative to their size: closer values are drawn as one, as no label could tell them apart


def limits(values: np.ndarray, pad: float = 0.05) -> tuple[float, float]:
    """Ends of an axis that shows these finite values, with a margin of a share `pad` of their span on both sides."""
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if high - low <= max(SAME * size, SMALLEST):
        room = 0.1 * size if size > SMALLEST else 1.0
        return low - room, high + room
    room = pad * (high - low)
    return low - room, high + room


def nice(low: float, high: float, at_most: int) -> np.ndarray:
    """Multiples of 1, 2 or 5 times a power of ten within `low..high`: as many as there are up to `at_most` (>= 2)."""
    exponent = math.floor(math.log10((high - low) / at_most))
    for k in range(6):
        step = (1.0, 2.0, 5.0)[k % 3] * 10.0 ** (exponent + k // 3)
        slack = 1e-9 * (high - low)  # an end that is a multiple itself
        first, last = math.ceil((low - slack) / step), math.floor((high + slack) / step)
        if last - first < at_most:
            break
    return np.arange(first, last + 1) * step


def whole(low: float, high: float, at_most: int) -> np.ndarray:
    """As `nice`, whole numbers only; none if there is none within."""
    places = nice(low, high, at_most)
    if len(places) > 1 and places[1] - places[0] >= 1:
        return places
    return np.arange(math.ceil(low), math.floor(high) + 1, dtype=np.float64)


def decades(low: float, high: float, at_most: int) -> np.ndarray:
    """As `nice` for an axis of powers of ten, whose ends and ticks are exponents."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last - first >= 2:
        return np.arange(first, last + 1, -(-(last - first + 1) // at_most), dtype=float)
    start, end = math.floor(low), math.ceil(high)
    ticks = np.log10(np.array([1.0, 2.0, 5.0])) + np.arange(start, end + 1)[:, None]
    inside = ticks[(ticks >= low - 1e-9) & (ticks <= high + 1e-9)]
    if 2 <= len(inside) <= at_most:
        return inside
    return np.log10(nice(10.0**low, 10.0**high, at_most))


def written(ticks: Sequence[float] | np.ndarray) -> list[str]:
    """Evenly spaced numbers with the digits that tell them apart, in full or as `2.5e6`, whichever is shorter."""
    values = [float(tick) for tick in ticks]
    if len(values) < 2:
        return [short(value) for value in values]
    place = math.floor(math.log10(abs(values[1] - values[0])) + 1e-9)  # of the last digit that matters
    values = [0.0 if abs(value) < 1e-6 * 10.0**place else value for value in values]
    full = [f"{value:.{max(0, -place)}f}" if value else "0" for value in values] if abs(place) < 20 else []
    if full and max(map(len, full)) <= 6:
        return full
    powers = [_power(value, math.floor(math.log10(abs(value)) + 1e-9) - place) if value else "0" for value in values]
    return full if full and max(map(len, full)) <= max(map(len, powers)) else powers


def short(value: float) -> str:
    """One number with at most three digits that matter: `0.713`, `12`, `1.5e6`."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "NaN"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return _power(value, 2)


def _power(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{max(0, digits)}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
