"""Trees that ArviZ's own functions read, against ours, and what files keep of them."""

from functools import cache
from pathlib import Path

import arviz_stats
import numpy as np
import pandas as pd
import pytest
import torch
import xarray
from builders import QUIET, plain, refused
from scipy import stats

import hiertorch as ht

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
SHORT = {**QUIET, "chains": 4, "draws": 100, "warmup": 60}


@cache
def pupils() -> pd.DataFrame:
    r = np.random.default_rng(3)
    g = np.repeat(np.arange(8), 10)
    x = r.normal(size=len(g))
    kind = pd.Categorical.from_codes(r.integers(2, size=len(g)), ["low", "top"])
    y = 1 + 0.5 * x + r.normal(size=8)[g] + 0.7 * r.normal(size=len(g))
    frame = pd.DataFrame({"y": y, "x": x, "kind": kind, "school": g + 100, "day": pd.Timestamp("2026-01-01")})
    return frame.assign(count=r.poisson(2, len(g))).set_axis([f"p{i}" for i in range(len(g))])


@cache
def fitted(formula: str = "y ~ x + kind + (1 | school)", **options: str) -> ht.Posterior:
    return ht.fit(formula, pupils(), **options, **SHORT)


def test_observed_and_constant_data_are_the_frame_s():
    tree, frame = fitted().to_arviz(), pupils()
    assert [*tree.children] == ["posterior", "sample_stats", "observed_data", "constant_data"]
    np.testing.assert_array_equal(tree["observed_data"]["y"], frame["y"])
    assert tree["observed_data"]["y"].dims == ("row",) and [*tree["observed_data"]["row"].values] == [*frame.index]
    constant = tree["constant_data"]
    assert {*constant.data_vars} == {"x", "kind", "school"}
    assert constant["school"].dtype.kind == "i" and [*constant["school"].values] == [*frame["school"]]
    assert [*constant["kind"].values] == [*frame["kind"]]
    assert tree["posterior"]["school"].dtype.kind == "i"


def test_log_densities_are_those_of_scipy_and_loo_is_ours():
    posterior, frame = fitted(), pupils()
    tree = posterior.to_arviz(log_likelihood=True)
    found = tree["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "row")
    mean = posterior.predict(frame.drop(columns=["y", "day", "count"])).draws
    expected = stats.norm.logpdf(frame["y"], mean, posterior["sigma_y"].unsqueeze(-1))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    ours, theirs = posterior.criterion(draws=None), arviz_stats.loo(tree)
    np.testing.assert_allclose([ours.elpd, ours.se], [theirs.elpd, theirs.se], rtol=1e-6)


def test_models_are_compared():
    trees = {"x": fitted().to_arviz(log_likelihood=True), "1": fitted("y ~ 1").to_arviz(log_likelihood=True)}
    assert [*arviz_stats.compare(trees).index] == ["x", "1"]


def test_replications_are_those_of_the_model_at_each_draw():
    """Standardised replications are standard normals: Kolmogorov-Smirnov at an error rate of 1e-3."""
    posterior = fitted()
    tree = posterior.to_arviz(posterior_predictive=True, seed=2)
    y = tree["posterior_predictive"]["y"].values
    mean = posterior.predict(pupils().drop(columns=["y", "day", "count"])).draws.numpy()
    z = (y - mean) / posterior["sigma_y"].unsqueeze(-1).numpy()
    assert stats.kstest(z.flatten(), "norm").pvalue > 1e-3
    again = posterior.to_arviz(posterior_predictive=True, seed=2)
    np.testing.assert_array_equal(again["posterior_predictive"]["y"], y)


def test_arviz_draws_the_predictive_check():
    from arviz_plots import plot_ppc_dist
    from matplotlib import pyplot

    tree = fitted("count ~ x", family="poisson").to_arviz(posterior_predictive=True, draws=40)
    assert tree["posterior_predictive"]["count"].shape == (4, 10, 80) and tree["posterior"].sizes["draw"] == 10
    assert tree["posterior_predictive"]["count"].dtype.kind == tree["observed_data"]["count"].dtype.kind == "i"
    assert fitted().to_arviz()["observed_data"]["y"].dtype.kind == "f"
    figure = plot_ppc_dist(tree, backend="matplotlib").viz["figure"].item()
    assert figure.axes[0].get_lines()
    pyplot.close(figure)


def test_a_posterior_without_data():
    posterior = plain({"mu": torch.zeros(2, 5, 1)})
    assert [*posterior.to_arviz().children] == ["posterior", "sample_stats"]
    with refused(ht.DataError, "does not know its model and data"):
        posterior.to_arviz(log_likelihood=True)


def test_data_of_tensors_and_levels():
    data = ht.Data.from_frame(pupils().reset_index(drop=True), "y", ["school"], {"top": "kind=top"})
    posterior = ht.sample(ht.models.VaryingIntercepts("school", ["top"]), data, **SHORT)
    constant = posterior.to_arviz()["constant_data"]
    np.testing.assert_array_equal(constant["top"], pupils()["kind"] == "top")
    assert [*constant["school"].values] == [*pupils()["school"]] and constant["row"].dtype.kind == "i"


@pytest.mark.parametrize(("package", "end"), [("h5netcdf", "nc"), ("zarr", "zarr")])
def test_files_keep_everything(package: str, end: str, tmp_path: Path):
    pytest.importorskip(package)
    tree = fitted().to_arviz(log_likelihood=True, posterior_predictive=True)
    path = tmp_path / f"tree.{end}"
    tree.to_netcdf(path, engine="h5netcdf") if end == "nc" else tree.to_zarr(path)
    read = xarray.open_datatree(path, engine=package)
    for group in tree.children:
        for name, variable in tree[group].dataset.variables.items():
            np.testing.assert_array_equal(read[group][name], variable)
            assert read[group][name].dtype.kind in (variable.dtype.kind, "O" if variable.dtype.kind == "U" else "")
        assert read[group].attrs == tree[group].attrs
