"""Posterior: values by label, tables equal to ArviZ's, warnings that fire when they should."""

import datetime
import json
import math
from typing import Any

import arviz_stats
import numpy as np
import pandas as pd
import pytest
import torch
from arviz_stats.base import array_stats
from builders import plain
from torch import Tensor

import hiertorch as ht
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError, HiertorchError, UnknownNameError
from hiertorch.posterior import Posterior

SCHOOLS = ["Zoo", "Abbey", "Mill", "Beacon", "Quay"]  # not in alphabetical order


def autoregressive(seed: int, shape: tuple[int, ...], phi: float = 0.6, dtype: torch.dtype = torch.float64) -> Tensor:
    """Stationary AR(1) draws of unit variance, `(chains, draws, ...)`."""
    x = np.random.default_rng(seed).standard_normal(shape)
    for t in range(1, shape[1]):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * x[:, t]
    return torch.from_numpy(x).to(dtype)


def made(chains: int = 4, draws: int = 201, dtype: torch.dtype = torch.float64, **arguments: Any) -> Posterior:
    """One latent of every kind. The mean of parameter k of a latent is 10 k: whoever mixes up labels is found out."""

    def latent(seed: int, *shape: int) -> Tensor:
        x = autoregressive(seed, (chains, draws, *shape), dtype=dtype)
        return x + 10 * torch.arange(math.prod(shape)).reshape(shape)

    lower = autoregressive(5, (chains, draws, 1)).tanh()
    factor = torch.zeros(chains, draws, 1, 2, 2, dtype=dtype)
    factor[..., 0, 0], factor[..., 1, 0], factor[..., 1, 1] = 1, lower, (1 - lower**2).sqrt()
    stats = Stats(
        acceptance={"mu, beta": torch.linspace(0.1, 0.4, chains), "alpha": torch.rand(chains, len(SCHOOLS))},
        blocks={"mu, beta": None, "alpha": "school"},
        log_density=autoregressive(6, (chains, draws)),
        nan={"mu, beta": 0, "alpha": 0},
    )
    settings: dict[str, Any] = {
        "plates": {"mu": None, "beta": None, "alpha": "school", "slopes": "school", "factor": None},
        "labels": {"school": pd.Index(SCHOOLS)},
        "event_labels": {"beta": (("SES", "age", "hours"),), "slopes": (("SES", "age"),)},
        "stats": stats,
        "run": {"model": "VaryingSlopes", "draws": draws, "versions": {"torch": "2.0"}},
    }
    latents = {
        "mu": latent(1, 1),
        "beta": latent(2, 1, 3),
        "alpha": latent(3, len(SCHOOLS)),
        "slopes": latent(4, len(SCHOOLS), 2),
        "factor": factor,
    }
    return Posterior(latents, **{**settings, **arguments})


PARAMETERS = [
    "mu",
    *(f"beta[{column}]" for column in ("SES", "age", "hours")),
    *(f"alpha[{school}]" for school in SCHOOLS),
    *(f"slopes[{school}, {column}]" for school in SCHOOLS for column in ("SES", "age")),
    *("factor[0, 0]", "factor[0, 1]", "factor[1, 0]", "factor[1, 1]"),
]


def test_some_chains_and_draws_are_taken_with_all_that_goes_with_them() -> None:
    whole = made(more={"tau": autoregressive(7, (4, 201, 1))}, positions={"mu": torch.arange(4.0).reshape(4, 1)})
    some = whole.taken(slice(1, None, 2), slice(0, 201, 5))
    assert type(some) is Posterior and (some.chains, some.n_draws, some.interval) == (2, 41, 5)
    assert all(torch.equal(some.draws[name], x[1::2, ::5]) for name, x in whole.draws.items())
    assert torch.equal(some.more["tau"], whole.more["tau"][1::2, ::5])
    assert torch.equal(some.stats.log_density, whole.stats.log_density[1::2, ::5])
    assert torch.equal(some.stats.acceptance["alpha"], whole.stats.acceptance["alpha"][1::2])
    assert some.positions["mu"].tolist() == [[1.0], [3.0]]
    assert some.run == {**whole.run, "chains": 2, "interval": 5}
    assert whole.taken().run == whole.run


