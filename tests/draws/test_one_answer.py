"""Bar, table, dashboard, warnings and report of one run say the same of its convergence: all stored draws, once."""

import html
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from arviz_stats.base import array_stats
from builders import unpainted
from torch.distributions import Gamma, Normal
from windows import load, scalars, text

import hiertorch as ht
from hiertorch.draws import judgement
from hiertorch.draws.judgement import judge
from hiertorch.draws.labelled import Stats
from hiertorch.errors import SamplingWarning
from hiertorch.posterior import Posterior
from hiertorch.report.sections import verdict

GROUPS, ROWS = 60, 4


class Intercepts(ht.Model):
    """y_ij ~ Normal(alpha_j, sigma),  alpha_j ~ Normal(mu, tau); what is reported beside it may be what is worst."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")
    icc = ht.Derived(lambda v: v.tau**2 / (v.tau**2 + v.sigma**2))

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.g], v.sigma)


def rows() -> ht.Data:
    numbers = np.random.default_rng(1)
    g = np.repeat(np.arange(GROUPS), ROWS)
    y = numbers.normal(0.3, 0.5, GROUPS)[g] + numbers.normal(0.0, 1.0, len(g))
    return ht.Data.from_frame(pd.DataFrame({"g": g, "y": y}), response="y", groups=["g"])


RUNS = {
    "collapsed": {"draws": 300, "chains": 128},  # thinned to every second
    "ordinary": {"draws": 60, "warmup": 100, "chains": 8, "collapse": False},  # R-hat too high, ESS too low
    "population": {"draws": 100, "chains": 8, "keep": ["mu", "tau"]},
}


@dataclass
class Said:
    """What a run said, and where."""

    posterior: Posterior
    bar: str
    folder: Path
    warned: list[str]


@pytest.fixture(scope="module", params=RUNS)
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Said:
    folder = tmp_path_factory.mktemp("run")
    stream = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr("sys.stderr", stream)
        unpainted(patch)
        posterior = ht.sample(Intercepts(), rows(), seed=3, log_dir=folder, **RUNS[request.param])
    mine = [str(one.message) for one in warned if one.category is SamplingWarning]
    return Said(posterior, stream.getvalue().splitlines()[-1], folder, mine)


def test_the_table_is_arviz_on_all_stored_draws(said: Said) -> None:
    draws = np.concatenate([x.flatten(2).numpy() for x in said.posterior.draws.values()], 2)
    axes = {"chain_axis": 0, "draw_axis": 1}
    worst = said.posterior.diagnostics()["worst"]
    assert worst["r_hat"] == pytest.approx(array_stats.rhat(draws, **axes).max(), rel=1e-9)
    assert worst["ess_bulk"] == pytest.approx(array_stats.ess(draws, method="bulk", **axes).min(), rel=1e-9)
    tail = array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **axes)
    assert worst["ess_tail"] == pytest.approx(tail.min(), rel=1e-9)


def worst(posterior: Posterior) -> tuple[float, str, float, str]:
    """R-hat and the smaller ESS, each with its parameter."""
    table = posterior.diagnostics()
    row = min(("ess_bulk", "ess_tail"), key=lambda row: table.loc[row, "worst"])
    pairs = [(table.loc[key, "worst"], table.loc[key, "parameter"]) for key in ("r_hat", row)]
    return (*pairs[0], *pairs[1])


def test_the_last_line_of_the_bar(said: Said) -> None:
    rhat, highest, ess, lowest = worst(said.posterior)
    above, below = " > 1.01" * bool(rhat > 1.01), " < 400" * bool(ess < 400)
    assert said.bar.startswith(f"finished, {said.posterior.chains} x {said.posterior.n_draws} draws, in ")
    assert f", R-hat {rhat:.3f}{above} ({highest}), ESS {ess:,.0f}{below} ({lowest}), accept" in said.bar
    assert " of " not in said.bar and "≥" not in said.bar


def test_the_end_of_the_dashboards_curves(said: Said) -> None:
    rhat, _, ess, _ = worst(said.posterior)
    table, main = said.posterior.diagnostics(), load(said.folder)
    expected = {
        "convergence/rhat_max": rhat,
        "convergence/rhat_max_minus_1": min(rhat - 1, 0.05),
        "convergence/rhat_limit_minus_1": 0.01,
        "metric/rhat_max": rhat,
        "convergence/n_bad_rhat": table.loc["r_hat", "beyond"],
        "convergence/ess_bulk_min": table.loc["ess_bulk", "worst"],
        "convergence/ess_tail_min": table.loc["ess_tail", "worst"],
        "metric/ess_min": ess,
    }
    for tag, value in expected.items():
        assert list(scalars(main, tag).values())[-1] == pytest.approx(value, rel=1e-6), tag
    shown = said.posterior.summary()
    for name in ("mu", "tau"):
        assert list(scalars(main, f"posterior/{name}/mean").values())[-1] == pytest.approx(shown.loc[name, "mean"])


def test_the_dashboards_verdict_and_table(said: Said) -> None:
    table, main = said.posterior.diagnostics(), load(said.folder)
    number = sum(x[0, 0].numel() for x in said.posterior.draws.values())
    rhat, bulk, tail = (table.loc[row] for row in ("r_hat", "ess_bulk", "ess_tail"))
    for tag in ("2_summary/verdict", "2_summary/posterior"):
        words = text(main, tag)
        if rhat["beyond"]:
            assert f"R-hat is above 1.01 for {rhat['beyond']} of {number} parameters ({rhat['parameter']} " in words
            assert f"({rhat['parameter']} {rhat['worst']:.3f}" in words
        else:
            assert f"for each of {number} parameters (worst {rhat['worst']:.3f}, {rhat['parameter']})." in words
        assert f"{bulk['worst']:,.0f} effective draws in the bulk ({bulk['parameter']})" in words
        assert f"{tail['worst']:,.0f} in the tails ({tail['parameter']})" in words
        assert " draws, from " not in words and "From " not in words
    row = next(line for line in text(main, "2_summary/posterior").splitlines() if line.startswith("| tau |"))
    shown = said.posterior.summary("tau").iloc[0]
    assert f"| {shown['r_hat']:.3f} | {shown['ess_bulk']:,.0f} | {shown['ess_tail']:,.0f} |" in row


def test_the_warnings_and_the_reports_verdict(said: Said) -> None:
    assert said.warned == said.posterior.warnings()
    words_of_report = html.unescape(verdict(said.posterior, []))
    for row, words in {"r_hat": "highest R-hat {:.3f} ({})", "ess_bulk": "lowest bulk ESS {:,.0f} ({})"}.items():
        one = said.posterior.diagnostics().loc[row]
        assert words.format(one["worst"], one["parameter"]) in words_of_report


# What is worse than all else, and what is a part


def made(draws: dict[str, torch.Tensor]) -> Posterior:
    labels = {"g": pd.Index([f"g{k}" for k in range(next(iter(draws.values())).shape[2])])}
    some = next(iter(draws.values()))
    return Posterior(
        draws,
        plates=dict.fromkeys(draws, "g"),
        labels=labels,
        event_labels={},
        stats=Stats({}, {}, torch.zeros(some.shape[:2]), {}),
        run={},
    )


def test_what_never_moved_is_the_worst() -> None:
    draws = torch.randn(4, 200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws[:, :, 1] = 2.0
    posterior = made({"a": draws})
    assert posterior.diagnostics()["worst"].tolist() == [np.inf, 0.0, 0.0]
    assert set(posterior.diagnostics()["parameter"]) == {"a[g1]"}
    assert posterior.summary().loc["a[g1]", ["r_hat", "ess_bulk"]].isna().all()  # nothing is known of it
    found = judge(posterior)
    assert found.rhat == (np.inf, "a[g1]") and found.ess == (0.0, "a[g1]") and found.above == 1


def test_constants_by_definition_are_no_fault() -> None:
    """The ones on the diagonal of a correlation."""
    r = torch.rand(4, 200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    one = torch.ones_like(r)
    matrix = torch.stack([one, r, r, one], -1).unflatten(-1, (2, 2))
    posterior = made({"Omega": matrix})
    assert posterior.diagnostics()["worst"]["r_hat"] < 1.05 and posterior.diagnostics()["worst"]["ess_bulk"] > 100


def test_a_look_at_a_part_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.randn(4, 100, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws[0] += 1.0
    posterior = made({"a": draws})
    whole = judge(posterior)
    assert whole.part == "" and whole.parameters == 50 and whole.sentences == posterior.warnings()
    monkeypatch.setattr(judgement, "WHOLE", 4 * 50 * 10)
    monkeypatch.setattr(judgement, "GROUPS", 10)
    monkeypatch.setattr(judgement, "EACH", 20)
    part = judge(posterior)
    assert part.part == "10 of 50 parameters, one draw in 2" and part.parameters == 10
    note = " (From a look at 10 of 50 parameters, one draw in 2; posterior.warnings() looks at all.)"
    assert part.sentences and all(sentence.endswith(note) for sentence in part.sentences)
