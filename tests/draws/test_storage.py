"""Posteriors in files: everything comes back to the bit, and a run goes on from a file as from the posterior itself."""

import datetime
import json
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import plain
from safetensors import safe_open
from torch import Tensor

import hiertorch as ht
from hiertorch.draws import archive, storage
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError, ModelError, UnknownNameError
from hiertorch.models import CorrelatedEffects, VaryingIntercepts
from hiertorch.monitors import Monitor
from hiertorch.posterior import Posterior

Sample = Callable[..., Posterior]
BERNOULLI = VaryingIntercepts("school", ["x"], family="bernoulli")
NORMAL = VaryingIntercepts("school", ["x"])


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def data_of(family: str = "gaussian", **arguments: Any) -> ht.Data:
    model = VaryingIntercepts("school", ["x"], family=family)
    made = ht.simulate_grouped({"school": 6}, rows=10, model=model, values={"beta": 0.5}, seed=1, **arguments)
    return ht.Data.from_frame(made.frame, response="y", groups=["school"], predictors=["x"])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.contiguous().numpy().tobytes() == b.numpy().tobytes()


def assert_same_draws(one: Posterior, other: Posterior) -> None:
    assert one.names == other.names
    assert all(same_bits(one.draws[name], other.draws[name]) for name in one)


# What comes back


def test_saved_and_loaded_to_the_bit(tmp_path: Path) -> None:
    labels = pd.Index(
        [
            *(3, "3", 2.5, True, None, ("MN", (1, None))),
            *(np.int64(4), np.float32(0.1), np.str_("x"), np.bool_(False)),
            *(pd.Timestamp("2020-01-01 03:04:05.000006"), pd.Timestamp("2020-07-01 12:00", tz="Europe/Paris")),
            *(datetime.date(2020, 2, 29), datetime.datetime(2020, 2, 29, 1, 2)),
            *(uuid.UUID(int=3), Decimal("1.10"), b"a\0"),
        ],
        dtype=object,
        tupleize_cols=False,
        name="odd",
    )
    x = numbers(1, 4, 30, len(labels), 2, dtype=torch.float32)
    x[0, 0, 0, 0], x[0, 1, 0, 0], x[0, 2, 0, 0] = math.nan, -0.0, math.inf
    posterior = plain(
        {"mu": numbers(2, 4, 30, 1), "alpha": x, "count": torch.arange(120).reshape(4, 30, 1)},
        plates={"alpha": "odd"},
        labels={"odd": labels, "school": pd.Index(["Zoo", "Mill"]), "year": pd.Index([1970, 1971], dtype="int32")},
        event_labels={"alpha": (("SES", 4),)},
        stats=Stats(
            {"alpha/odd": torch.rand(4, len(labels)), "mu": torch.rand(4)},
            {"alpha/odd": "odd", "mu": None},
            numbers(3, 4, 30),
            {"alpha/odd": 2, "mu": 0},
        ),
        run={"draws": 100, "seconds": 1.25, "model": "M", "versions": {"torch": "2"}, "device": None},
        interrupted=True,
        tuning={"groupwise(alpha/odd)": {"root": numbers(4, 17, 2, 2), "count": torch.tensor(3)}},
        more={"tau": numbers(5, 4, 30, 1)},
        positions={"hidden": numbers(6, 4, 17)},
        redrawn={"gamma": "school"},
    )
    path = tmp_path / "new folder" / "draws.safetensors"
    posterior.save(path)
    again = Posterior.load(path)
    assert_same_draws(posterior, again)
    assert same_bits(posterior.stats.log_density, again.stats.log_density)
    for mine, other in (
        (posterior.stats.acceptance, again.stats.acceptance),
        (posterior.more, again.more),
        (posterior.positions, again.positions),
        (posterior.tuning["groupwise(alpha/odd)"], again.tuning["groupwise(alpha/odd)"]),
    ):
        assert list(mine) == list(other) and all(same_bits(mine[key], other[key]) for key in mine)
    assert again.stats.blocks == posterior.stats.blocks and again.stats.nan == posterior.stats.nan
    assert (again.plates, again.run, again.interrupted) == (posterior.plates, posterior.run, True)
    assert again.event_labels == posterior.event_labels
    assert list(again.labels) == list(posterior.labels)
    for plate, index in posterior.labels.items():
        pd.testing.assert_index_equal(again.labels[plate], index, exact=True)
        assert [type(label) for label in again.labels[plate]] == [type(label) for label in index]
    assert again.labels["odd"][5] == ("MN", (1, None)) and again.labels["odd"][11].tz.key == "Europe/Paris"
    assert repr(again) == repr(posterior)
    assert [file.name for file in path.parent.iterdir()] == ["draws.safetensors"]