# Draws by name and label


def test_draws_by_name() -> None:
    posterior = made()
    assert posterior.names == list(posterior) == ["mu", "beta", "alpha", "slopes", "factor"]
    assert (posterior.chains, posterior.n_draws, len(posterior)) == (4, 201, 5)
    assert "alpha" in posterior and "gamma" not in posterior
    assert posterior["mu"].shape == (4, 201) and posterior["factor"].shape == (4, 201, 2, 2)
    assert torch.equal(posterior["beta"][..., 1], posterior.draws["beta"][:, :, 0, 1])
    assert torch.equal(posterior["alpha"], posterior.draws["alpha"])


def test_a_plate_with_one_group_keeps_its_axis() -> None:
    posterior = plain(
        {"alpha": autoregressive(1, (4, 50, 1))}, plates={"alpha": "site"}, labels={"site": pd.Index([7])}
    )
    assert posterior["alpha"].shape == (4, 50, 1)
    assert torch.equal(posterior.group("alpha", 7), posterior.draws["alpha"][:, :, 0])


@pytest.mark.parametrize("school", SCHOOLS)
def test_draws_of_a_group_by_its_label(school: str) -> None:
    posterior, code = made(), SCHOOLS.index(school)
    assert posterior.group("alpha", school).mean().item() == pytest.approx(10 * code, abs=0.5)
    assert posterior.group("slopes", school)[..., 1].mean().item() == pytest.approx(10 * (2 * code + 1), abs=0.5)


def test_group_labels_of_any_type() -> None:
    labels = [3, "3", (1, "b"), datetime.date(2020, 2, 29), pd.Timestamp("2021-01-01"), 2.5]
    index = pd.Index(labels, dtype=object, tupleize_cols=False)
    x = torch.arange(6.0).expand(4, 10, 6)
    posterior = plain({"alpha": x}, plates={"alpha": "g"}, labels={"g": index})
    assert [posterior.group("alpha", label)[0, 0].item() for label in labels] == [0, 1, 2, 3, 4, 5]
    expected = ["3", "3", "1:b", "2020-02-29", "2021-01-01 00:00:00", "2.5"]
    assert list(posterior.summary(kind="stats").index) == [f"alpha[{text}]" for text in expected]


def test_repr() -> None:
    assert repr(made(interrupted=True)).splitlines() == [
        "Posterior: 4 chains x 201 draws, interrupted",
        "  population: mu, beta[3], factor[2][2]",
        "  school (5 groups): alpha, slopes[2]",
    ]


def test_unknown_names() -> None:
    posterior = made()
    for lookup in (
        lambda: posterior["gamma"],
        lambda: posterior.group("gamma", "Mill"),
        lambda: posterior.summary("gamma"),
    ):
        with pytest.raises(KeyError) as caught:
            lookup()
        assert isinstance(caught.value, HiertorchError)
        assert str(caught.value) == "the posterior has no latent 'gamma'; it has mu, beta, alpha, slopes, factor."
    with pytest.raises(UnknownNameError, match=r"^'school' has no group 'Becon'. Closest of its 5 labels: 'Beacon'.$"):
        posterior.group("alpha", "Becon")
    with pytest.raises(DataError, match=r"'mu' has no groups: it is population-level. Use posterior\['mu'\]"):
        posterior.group("mu", "Mill")


