"""The report: one file that parses, needs nothing beside it, and says what the posterior says."""

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.draws.labelled import Stats
from hiertorch.errors import RunFolderError
from hiertorch.report import figures, sections
from hiertorch.report.mixing import badness, convergence
from hiertorch.report.page import shown, table
from hiertorch.report.writing import write

SECTIONS = ["model", "data", "estimates", "convergence", "traces", "groups", "pooling", "predictive", "criteria", "run"]
VOID = {"meta", "img", "br", "link", "hr", "input"}
NASTY = ["<script>alert(1)</script>", '"&quot;', "$x^$", "a/b"]


class Page(HTMLParser):
    """Checks that tags close in order; keeps tags, text, the cells of rows, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.sections: dict[str, str] = {}
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag == "div" and "verdict" in (dict(attrs).get("class") or ""):
            self.section = "verdict"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.sections[self.section] = self.sections.get(self.section, "") + text
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += text

    def row(self, head: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == head)


@pytest.fixture(scope="module")
def posterior(sample):
    rng = np.random.default_rng(1)
    labels = np.array([*NASTY, *(f"s{j}" for j in range(8))])
    g = np.repeat(np.arange(12), 6)
    x = rng.normal(size=len(g))
    y = 0.8 * rng.normal(size=12)[g] + 0.5 * x + rng.normal(size=len(g))
    data = ht.Data(y, groups={"school": labels[g]}, x=x)
    return sample(
        ht.models.VaryingIntercepts("school", ["x"], priors="tutorial"),
        data,
        chains=10,
        warmup=150,
        draws=150,
        seed=1,
        collapse=True,
    )


@pytest.fixture(scope="module")
def text(posterior, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write(posterior, path) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_section_is_there_in_order(page):
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == SECTIONS
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert set(SECTIONS) <= {link.lstrip("#") for link in links} and all(link[0] == "#" for link in links)
    assert "Left out" not in "".join(page.sections.values())
    assert [tag for tag, _ in page.tags].count("img") == 5  # traces, ranks, shrinkage, density, group means
    for name, words in {
        "model": ["alpha", "Normal(mu_alpha, sigma_alpha)", "collapsed"],
        "data": ["72 rows", "school (12 groups of 6 rows)"],
        "criteria": ["LOO, rows", "LOO, groups of school"],
        "predictive": ["skewness", "error of p"],
        "run": ["torch", "seed", "warmup"],
    }.items():
        assert all(word in page.sections[name] for word in words), name


def test_nothing_is_loaded_and_nothing_runs(page, text):
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        assert (attrs.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
    without = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?://|url\(|@import", without)
    assert len(text) < 2_000_000


def test_labels_are_text(page, text):
    assert "<script" not in text
    # They come as they are in tables, of which at least the pooling and convergence ones name groups.
    assert [row for row in page.rows if any(NASTY[0] in cell for cell in row)]


def test_errors_stand_beside_the_names_of_a_run_that_ended_by_itself():
    frame = {
        "y": [float(k * k % 17) for k in range(60)],
        "x": [k / 10 for k in range(60)],
        "g": [k % 6 for k in range(60)],
    }
    fit = ht.fit("y ~ x + (x | g)", frame, until=ht.Until(ess=200), seed=1, progress=False)
    assert [*fit.columns] == [*fit.draws]  # looks go through latents in another order
    told = fit.summary(kind="diagnostics")
    rows = Page("".join(convergence(fit, told[["r_hat", "ess_bulk", "ess_tail"]]))).rows
    for name in ("mu", "beta[x]", "sigma_y", "sigma_g[x]", "rho_g[Intercept~x]"):
        row = next(row for row in rows if len(row) == 6 and row[0] == name)
        assert row[4:] == [shown("", told.loc[name, column]) for column in ("mcse_mean", "mcse_sd")], name


def test_numbers_are_those_of_the_posterior(page, posterior):
    estimates = posterior.summary(["mu_alpha", "beta"], kind="stats")
    for name, row in estimates.iterrows():
        assert page.row(str(name))[1:] == [shown("", x) for x in row]
    mixing = posterior.summary(kind="diagnostics")
    worst = badness(mixing).idxmax()
    found = next(row for row in page.rows if len(row) == 6 and row[0] == worst and row[1].startswith(("0.", "1.")))
    assert found[1] == f"{mixing.loc[worst, 'r_hat']:.3f}"
    assert found[2:4] == [f"{mixing.loc[worst, column]:,.0f}" for column in ("ess_bulk", "ess_tail")]
    assert found[4:] == [shown("", mixing.loc[worst, column]) for column in ("mcse_mean", "mcse_sd")]
    pooled = posterior.pooling()
    assert page.row("alpha")[5] == shown("", pooled.table.loc["alpha", "pooling"])
    loo = posterior.criterion("loo", draws=2000)
    assert page.row("LOO, rows")[1:3] == [f"{loo.elpd:.1f}", shown("", loo.se)]
    diagnostics = posterior.diagnostics()
    assert f"highest R-hat {diagnostics.loc['r_hat', 'worst']:.3f}" in page.sections["verdict"]


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_did_not_converge_says_so_first(sample, tmp_path):
    """Half of the chains stand elsewhere."""
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn(4, 100, 1, generator=rng, dtype=torch.float64)
    draws[:2] += 5.0
    bad = ht.Posterior(
        {"mu": draws},
        plates={"mu": None},
        labels={},
        event_labels={},
        stats=Stats({}, {}, torch.zeros(4, 100), {}),
        run={"model": "Two <places>"},
    )
    text = bad.report(tmp_path / "bad.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.sections["verdict"].startswith("Not converged: don't use these numbers yet.")
    assert "R-hat is above 1.01 for 1 of 1 parameters" in page.sections["verdict"]
    assert text.index("Not converged") < text.index("<section")
    assert "verdict bad" in text and "<places>" not in text
    assert page.row("mu")  # what there is, is shown


@pytest.mark.usefixtures("no_figures")
def test_without_model_and_data_it_says_what_is_missing(posterior, page, tmp_path):
    posterior.save(tmp_path / "draws.safetensors", data=False)
    loaded = ht.Posterior.load(tmp_path / "draws.safetensors")
    found = Page(loaded.report(tmp_path / "loaded.html").read_text(encoding="utf-8"))
    for name in ("groups", "pooling", "predictive", "criteria"):
        assert "Left out: this posterior does not know its model and data" in found.sections[name]
    assert "school: 12 groups" in found.sections["data"] and "sigma_y" in found.sections["model"]
    assert found.sections["estimates"] == page.sections["estimates"]


def written(posterior, folder) -> Page:
    return Page(write(posterior, folder / "again.html").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("no_figures")
def test_without_arviz_plots_it_says_how_to_get_it(posterior, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    page = written(posterior, tmp_path)
    assert "pip install 'hiertorch[plots]'" in page.sections["predictive"] and "skewness" in page.sections["predictive"]
    assert [tag for tag, _ in page.tags].count("img") == 3  # traces, ranks, shrinkage


def test_a_path_that_can_not_be_written(posterior, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("taken")
    with pytest.raises(RunFolderError, match="can't write"):
        write(posterior, tmp_path / "file" / "report.html")
    with pytest.raises(RunFolderError, match="it is a folder"):
        write(posterior, tmp_path)
    kept = tmp_path / "report.html"
    kept.write_text("the one before")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hiertorch.report.writing.every", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(posterior, kept)
    assert kept.read_text() == "the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]  # and no half of a new one


@pytest.mark.usefixtures("no_figures")
def test_a_section_that_fails_does_not_take_the_others_along(posterior, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("one <b>divided</b> by none")

    monkeypatch.setattr(sections, "predictive_check", broken)
    monkeypatch.setattr(sections, "pooling", broken)
    page = written(posterior, tmp_path)
    assert "it failed with ZeroDivisionError: one <b>divided</b> by none" in page.sections["predictive"]
    assert "LOO, rows" in page.sections["criteria"] and "b" not in {tag for tag, _ in page.tags}


@pytest.mark.usefixtures("no_figures")
def test_what_asks_for_attention_is_named_at_the_top(sample, tmp_path):
    """Groups that do not differ: their sd may be 0 (seed fixed; see test_pooling for how often this comes out)."""

    class Same(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))
        tau = ht.Latent(Gamma(1.0, 1.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.g], 1.0)

    y = np.random.default_rng(11).normal(size=120)
    data = ht.Data(y, groups={"g": np.arange(120) % 12})
    found = sample(Same(), data, chains=8, warmup=100, draws=200, seed=1, collapse=True)
    page = written(found, tmp_path)
    assert "tau may be 0." in page.sections["verdict"]
    assert "tau may be 0: " in page.sections["pooling"]


def test_many_groups_are_shown_by_their_ends():
    groups = pd.DataFrame(
        {"mean": np.arange(100.0), "shrinkage": np.linspace(1, 0, 100)}, index=[f"alpha[{j}]" for j in range(100)]
    )
    few, split = figures._shown(groups.head(60))
    assert len(few) == split == 60
    some, split = figures._shown(groups)
    assert split == 20 and len(some) == 40
    assert set(some.index[:20]) == {f"alpha[{j}]" for j in range(80, 100)}  # the least pooled first
    assert set(some.index[20:]) == {f"alpha[{j}]" for j in range(20)}


def test_chains_that_are_at_odds_are_drawn():
    draws = torch.randn(40, 200, generator=torch.Generator().manual_seed(2))
    draws[[7, 23]] += 3.0
    assert {7, 23} <= set(figures.chosen(draws, odd=True))
    assert len(figures.chosen(draws, odd=True)) == len(figures.chosen(draws, odd=False)) == figures.CHAINS
    assert figures.chosen(draws[:5], odd=False) == [0, 1, 2, 3, 4]


def test_tables_escape_and_align():
    frame = pd.DataFrame({"<n>": [1, 2], "x": [0.123456, np.nan], "word": ["<a>", "b"]}, index=["<i>", "j"])
    page = Page(table(frame, "of <these>", pd.DataFrame(True, index=frame.index, columns=frame.columns)))
    assert page.rows == [["", "<n>", "x", "word"], ["<i>", "1", "0.123", "<a>"], ["j", "2", "-", "b"]]
    assert shown("ess_bulk", 1234.5) == "1,234" and shown("r_hat", 1.0) == "1.000" and shown("x", 12345.6) == "12,346"
