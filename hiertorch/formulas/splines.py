"""Columns of regression splines, as R's `bs` and `ns` make them: B-splines, and natural ones, linear beyond the ends.

    B_j(x) of degree d over knots at equally spaced quantiles;  ns: those of degree 3 whose second derivatives at both
    ends are 0, by an orthogonal matrix whose other columns span the two conditions.

de Boor (2001), A Practical Guide to Splines, chapter IX; Hastie, in Chambers & Hastie (1992), Statistical Models in S,
section 7.2. The knots are those of the fitted rows.
"""

import numpy as np

from hiertorch.errors import DataError


class Spline:
    """What both have: knots, and all B-splines over them.

    Attributes:
        knots: those at the ends as often as a B-spline has pieces; None before the first rows are seen.
        degree: of the pieces.
        intercept: whether the columns make up a constant, too.
    """

    __stateful_transform__ = True
    name = ""
    conditions = 0

    def __init__(self) -> None:
        self.knots: np.ndarray | None = None
        self.degree, self.intercept = 3, False

    def learn(self, x: np.ndarray, df: object, knots: object, ends: object) -> None:
        """Knots at equally spaced quantiles of x `(rows,)`, as many as df columns have, or those that are given."""
        low, high = (x.min(), x.max()) if ends is None else np.sort(np.asarray(ends, np.float64))
        if knots is None:
            least = self.degree + self.intercept - self.conditions
            if df is not None and (not isinstance(df, int) or df < least):
                raise DataError(f"the df of {self.name}() is a whole number, at least {least} here; found {df!r}.")
            inner = np.quantile(x, np.linspace(0, 1, (0 if df is None else df - least) + 2)[1:-1])
        else:
            inner = np.sort(np.atleast_1d(np.asarray(knots, np.float64)))
        if len(inner) and not (low < inner[0] and inner[-1] < high):
            raise DataError(
                f"the inner knots of {self.name}() lie between its ends {low:g} and {high:g}; found "
                f"{', '.join(f'{one:g}' for one in inner)}: its column has too few values, so take a smaller df."
            )
        self.knots = np.concatenate([np.repeat(low, self.degree + 1), inner, np.repeat(high, self.degree + 1)])

    def basis(self, x: np.ndarray, derivative: int) -> np.ndarray:
        """Derivatives of all B-splines `(rows, B-splines)`, beyond the ends by their own polynomials."""
        from scipy.interpolate import BSpline as Piecewise  # late, since it takes a quarter of a second

        assert self.knots is not None
        number = len(self.knots) - self.degree - 1
        return np.asarray(Piecewise(self.knots, np.eye(number), self.degree, extrapolate=True)(x, nu=derivative))

    def columns(self, x: np.ndarray, derivative: int) -> np.ndarray:
        """Derivatives of the columns between the ends, `(rows, columns)`."""
        return self.basis(x, derivative)[:, 0 if self.intercept else 1 :]


class BSpline(Spline):
    """bs(x, df, knots, degree, intercept): df columns, df - degree inner knots; without an intercept the first B-spline
    is left out, which the others and a constant make up.
    """

    name = "bs"

    def __call__(
        self,
        x: np.ndarray,
        df: int | None = None,
        knots: object = None,
        degree: int = 3,
        intercept: bool = False,
        ends: object = None,
    ) -> np.ndarray:
        """Columns of rows `(rows, df)`, by the knots of the first ones."""
        values = np.asarray(x, np.float64)
        if self.knots is None:
            self.degree, self.intercept = degree, bool(intercept)
            self.learn(values, df, knots, ends)
        return self.columns(values, 0)


class NaturalSpline(Spline):
    """ns(x, df, knots, intercept): df columns of degree 3, df - 1 inner knots; beyond the ends they are tangents."""

    name = "ns"
    conditions = 2

    def __call__(
        self,
        x: np.ndarray,
        df: int | None = None,
        knots: object = None,
        intercept: bool = False,
        ends: object = None,
    ) -> np.ndarray:
        """Columns of rows `(rows, df)`, by the knots of the first ones."""
        values = np.asarray(x, np.float64)
        if self.knots is None:
            self.intercept = bool(intercept)
            self.learn(values, df, knots, ends)
        assert self.knots is not None
        inside = np.clip(values, self.knots[0], self.knots[-1])
        return self.columns(inside, 0) + (values - inside)[:, None] * self.columns(inside, 1)

    def columns(self, x: np.ndarray, derivative: int) -> np.ndarray:
        """Those of B-splines that have no curvature at the ends."""
        assert self.knots is not None
        curvature = super().columns(self.knots[[0, -1]], 2)
        whole, _ = np.linalg.qr(curvature.T, mode="complete")
        return super().columns(x, derivative) @ whole[:, 2:]