def test_a_number_is_not_its_text() -> None:
    posterior = plain({"a": torch.zeros(2, 4, 3)}, plates={"a": "g"}, labels={"g": pd.Index([11, 12, 40])})
    with pytest.raises(UnknownNameError, match=r"no group '12'. Closest of its 3 labels: 12, 11."):
        posterior.group("a", "12")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": {}}, "needs the draws of at least one latent"),
        ({"draws": {"a": torch.zeros(2, 5, 1), "b": torch.zeros(2, 6, 1)}}, r"'b' should be .* = \(2, 5, 1\)"),
        ({"draws": {"a": torch.zeros(2, 5, 3)}}, r"'a' should be .* = \(2, 5, 1\).*found \(2, 5, 3\)"),
        ({"draws": {"a": torch.zeros(2, 5, 3)}, "plates": {"a": "g"}}, "'a' varies over 'g', which has no labels="),
        (
            {"draws": {"a": torch.zeros(2, 5, 3)}, "plates": {"a": "g"}, "labels": {"g": pd.Index([1, 2])}},
            r"= \(2, 5, 2\).*found \(2, 5, 3\)",
        ),
        ({"draws": {"a": torch.zeros(2, 5, 1, 3)}, "event_labels": {"a": (("x", "y"),)}}, r"= \(2, 5, 1, 2\).*found"),
    ],
)
def test_draws_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    stats = Stats({}, {}, torch.zeros(2, 5), {})
    defaults: dict[str, Any] = {"plates": {}, "labels": {}, "event_labels": {}, "stats": stats, "run": {}}
    with pytest.raises(DataError, match=message):
        Posterior(**{**defaults, **arguments})


# Summary


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_summary_is_arviz_summary(dtype: torch.dtype) -> None:
    posterior = made(dtype=dtype)
    found = posterior.summary()
    tree = posterior.to_arviz()
    tree["posterior"].update(tree["posterior"].to_dataset().astype(float))  # ArviZ sums float32 in float32
    expected = arviz_stats.summary(tree, round_to="none")
    assert list(found.columns) == list(expected.columns)
    assert list(found.index) == list(expected.index) == PARAMETERS
    assert found.columns[2:4].tolist() == ["eti89_lb", "eti89_ub"]

    # The tail ESS of ArviZ's summary is that of the 11% and 89% quantiles unless it is asked for. ArviZ 1.0 gave sd its
    # S - 1, and mcse_sd the ESS of squared deviations; for older versions the reference is put together from its parts.
    flat = np.concatenate([x.numpy().reshape(4, 201, -1) for x in posterior.draws.values()], -1).astype(float)
    axes = {"chain_axis": 0, "draw_axis": 1}
    square = (flat - flat.mean((0, 1))) ** 2
    with np.errstate(divide="ignore"):
        variance = square.var((0, 1)) / array_stats.ess(square, method="mean", **axes)
        expected["mcse_sd"] = np.sqrt(variance / square.mean((0, 1))) / 2
    expected["sd"] = flat.std((0, 1), ddof=1)
    expected["ess_tail"] = array_stats.ess(flat, method="tail", prob=(0.05, 0.95), **axes)

    constant = ["factor[0, 0]", "factor[0, 1]"]
    pd.testing.assert_frame_equal(found.drop(constant), expected.drop(constant), rtol=1e-8, atol=1e-12)
    pd.testing.assert_frame_equal(found.iloc[:, :4], expected.iloc[:, :4], rtol=1e-8, atol=1e-12)


def test_constants_of_a_cholesky_factor_have_no_diagnostics() -> None:
    found = made().summary("factor")
    assert found["mean"].tolist()[:2] == [1, 0] and found["sd"].tolist()[:2] == [0, 0]
    columns = ["ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"]
    assert found[columns].isna().all(axis=1).tolist() == [True, True, False, False]
    assert found[columns].notna().all(axis=1).tolist() == [False, False, True, True]


def test_summary_rows_carry_the_right_labels() -> None:
    mean = made().summary()["mean"]
    for code, school in enumerate(SCHOOLS):
        assert mean[f"alpha[{school}]"] == pytest.approx(10 * code, abs=0.5)
        assert mean[f"slopes[{school}, SES]"] == pytest.approx(10 * 2 * code, abs=0.5)
        assert mean[f"slopes[{school}, age]"] == pytest.approx(10 * (2 * code + 1), abs=0.5)
    assert mean["beta[hours]"] == pytest.approx(20, abs=0.5)


def test_infinite_draws_leave_quantiles_and_effective_draws() -> None:
    posterior = made()
    x = posterior["alpha"]
    x[0, 3, 0], x[1, 5, 1] = math.inf, -math.inf
    found = posterior.summary("alpha")
    pd.testing.assert_frame_equal(found.iloc[:, :4], posterior.summary("alpha", kind="stats"))
    assert found.isna().any(axis=1).tolist() == [True, True] + [False] * (len(found) - 2)
    assert found.columns[found.isna().any()].tolist() == ["mean", "sd", "mcse_mean", "mcse_sd"]
    assert found["eti89_ub"].iloc[0] == pytest.approx(np.quantile(x[..., 0].numpy(), 0.945))


