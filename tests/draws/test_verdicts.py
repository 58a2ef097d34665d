"""A verdict names what is wrong, and never speaks for what nobody has looked at."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.distributions import Gamma, Normal
from windows import load, text

import hiertorch as ht
from hiertorch.dashboard import board, closing, loo
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.report import sections
from hiertorch.report.sections import every, verdict

pytestmark = pytest.mark.usefixtures("no_figures")


class Mean(ht.Model):
    """y ~ Normal(mu, sigma)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    sigma = ht.Latent(Gamma(2.0, 1.0))

    def likelihood(self, v, data):
        return Normal(v.mu, v.sigma)


def fitted(y: np.ndarray, folder: Path, **options: Any) -> tuple[Posterior, str]:
    """The posterior, and the dashboard's verdict."""
    run = {"chains": 8, "draws": 200, "seed": 2, "progress": False}
    posterior = ht.sample(Mean(), ht.Data(y), log_dir=folder, **{**run, **options})
    return posterior, text(load(folder), "2_summary/verdict")


NORMAL = np.random.default_rng(1).normal(size=100)


def test_the_dashboards_verdict_names_a_misfit(tmp_path: Path) -> None:
    """Waiting times are skewed, and simulated ones negative; `predictive_check` says the same."""
    y = np.random.default_rng(1).exponential(size=200)
    posterior, said = fitted(y, tmp_path)
    lies = [sentence.split(" (")[0] for sentence in posterior.predictive_check().warnings]
    assert any("skew" in lie for lie in lies) and len(lies) > 1
    assert all(f"{board.texts.SIGN} {lie}" in said for lie in lies)


def test_a_model_that_fits_is_said_to(tmp_path: Path) -> None:
    _, said = fitted(NORMAL, tmp_path)
    assert "Statistics of 100 rows are like those of data simulated from the fit." in said
    assert "not looked at" not in said and "left out" not in said and board.texts.SIGN not in said


def test_loo_is_not_left_out_to_save_a_tenth_of_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A density that takes milliseconds, in a run of no time."""
    monkeypatch.setattr(loo, "COST", 2e-5)  # seconds of a row and draw: 0.6 s for the least draws
    _, said = fitted(NORMAL, tmp_path)
    assert "PSIS-LOO" not in said
    assert "elpd (LOO by row)" in text(load(tmp_path), "2_summary/prediction")


def test_what_was_left_out_at_the_end_is_in_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loo, "COST", 1.0)  # seconds of a row and draw, and of a simulated response
    monkeypatch.setattr(closing, "SIMULATION", 1.0)
    monkeypatch.setattr("hiertorch.dashboard.figures.figures", lambda *_: {"forest": lambda: 1 / 0})
    with pytest.warns(ht.SamplingWarning, match="figures/forest"):
        _, said = fitted(NORMAL, tmp_path)
    assert "PSIS-LOO left out" in said and "Replications left out" in said
    assert "The dashboard has no figures/forest (ZeroDivisionError" in said
    assert "are like those of data simulated" not in said


def words(posterior: Posterior) -> str:
    _, concerns, left = every(posterior)
    return html.unescape(re.sub("<[^>]+>", " ", verdict(posterior, concerns, left)))


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    frame = ht.simulate_grouped(groups=6, rows=6, seed=1).frame
    data = ht.Data.from_frame(frame, response="y", groups=["group"], predictors=["x"])
    return ht.sample(VaryingIntercepts("group", ["x"]), data, chains=8, draws=100, seed=1, progress=False)


def test_a_report_without_model_and_data_says_what_it_did_not_look_at(posterior: Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "kept", data=False)
    said = words(Posterior.load(tmp_path / "kept"))
    assert "The checks below found nothing" not in said
    assert "Not looked at, so that this says nothing of it:" in said
    for section in ("Data", "Groups", "Pooling and variance", "Predictive checks", "Criteria"):
        assert re.search(rf"{section}[,:]", said), section
    assert "does not know its model and data" in said


def test_a_section_that_fails_is_in_the_verdict(posterior: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "predictive_check", lambda fit: 1 / 0)
    said = words(posterior)
    assert "Predictive checks: it failed with ZeroDivisionError" in said
    assert "The checks below found nothing" not in said


def test_effects_that_were_not_stored_were_not_looked_at(posterior: Posterior, tmp_path: Path) -> None:
    kept = ht.sample(
        posterior.model,
        posterior.data,
        keep=["mu_alpha", "sigma_alpha"],
        chains=8,
        draws=100,
        seed=1,
        progress=False,
        log_dir=tmp_path,
    )
    assert "convergence of alpha: their draws were not stored" in words(kept)
    assert "The draws of alpha were not stored" in text(load(tmp_path), "2_summary/verdict")