def test_a_summary_survives_the_file(tmp_path: Path) -> None:
    posterior = plain({"mu": numbers(1, 4, 200, 1), "beta": numbers(2, 4, 200, 1, 3)})
    posterior.save(tmp_path / "a")
    pd.testing.assert_frame_equal(Posterior.load(tmp_path / "a").summary(), posterior.summary(), check_exact=True)


def test_the_file_says_what_it_is_to_any_reader(tmp_path: Path) -> None:
    data = data_of()
    posterior = ht.sample(NORMAL, data, chains=2, warmup=20, draws=10, seed=1, progress=False)
    posterior.save(tmp_path / "a")
    with safe_open(tmp_path / "a", framework="numpy") as file:
        metadata = file.metadata()
        np.testing.assert_array_equal(file.get_tensor("draws/alpha"), posterior["alpha"])
    header = json.loads(metadata["header"])
    assert (metadata["format"], metadata["version"]) == ("hiertorch posterior", "3")
    assert header["versions"]["torch"] == torch.__version__ and header["run"]["seed"] == 1
    assert header["fingerprint"] == data.fingerprint.to_json()


def test_millions_of_labels_are_no_matter_of_the_header(tmp_path: Path) -> None:
    """A header of safetensors ends at 100 MB."""
    labels = pd.Index([f"{k:0100d}" for k in range(10)])
    posterior = plain({"a": torch.zeros(2, 4, 10)}, plates={"a": "g"}, labels={"g": labels})
    posterior.save(tmp_path / "a")
    with (tmp_path / "a").open("rb") as file:
        assert int.from_bytes(file.read(8), "little") < 1900
    assert list(Posterior.load(tmp_path / "a").labels["g"]) == list(labels)


@pytest.mark.parametrize(
    "index",
    [
        pd.cut([15, 25, 35], [10, 20, 30, 40]).categories,
        pd.period_range("2020-03", periods=3, freq="M"),
        pd.date_range("2020-03-28", periods=3, tz="dateutil/Europe/Berlin"),
        pd.timedelta_range("1h", periods=3),
    ],
)
def test_groups_of_any_kind_are_found_after_loading(index: pd.Index, tmp_path: Path) -> None:
    labels = np.repeat(index.to_numpy(dtype=object), 4)
    data = ht.Data(np.arange(12.0), groups={"school": labels}, x=np.arange(12.0) % 5)
    posterior = ht.sample(NORMAL, data, chains=2, warmup=20, draws=10, seed=1, progress=False)
    posterior.save(tmp_path / "a")
    again = Posterior.load(tmp_path / "a", model=NORMAL, data=data)
    assert again.labels["school"].dtype == posterior.labels["school"].dtype
    for label in index:
        assert torch.equal(again.group("alpha", label), posterior.group("alpha", label))


class StoppedError(Exception):
    """Of a run that was to be stopped before its first sweep."""


class Stopping(Monitor):
    """Stops a run at its start."""

    def start(self, info: Any) -> None:
        raise StoppedError


# What can't be kept


class Odd:
    """A label that no file keeps."""

    def __repr__(self) -> str:
        return "Odd()"


def test_a_label_or_setting_that_a_file_can_not_hold(tmp_path: Path) -> None:
    posterior = plain({"a": torch.zeros(2, 4, 1)}, plates={"a": "g"}, labels={"g": pd.Index([Odd()], dtype=object)})
    with pytest.raises(DataError, match=r"can't save label Odd\(\): its type is test_storage.Odd.*with str"):
        posterior.save(tmp_path / "a")
    with pytest.raises(DataError, match=r"can't save a: run= must hold what JSON can.*PosixPath"):
        plain({"a": torch.zeros(2, 4, 1)}, run={"folder": tmp_path}).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_labels_that_no_file_keeps_are_said_before_sampling() -> None:
    labels = [label for label in (Odd(), Odd()) for _ in range(3)]
    data = ht.Data(np.arange(6.0), groups={"school": labels}, x=np.arange(6.0) % 4)
    words = r"the posterior can be used, but not saved: grouping 'school': can't save label Odd\(\)"
    with pytest.warns(ht.SamplingWarning, match=words), pytest.raises(StoppedError):
        ht.sample(NORMAL, data, monitors=[Stopping()], progress=False)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    archive.write(tmp_path / "a", storage.KIND, {"draws": ["mu"]}, {})
    with pytest.raises(DataError, match="a can't be made a posterior again: 'draws/mu'"):
        Posterior.load(tmp_path / "a")