def test_summary_arguments() -> None:
    posterior = made()
    every = posterior.summary()
    pd.testing.assert_frame_equal(posterior.summary(kind="stats"), every.iloc[:, :4])
    pd.testing.assert_frame_equal(posterior.summary(kind="diagnostics"), every.iloc[:, 4:])
    pd.testing.assert_frame_equal(posterior.summary(["slopes", "mu"]), every.loc[[*PARAMETERS[9:19], "mu"]])
    pd.testing.assert_frame_equal(posterior.summary("mu", round_to=2), every.loc[["mu"]].round(2))
    low, high = np.quantile(posterior["mu"].numpy(), [0.25, 0.75])
    half = posterior.summary("mu", ci_prob=0.5)
    assert half[["eti50_lb", "eti50_ub"]].to_numpy().tolist() == [[low, high]]
    with pytest.raises(DataError, match="kind= is one of all, stats, diagnostics; found 'quantiles'"):
        posterior.summary(kind="quantiles")
    with pytest.raises(DataError, match="ci_prob= is a probability between 0 and 1; found 89"):
        posterior.summary(ci_prob=89)
    with pytest.raises(DataError, match="names= is empty: name some of mu, beta"):
        posterior.summary([])


def test_worst_diagnostics() -> None:
    x = autoregressive(1, (4, 400, 6), phi=0.0)
    x[..., 2] = autoregressive(2, (4, 400), phi=0.97)
    x[0, :, 4] += 3
    posterior = plain({"alpha": x}, plates={"alpha": "g"}, labels={"g": pd.Index(list("uvwxyz"))})
    table, summary = posterior.diagnostics(), posterior.summary()
    assert table["worst"].tolist() == [summary["r_hat"].max(), summary["ess_bulk"].min(), summary["ess_tail"].min()]
    assert table["parameter"].tolist() == [
        summary["r_hat"].idxmax(),
        summary["ess_bulk"].idxmin(),
        summary["ess_tail"].idxmin(),
    ]
    assert table.loc["r_hat", "parameter"] == "alpha[y]"
    assert table["beyond"].tolist() == [
        (summary["r_hat"] > 1.01).sum(),
        (summary["ess_bulk"] < 400).sum(),
        (summary["ess_tail"] < 400).sum(),
    ]


# Export


def test_to_arviz() -> None:
    posterior = made()
    tree = posterior.to_arviz()
    for school in SCHOOLS:
        np.testing.assert_array_equal(tree["posterior"]["alpha"].sel(school=school), posterior.group("alpha", school))
        rate = tree["sample_stats"]["acceptance_alpha"].sel(school=school)
        np.testing.assert_array_equal(rate, posterior.stats.acceptance["alpha"][:, SCHOOLS.index(school)])
    slopes = tree["posterior"]["slopes"]
    assert slopes.dims == ("chain", "draw", "school", "slopes_dim_0")
    np.testing.assert_array_equal(
        slopes.sel(school="Mill", slopes_dim_0="age"), posterior.group("slopes", "Mill")[..., 1]
    )
    assert tree["posterior"]["mu"].dims == ("chain", "draw")
    assert tree["posterior"]["factor"].dims == ("chain", "draw", "factor_dim_0", "factor_dim_1")
    np.testing.assert_array_equal(
        tree["posterior"]["factor"].sel(factor_dim_0=1, factor_dim_1=0), posterior["factor"][..., 1, 0]
    )
    np.testing.assert_array_equal(tree["sample_stats"]["lp"], posterior.stats.log_density)
    np.testing.assert_array_equal(tree["sample_stats"]["acceptance_mu, beta"], posterior.stats.acceptance["mu, beta"])
    attributes = tree["posterior"].attrs
    assert {key: json.loads(attributes[key]) for key in posterior.run} == posterior.run
    assert attributes["interrupted"] == "false" and attributes["inference_library"] == "hiertorch"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1970, 1985], np.array([1970, 1985])),
        ([1.5, 2.5], np.array([1.5, 2.5])),
        ([3, "x"], np.array(["3", "x"])),
        ([("MN", 1), ("MN", 2)], np.array(["MN:1", "MN:2"])),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")),
    ],
)
def test_coordinates_of_labels_of_any_type(labels: Any, expected: np.ndarray) -> None:
    x = autoregressive(1, (2, 10, 2))
    index = pd.Index(labels, tupleize_cols=False)
    tree = plain({"alpha": x}, plates={"alpha": "alpha"}, labels={"alpha": index}).to_arviz()  # plate named as latent
    found = tree["posterior"]["alpha"]
    assert found.dims == ("chain", "draw", "alpha_group")
    assert (
        np.array_equal(found["alpha_group"].values, expected) and found["alpha_group"].dtype.kind == expected.dtype.kind
    )
    np.testing.assert_array_equal(found, x)


