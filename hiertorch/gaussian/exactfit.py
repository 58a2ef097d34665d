"""Rows that a model fits exactly: the density grows without bound as their scale goes to 0, and there is no posterior.

    p(y | effects, coefficients, s) ~ s^-n exp(-|y - mean|^2 / (2 s^2))

Where some effects and coefficients, fewer than rows, make every residual 0, the marginal likelihood behaves like a
negative power of s near 0, and only a prior that vanishes there as fast keeps it integrable. Chains then run towards 0
until residuals are nothing but rounding.
"""

from collections.abc import Mapping

from torch import Tensor

from hiertorch.gaussian.collapse import Collapsed

ROUNDED = 1e-14
"""Scale of rows over the largest response, below which residuals are rounding."""

HALF = 1e-7
"""Scale of rows over the spread of the response, below which sums of squares are rounding."""

FARTHEST, FAR = 1e-30, 1e-3
"""Scale of rows over that in the middle of the prior: where no response leads, and where one may."""


def fitted_exactly(collapsed: Collapsed, rest: Mapping[str, Tensor], *, sound: bool = True) -> str | None:
    """What is wrong, in words, if at one of the values `(n, 1, *event)` of the rest the scale of rows is that of
    rounding; else None. Where an audit was not `sound`, sums of squares may have lost half of their digits.
    """
    if not rest:
        return None
    affine, number = collapsed.affine, len(next(iter(rest.values())))
    probes = len(next(iter(affine.probes.values())))
    scale = float(affine.composed.scale(rest, affine.witnesses, number).min())
    usual = float(affine.composed.scale(affine.probes, affine.witnesses, probes).amin(1).median())
    if sound and scale > FAR * usual:
        return None
    largest = float(collapsed.data.y.abs().max())
    spread = float(collapsed.data.y.std(-1).max()) if collapsed.data.n_rows > 1 else 0.0
    lost = not sound and scale < HALF * (spread or usual)
    if scale > FARTHEST * usual and (scale > ROUNDED * largest or scale > FAR * usual) and not lost:
        return None
    return (
        f"the rows are fitted exactly: draws of their scale are as low as {scale:.1g}, where the response is up to "
        f"{largest:.4g}, and the density grows without bound as this scale goes to 0. Look whether the response is "
        "constant, or follows from its columns and groups; else leave effects out, or give the scale of rows a prior "
        "that keeps it away from 0."
    )