# Runs that go on from a file


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        pytest.param(BERNOULLI, {"warmup": 4}, marks=pytest.mark.slow),
        (BERNOULLI, {"warmup": 4, "keep": ["beta"]}),
        (NORMAL, {"collapse": True}),
        (NORMAL, {"collapse": True, "keep": ["beta", "sigma_y"]}),
        pytest.param(CorrelatedEffects("school", ["x"]), {"keep": ["mu_alpha"], "warmup": 4}, marks=pytest.mark.slow),
    ],
    ids=["ordinary", "ordinary, one kept", "collapsed", "collapsed, two kept", "correlated, one kept"],
)
def test_a_run_goes_on_from_a_file_as_from_the_posterior(
    model: ht.Model, settings: dict[str, Any], sample: Sample, tmp_path: Path
) -> None:
    data = data_of("bernoulli" if model is BERNOULLI else "gaussian")
    first = sample(model, data, chains=4, draws=6, thin=1, seed=1, **settings)
    first.save(tmp_path / "a")
    loaded = Posterior.load(tmp_path / "a")
    more: dict[str, Any] = {**settings, "chains": 6, "warmup": 4, "draws": 4, "thin": 1, "seed": 2}
    one, other = sample(model, data, start=first, **more), sample(model, data, start=loaded, **more)
    assert_same_draws(one, other)
    assert one.run["sweeps"] == other.run["sweeps"] == first.run["sweeps"] + 8


@pytest.mark.slow
def test_chains_go_on_from_where_they_were_though_little_was_kept(sample: Sample) -> None:
    """Without a sweep of warm-up, effects and scales that were not kept are what they were."""
    data = data_of("bernoulli")
    first = sample(BERNOULLI, data, chains=4, warmup=4, draws=6, thin=1, seed=1, keep=["beta"])
    assert set(first.positions) == {"mu_alpha", "sigma_alpha", "alpha"}
    every = sample(BERNOULLI, data, chains=4, warmup=4, draws=6, thin=1, seed=1)
    assert every.positions == {}
    for name, x in first.positions.items():
        assert torch.equal(x, every.draws[name][:, -1])


# Effects that were not stored


@pytest.fixture(scope="module")
def unstored(sample: Sample) -> Posterior:
    keep = ["mu_alpha", "sigma_alpha", "beta", "sigma_y"]
    return sample(NORMAL, data_of(), collapse=True, chains=4, draws=50, seed=1, keep=keep)


def test_effects_are_drawn_again_after_loading(unstored: Posterior, tmp_path: Path) -> None:
    unstored.save(tmp_path / "a")
    again = Posterior.load(tmp_path / "a", model=NORMAL, data=data_of())
    assert repr(again) == repr(unstored) and "drawn again by redraw(): alpha" in repr(again)
    assert torch.equal(again.redraw("alpha"), unstored.redraw("alpha"))
    assert torch.equal(again.redraw("alpha", ["s3", "s1"]), unstored.redraw("alpha", ["s3", "s1"]))
    pd.testing.assert_frame_equal(again.effects("alpha"), unstored.effects("alpha"), check_exact=True)
    assert torch.equal(again.log_marginal("school"), unstored.log_marginal("school"))
    frame = pd.DataFrame({"school": ["s1", "new"], "x": [0.5, 0.5]})
    assert torch.equal(again.predict(frame).draws, unstored.predict(frame).draws)
    assert again.criterion("loo").elpd == unstored.criterion("loo").elpd