# Warnings


def good() -> Tensor:
    return autoregressive(11, (4, 500, 3), phi=0.0)


def warnings_of(x: Tensor, **arguments: Any) -> list[str]:
    labels = {"site": pd.Index([f"s{k}" for k in range(x.shape[2])])}
    return plain({"alpha": x}, plates={"alpha": "site"}, labels=labels, **arguments).warnings()


def test_good_draws_give_no_warnings() -> None:
    assert warnings_of(good()) == []
    factor = made(chains=4, draws=3000)
    assert factor.warnings() == []  # nor do the constants of a Cholesky factor
    assert plain({"factor": torch.ones(4, 500, 1, 1, 1)}).warnings() == []  # nor a 1 x 1 correlation


def test_warning_of_a_large_rhat() -> None:
    x = good()
    x[3, :, 1] += 0.5
    x[3, :, 2] += 2.0
    first, *_ = warnings_of(x)
    worst = array_stats.rhat(x[..., 2].numpy(), chain_axis=0, draw_axis=1, method="rank")
    assert first.startswith(f"R-hat is above 1.01 for 2 of 3 parameters, highest {worst:.4g} for alpha[s2]: the chains")
    assert "Take a longer warm-up and more draws" in first


def test_warning_of_a_small_ess() -> None:
    x = good()
    x[..., 1] = autoregressive(7, (4, 500), phi=0.9)
    found = warnings_of(x)
    bulk = array_stats.ess(x[..., 1].numpy(), chain_axis=0, draw_axis=1, method="bulk")
    tail = array_stats.ess(x[..., 1].numpy(), chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    assert found[-2].startswith(f"Bulk ESS is below 400 for 1 of 3 parameters, lowest {bulk:.4g} for alpha[s1]: means")
    assert found[-1].startswith(
        f"Tail ESS is below 400 for 1 of 3 parameters, lowest {tail:.4g} for alpha[s1]: the ends"
    )
    assert all("Take more draws, or more chains." in sentence for sentence in found[-2:])


def test_warning_of_a_stuck_chain() -> None:
    x = good()
    x[1] = x[1, :1]
    x[3] = x[3, :1]
    assert warnings_of(x)[0].startswith("alpha never moved in chain 1, 3 (counted from 0), in 500 draws:")
    x = good()
    x[2, :, 1] = 0.2
    assert warnings_of(x)[0].startswith("alpha[s1] never moved in chain 2 (counted from 0), in 500 draws:")
    x[0, :, 0] = -0.1
    assert warnings_of(x)[0].startswith(
        "alpha (2 of its 3 parameters, such as alpha[s0]) never moved in chain 0, 2 (counted from 0), in 500 draws:"
    )
    x = good()
    x[:] = x[:, :1]
    assert warnings_of(x)[0].startswith("alpha never moved in any chain, in 500 draws:")
    assert plain({"mu": torch.ones(4, 500, 1)}).warnings()[0].startswith("mu never moved in any chain")
    assert plain({"beta": torch.zeros(4, 500, 1, 2)}).warnings()[0].startswith("beta never moved in any chain")


def test_a_stuck_chain_of_a_cholesky_factor() -> None:
    factor = made().draws["factor"].clone()
    factor[2] = factor[2, :1]
    first, *_ = plain({"factor": factor}).warnings()
    assert first.startswith("factor (2 of its 4 parameters, such as factor[1, 0]) never moved in chain 2 (")


def test_one_parameter_may_stand_still_in_a_short_run() -> None:
    x = good()[:, :20]
    x[2, :, 1] = 0.2
    assert not any("never moved" in sentence for sentence in warnings_of(x))
    x[2] = 0.2
    assert any("alpha never moved in chain 2" in sentence for sentence in warnings_of(x))


def test_warnings_about_the_run() -> None:
    stats = Stats({}, {}, torch.zeros(4, 500), {"alpha": 3, "mu": 0, "sigma": 20})
    (found,) = warnings_of(good(), stats=stats)
    assert found.startswith(
        "The log density of a proposal was NaN, and the proposal rejected: 3 in block 'alpha', 20 in "
    )
    (found,) = warnings_of(good(), interrupted=True, run={"draws": 2000})
    assert found == "The run was stopped after 500 of 2000 draws: these are all there are."
    (found,) = warnings_of(autoregressive(1, (3, 900, 2), phi=0.0))
    assert found == "R-hat compares chains, and there are only 3: run at least 4."
    (found,) = warnings_of(good()[:, :3])
    assert found == "R-hat and ESS need at least 4 draws in each chain, and there are 3: take more."
    x = good()
    x[1, 30, 2] = math.inf
    (found,) = warnings_of(x)
    assert found.startswith("Some draws of alpha are not finite and have no diagnostics:")


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_a_posterior_with_too_few_draws_still_works(draws: int) -> None:
    posterior = made(draws=draws)
    table = posterior.summary()
    assert table["r_hat"].isna().all()
    expected = posterior["alpha"][..., 2].mean().item()  # NaN without draws
    assert table["mean"]["alpha[Mill]"] == pytest.approx(expected, nan_ok=True)
    assert posterior.warnings() == [
        f"R-hat and ESS need at least 4 draws in each chain, and there are {draws}: take more."
    ]
    assert posterior.diagnostics()["worst"].isna().all() and posterior.diagnostics()["beyond"].tolist() == [0, 0, 0]


# One spelling of a parameter


def test_a_parameter_is_spelt_alike_everywhere():
    """Groups of counties in states have tuples as labels: alpha[CA:Alameda]."""
    frame = pd.DataFrame({"county": [("CA", "Alameda"), ("CA", "Kern"), ("NV", "Elko")] * 12})
    frame["y"] = np.random.default_rng(0).normal(size=36)
    data = ht.Data.from_frame(frame, "y", ["county"])
    seen = []

    class Names(ht.monitors.Monitor):
        def window(self, window):
            values = {"alpha": window.values["alpha"]}
            seen.extend(ht.monitors.parameter_names(self.run, "alpha", values["alpha"].shape[1:]))

        def start(self, run):
            self.run = run

    with pytest.warns(ht.SamplingWarning):
        posterior = ht.sample(
            ht.models.VaryingIntercepts("county"), data, seed=1, chains=2, draws=30, warmup=20, progress=False,
            monitors=[Names()]
        )  # fmt: skip
    expected = ["alpha[CA:Alameda]", "alpha[CA:Kern]", "alpha[NV:Elko]"]
    assert list(dict.fromkeys(seen)) == expected
    assert list(posterior.summary("alpha").index) == expected
    assert list(posterior.effects("alpha").index) == expected
    assert list(posterior.pooling().groups.index) == expected
    assert set(posterior.sensitivity(["alpha"]).table.index) == set(expected)
    new = pd.DataFrame({"county": [("NV", "Nye")], "y": [0.5]})
    assert list(posterior.condition(new, prior_draws=200).summary.index) == ["alpha[NV:Nye]"]
    with pytest.raises(KeyError, match=r"posterior.group\('alpha', \('NV', 'Elko'\)\)"):
        posterior["alpha[NV:Elko]"]
    with pytest.raises(KeyError, match=r"write posterior\['alpha'\]"):
        posterior["alpha[elsewhere]"]
