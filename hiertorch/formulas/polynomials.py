"""poly(x, degree): columns P_1(x), ..., P_degree(x) that are orthonormal over the fitted rows, as R's are.

The polynomials are those of `formulae`; what is asked of them is checked here.
"""

import numpy as np
from formulae.transforms import Polynomial

from hiertorch.errors import DataError

NAME = "poly_of_r"
"""On the way through `formulae`, which has one that it finds first."""


class Polynomials(Polynomial):
    """Those of a column.

    Attributes:
        values: how many different ones the column of the fitted rows has; None before these are seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: int | None = None

    def __call__(self, x: np.ndarray, degree: int = 1, raw: bool = False) -> np.ndarray:
        """Columns of rows, `(rows, degree)`; with `raw` x, x^2, ..."""
        if not isinstance(degree, int | np.integer) or degree < 1:
            raise DataError(f"the degree of poly() is a whole number from 1 on; found {degree!r}.")
        if self.values is None:
            self.values = len(np.unique(x))
        return super().__call__(np.asarray(x, np.float64), degree, raw)