def test_what_was_kept_in_silence_serves_after_loading(sample: Sample, tmp_path: Path) -> None:
    """A collapsed run stores all scales and coefficients, whatever keep= shows."""
    data = data_of()
    posterior = sample(NORMAL, data, collapse=True, chains=4, draws=50, seed=1, keep=["beta"])
    posterior.save(tmp_path / "a")
    again = Posterior.load(tmp_path / "a", model=NORMAL, data=data)
    assert again.names == ["beta"] and set(again.more) == {"mu_alpha", "sigma_alpha", "sigma_y"}
    assert torch.equal(again.redraw("alpha"), posterior.redraw("alpha"))


def test_effects_are_drawn_again_by_what_the_file_has(unstored: Posterior, tmp_path: Path) -> None:
    unstored.save(tmp_path / "a")
    assert torch.equal(Posterior.load(tmp_path / "a").redraw("alpha"), unstored.redraw("alpha"))
    unstored.save(tmp_path / "a", data=False)
    again = Posterior.load(tmp_path / "a")
    for asked in (again.redraw, again.effects):
        with pytest.raises(DataError, match=r"can be drawn again with the model and the data: ht.Posterior.load\(path"):
            asked("alpha")
    with pytest.raises(UnknownNameError, match="the draws of 'alpha' were not stored"):
        again["alpha"]


# Model and data


def test_other_data_are_refused(unstored: Posterior, tmp_path: Path) -> None:
    unstored.save(tmp_path / "a")
    data = data_of()
    y, x = data.y.tolist(), data.columns["x"].tolist()
    school = data.labels["school"][data.codes["school"].numpy()].tolist()
    for other, words in (
        (data.replace(y=data.y.exp()), "the response has other values"),
        (data.replace(weights=torch.linspace(1, 2, 60)), "the row weights are others"),
        (data.take(torch.arange(60).flip(0)), "the response has other values, or its rows another order"),
        (data.take(torch.arange(59)), "there are 59 rows, not 60"),
        (ht.Data(y, groups={"school": school}, x=x[::-1]), "column 'x' has other values"),
        (ht.Data(y, groups={"school": school[::-1]}, x=x), "grouping 'school' has other labels, or other rows in"),
        (ht.Data(y, groups={"school": [s.upper() for s in school]}, x=x), "the groups of 'school' were"),
    ):
        with pytest.raises(DataError, match=f"{words}.*Give the model and"):
            Posterior.load(tmp_path / "a", model=NORMAL, data=other)
    Posterior.load(tmp_path / "a", model=NORMAL, data=data.to(dtype=torch.float32))
    more = ht.Data(y, groups={"school": school, "day": school}, x=x, z=x)  # what the fit had is there
    Posterior.load(tmp_path / "a", model=NORMAL, data=more)


def test_the_fingerprint_is_known_without_the_data(unstored: Posterior, tmp_path: Path) -> None:
    unstored.save(tmp_path / "a")
    assert Posterior.load(tmp_path / "a").fingerprint == data_of().fingerprint
    Posterior.load(tmp_path / "a").save(tmp_path / "b")
    with pytest.raises(DataError, match="not those that were fitted"):
        Posterior.load(tmp_path / "b", model=NORMAL, data=data_of().replace(y=torch.zeros(60)))


class Short(ht.Model):
    """y ~ Normal(mu, 1)."""

    mu = ht.Latent(torch.distributions.Normal(0.0, 5.0))

    def likelihood(self, v: Any, data: Any) -> Any:
        return torch.distributions.Normal(v.mu.expand(-1, data.n_rows), 1.0)


class Long(Short):
    """y ~ Normal(mu, 1)."""

    tau = ht.Latent(torch.distributions.Gamma(2.0, 2.0))


def test_other_priors_are_refused(sample: Sample, tmp_path: Path) -> None:
    data = data_of()
    posterior = sample(NORMAL, data, collapse=True, chains=2, warmup=20, draws=10, seed=1)
    posterior.save(tmp_path / "a")
    other = VaryingIntercepts("school", ["x"], priors={"beta": "Normal(0, 20)"})
    with pytest.raises(ModelError, match="the model is not the one that was fitted, which prints as"):
        Posterior.load(tmp_path / "a", model=other, data=data)
    sample(Long(), data, chains=2, draws=10, seed=1, keep=["mu"], collapse=False, warmup=20).save(tmp_path / "b")
    with pytest.raises(ModelError, match="the model is not the one that was fitted"):
        Posterior.load(tmp_path / "b", model=Short(), data=data)
