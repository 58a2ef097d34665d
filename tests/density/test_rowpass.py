"""Row weights, summed by group: by a loop over rows with SciPy."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import stats

from hiertorch.density.rowpass import Effects, RowPass
from hiertorch.families import rowforms

CHAINS = 5
PHI, NU, SCALE = np.array([0.4, 1.0, 3.0, 20.0, 500.0]), np.array([1.5, 3.0, 4.0, 9.0, 60.0]), np.linspace(0.5, 2.0, 5)


def odds(eta):
    return 1.0 / (1.0 + np.exp(-eta))


class Rows:
    """Rows of unbalanced groups, in no order, with a predictor, an offset, effects and sites; group 3 has none."""

    def __init__(self, structure="one", seed=0, groups=23, rows=400):
        rng = np.random.default_rng(seed)
        self.n = rows
        share = rng.dirichlet(np.full(groups, 0.5))
        share[3] = 0.0
        self.group = rng.choice(groups, size=rows, p=share / share.sum())
        self.design = np.column_stack([np.ones(rows), rng.normal(size=rows)])
        self.offset = 0.3 * rng.normal(size=rows)
        ones, slopes = np.ones((rows, 1)), np.column_stack([np.ones(rows), rng.normal(size=rows)])
        coarse = (np.arange(groups) % 5)[self.group]
        self.levels, self.crossed = {
            "none": ([], []),
            "one": ([(ones, self.group, groups)], []),
            "slopes": ([(slopes, self.group, groups)], []),
            "nested": ([(ones, self.group, groups), (slopes, coarse, 5), (ones, coarse % 2, 2)], []),
            "crossed": ([(slopes, self.group, groups)], [(slopes[:, ::-1].copy(), rng.integers(7, size=rows), 8)]),
        }[structure]
        self.groups = groups
        self.z, self.w = rng.normal(size=rows), rng.gamma(1.0, 0.2, size=rows)
        self.weights = rng.gamma(1.0, 1.0, size=rows)
        self.root = rng.normal(size=(2, CHAINS))
        self.effects, self.items = (
            [rng.normal(size=(Z.shape[1], size, CHAINS)) for Z, _, size in parts]
            for parts in (self.levels, self.crossed)
        )
        self.trials = rng.integers(0, 9, size=rows)
        self.se = rng.uniform(0.5, 2.0, size=rows)
        self.rng = rng

    def eta(self):
        """`(rows, chains)`."""
        eta = self.offset[:, None] + self.design @ self.root
        for (design, group, _), u in zip([*self.levels, *self.crossed], [*self.effects, *self.items], strict=True):
            eta += sum(design[:, k, None] * u[k][group] for k in range(design.shape[1]))
        return eta

    def built(self, kind, y, columns, weights=None, **options):
        def effects(parts):
            return [Effects(torch.tensor(Z), torch.tensor(group), size) for Z, group, size in parts]

        tensors = {name: torch.tensor(x, dtype=torch.float64) for name, x in columns.items()}
        group, size = (self.group, self.groups) if self.levels else (np.zeros(self.n, np.int64), 1)
        rows = RowPass(
            kind, torch.tensor(y), tensors, torch.tensor(self.offset), torch.tensor(self.design), effects(self.levels),
            effects(self.crossed), torch.tensor(group), size, None if weights is None else torch.tensor(weights),
            **options,
        )  # fmt: skip
        rows.sites(torch.tensor(self.z), torch.tensor(self.w))
        return rows

    def at(self):
        """Arguments of `weights` but for parameters."""
        return (torch.tensor(self.root), [torch.tensor(u) for u in self.effects], [torch.tensor(u) for u in self.items])

    def surrogate(self):
        """`(rows, chains)`."""
        return 0.5 * self.w[:, None] * (self.z[:, None] - self.eta()) ** 2


def by_group(terms, group, size):
    out = np.zeros((size, terms.shape[1]))
    for i, g in enumerate(group):
        out[g] += terms[i]
    return out


FAMILIES = {
    "bernoulli": (rowforms.Bernoulli, (), (), lambda eta, rows: stats.bernoulli(odds(eta))),
    "binomial": (rowforms.Binomial, ("trials",), (), lambda eta, rows: stats.binom(rows.trials[:, None], odds(eta))),
    "poisson": (rowforms.Poisson, (), (), lambda eta, rows: stats.poisson(np.exp(eta))),
    "negative_binomial": (
        rowforms.NegativeBinomial, (), ("phi",), lambda eta, rows: stats.nbinom(PHI, PHI / (PHI + np.exp(eta))),
    ),
    "student_t": (rowforms.StudentT, (), ("nu", "scale"), lambda eta, rows: stats.t(NU, eta, SCALE)),
    "normal": (rowforms.Normal, (), ("scale",), lambda eta, rows: stats.norm(eta, SCALE)),
    "se": (rowforms.Normal, ("se",), (), lambda eta, rows: stats.norm(eta, rows.se[:, None])),
}  # fmt: skip
"""Form, its columns, its parameters, and the distribution of all rows and chains by SciPy."""


def given(rows, family):
    """The form, a response from chain 0, columns, parameters, and log f of each row and chain by SciPy."""
    kind, columns, names, distribution = FAMILIES[family]
    reference = distribution(rows.eta(), rows)
    y = reference.rvs(random_state=rows.rng)[:, 0].astype(float)
    log_density = (getattr(reference, "logpmf", None) or reference.logpdf)(y[:, None])
    parameters = {"phi": PHI, "nu": NU, "scale": SCALE}
    parameters = {name: torch.tensor(parameters[name]) for name in names}
    return kind, y, {name: getattr(rows, name) for name in columns}, parameters, log_density


def part_without_eta(family, y, rows):
    """Of log f by SciPy, `(rows, chains)`."""
    y = y[:, None]
    one = np.ones(CHAINS)
    return {
        "bernoulli": lambda: 0.0 * y * one,
        "binomial": lambda: stats.binom(rows.trials[:, None], 0.5).logpmf(y) * one + rows.trials[:, None] * np.log(2.0),
        "poisson": lambda: stats.poisson(1.0).logpmf(y) * one + 1.0,
        "negative_binomial": lambda: stats.nbinom(PHI, 0.5).logpmf(y) + (y + PHI) * np.log(2.0) - y * np.log(PHI),
        "student_t": lambda: stats.t(NU, y, SCALE).logpdf(y),
        "normal": lambda: stats.norm(y, SCALE).logpdf(y),
        "se": lambda: stats.norm(y, rows.se[:, None]).logpdf(y) * one,
    }[family]()


COMPILED = pytest.param(True, marks=pytest.mark.skipif(find_spec("numba") is None, reason="needs hiertorch[fast]"))


@pytest.mark.parametrize("compiled", [False, COMPILED])
@pytest.mark.parametrize(
    ("structure", "weighted"),
    [("none", True), ("one", False), ("slopes", True), ("nested", False), ("crossed", False), ("crossed", True)],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_scipy(family, structure, weighted, compiled):
    rows = Rows(structure)
    kind, y, columns, parameters, log_density = given(rows, family)
    weight = rows.weights if weighted else np.ones(rows.n)
    without = weight[:, None] * part_without_eta(family, y, rows)
    terms = weight[:, None] * log_density - without + rows.surrogate()
    built = rows.built(kind, y, columns, rows.weights if weighted else None, compiled=compiled)
    found = built.weights(*rows.at(), parameters)
    group, size = (rows.group, rows.groups) if rows.levels else (np.zeros(rows.n, int), 1)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_group(terms, group, size), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(built.constants(parameters).expand(CHAINS), without.sum(0), rtol=1e-10, atol=1e-10)
    for at, (part, (_, group, size)) in enumerate(
        zip((*built.levels, *built.crossed), [*rows.levels, *rows.crossed], strict=True)
    ):
        by = by_group(terms, group, size)
        np.testing.assert_allclose(built.by(part).weights(*rows.at(), parameters), by, rtol=1e-10, atol=1e-10)
        if at < len(rows.levels):
            np.testing.assert_allclose(built.added(found, at), by, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_differences_of_scipys_densities(family):
    rows, step = Rows("slopes"), 1e-3
    kind, y, columns, parameters, _ = given(rows, family)
    columns = {name: torch.tensor(x, dtype=torch.float64) for name, x in columns.items()}
    form = kind(torch.tensor(y), columns, torch.tensor(rows.weights))
    own = {name: x.reshape(-1, 1) for name, x in parameters.items()}  # (chains, 1)
    first, bend = form.slopes(torch.tensor(rows.eta().T), form.chain(own))

    def at(eta):
        reference = FAMILIES[family][3](eta, rows)
        return rows.weights[:, None] * (getattr(reference, "logpmf", None) or reference.logpdf)(y[:, None])

    down, here, up = (at(rows.eta() + by) for by in (-step, 0.0, step))
    np.testing.assert_allclose(first.T, (up - down) / (2.0 * step), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bend.T, (up - 2.0 * here + down) / step**2, rtol=1e-4, atol=1e-3)


def several(rows, chains):
    """The latents of the chains again and again."""
    at = torch.arange(chains) % CHAINS
    root, effects, items = rows.at()
    return root[:, at], [u[..., at] for u in effects], [u[..., at] for u in items]


@pytest.mark.skipif(find_spec("numba") is None, reason="needs hiertorch[fast]")
@pytest.mark.parametrize(
    ("family", "chains"),
    [(family, 3) for family in FAMILIES]
    + [pytest.param(family, 40, marks=() if family == "bernoulli" else pytest.mark.slow) for family in FAMILIES],
)  # blocks of 32 chains are compiled apart, in seconds
def test_the_compiled_loop_is_plain_torch(family, chains):
    """In all that it does at once: several blocks of chains, and chains that fill none."""
    rows = Rows("crossed", seed=1)
    kind, y, columns, parameters, _ = given(rows, family)
    parameters = {name: x[torch.arange(chains) % CHAINS] for name, x in parameters.items()}
    loops, plain = (rows.built(kind, y, columns, compiled=compiled) for compiled in (True, False))
    assert loops.compiled and not plain.compiled
    one, other = (built.weights(*several(rows, chains), parameters) for built in (loops, plain))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * other.abs().max().item())


@pytest.mark.skipif(find_spec("numba") is None, reason="needs hiertorch[fast]")
def test_workers_change_nothing(monkeypatch):
    from hiertorch.density import rowloops

    rows = Rows("nested")
    kind, y, columns, parameters, _ = given(rows, "poisson")
    built = rows.built(kind, y, columns, compiled=True)
    alone = built.weights(*rows.at(), parameters)
    monkeypatch.setattr(rowloops, "SHARED", 0)
    assert torch.equal(built.weights(*rows.at(), parameters), alone)


@pytest.mark.parametrize("compiled", [False, COMPILED])
@pytest.mark.parametrize("family", ["bernoulli", "poisson", "negative_binomial", "student_t"])
def test_a_chain_that_is_not_finite_has_no_weights(family, compiled):
    """And no other chain knows of it."""
    rows = Rows("one")
    kind, y, columns, parameters, _ = given(rows, family)
    built = rows.built(kind, y, columns, compiled=compiled)
    root, effects, items = rows.at()
    before = built.weights(root, effects, items, parameters)
    root[0, 1], root[0, 3] = torch.nan, torch.inf
    after = built.weights(root, effects, items, parameters)
    filled = torch.tensor(np.bincount(rows.group, minlength=rows.groups) > 0)
    assert not torch.isfinite(after[filled][:, [1, 3]]).any() and not (after == torch.inf).any()
    assert torch.equal(after[:, [0, 2, 4]], before[:, [0, 2, 4]])


@pytest.mark.parametrize("compiled", [False, pytest.param(*COMPILED.values, marks=[*COMPILED.marks, pytest.mark.slow])])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_in_single_precision(family, compiled):
    """Errors are those of rounding eta, of size 10, and of row terms, of size 100, to 24 bits."""
    rows = Rows("slopes")
    kind, y, columns, parameters, _ = given(rows, family)
    exact, single = (
        rows.built(kind, y, columns, compiled=compiled, rows=dtype).weights(*rows.at(), parameters)
        for dtype in ("float64", "float32")
    )
    assert single.dtype == torch.float64
    error, size = (single - exact).abs(), exact.abs().max()
    assert 0.0 < error.max() < 3e-6 * size


@pytest.mark.parametrize("compiled", [False, COMPILED])
@pytest.mark.parametrize(("structure", "weighted"), [("slopes", True), ("crossed", False)])
@pytest.mark.parametrize("family", ["bernoulli", "binomial", "poisson", "negative_binomial"])
def test_equal_rows_are_added_up(family, structure, weighted, compiled):
    """Columns have a few values: the sums are those of all rows, by SciPy, with sites that differ within equal rows."""
    rows = Rows(structure, groups=5)
    rows.design, rows.offset = rows.design.round(), rows.offset.round()
    rows.levels, rows.crossed = (
        [(np.sign(design), group % 4, size) for design, group, size in parts] for parts in (rows.levels, rows.crossed)
    )
    rows.group = rows.group % 4
    kind, y, columns, parameters, log_density = given(rows, family)
    weight = rows.weights if weighted else np.ones(rows.n)
    without = weight[:, None] * part_without_eta(family, y, rows)
    terms = weight[:, None] * log_density - without + rows.surrogate()
    built = rows.built(kind, y, columns, rows.weights if weighted else None, compiled=compiled)
    assert built.rows < 0.5 * rows.n
    found = built.weights(*rows.at(), parameters)
    np.testing.assert_allclose(found, by_group(terms, rows.group, rows.groups), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(built.constants(parameters).expand(CHAINS), without.sum(0), rtol=1e-10, atol=1e-10)
    for part, (_, group, size) in zip((*built.levels, *built.crossed), [*rows.levels, *rows.crossed], strict=True):
        by = by_group(terms, group, size)
        np.testing.assert_allclose(built.by(part).weights(*rows.at(), parameters), by, rtol=1e-10, atol=1e-10)


def test_rows_that_differ_are_not_added_up():
    rows = Rows("one")
    for family in FAMILIES:
        kind, y, columns, _, _ = given(rows, family)
        assert rows.built(kind, y, columns).rows == rows.n
