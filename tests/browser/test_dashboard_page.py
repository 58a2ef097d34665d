"""TensorBoard's page in headless Chromium: every tab that the dashboard uses draws what a real run wrote.

The announced links open the tabs, as they would for a person who clicks on them; the page must not complain.
"""

import pytest
from builders import ten_schools
from server import Fit, Page, serve, until

import hiertorch as ht
from hiertorch.dashboard import board
from hiertorch.dashboard.links import links
from hiertorch.models import VaryingIntercepts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning"),
]

FIGURES = ("acceptance", "forest", "funnel", "pair", "pareto_k", "predictive", "rank", "shrinkage")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of a finished run; a second one lies beside it, which the links must leave out."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {"warmup": 100, "draws": 300, "thin": 1, "seed": 1, "compile": False, "progress": False}
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    ht.sample(model, ten_schools(), chains=4, collapse=False, log_dir=folder / "run", **settings)
    ht.sample(model, ten_schools(), chains=2, log_dir=folder / "other", **settings)
    with serve(folder) as server:
        until(lambda: len(server.sessions()) == 2 and server.points("metric/elpd_loo"))
        until(lambda: len(server.runs()) == 8)
        yield server


@pytest.fixture
def page(browser, server):
    """`page(title)` opens a view of the run by its announced link."""
    page = Page(browser)
    views = dict(links(server.address, "run"))
    views["histograms"] = views["posterior"].replace("#distributions", "#histograms")
    views["scalars"] = f"{server.address}/#scalars&_smoothingWeight=0&tagFilter=%5Econvergence%2F&regexInput=%5Erun%24"

    def opened(title):
        page.open(views[title])
        return page

    return opened


def lines(page):
    """What SVG charts have drawn: curves of more than a point or two."""
    return [line for line in page.see("path", "d") if len(line) > 20]


def test_every_tab_draws(page):
    shown = page("health")
    shown.until(lambda: len(shown.see("metrics-pinned-view line-chart canvas")) >= 4)
    rows = shown.until(lambda: shown.cells("metrics-pinned-view tb-data-table-content-row"))
    assert any(row.startswith("run ") for row in rows) and not any(row.startswith("other") for row in rows)
    assert shown.complaints() == []

    shown = page("scalars")
    shown.until(lambda: len(shown.see("tf-scalar-card")) >= 7 and len(lines(shown)) >= 7)
    assert shown.complaints() == []

    shown = page("charts")
    shown.until(lambda: len(shown.see("path.area")) >= 6)  # bands of the posterior
    shown.until(lambda: len(shown.see("tf-custom-scalar-multi-line-chart-card")) >= 6)
    shown.until(lambda: sum(len(area) > 20 for area in shown.see("path.area", "d")) >= 6)
    assert not [text for text in shown.see("h3, h4, p, div") if "not found" in text or "Missing" in text]
    assert shown.complaints() == []

    shown = page("posterior")
    shown.until(lambda: len(shown.see("tf-distribution-loader")) >= 4 and len(lines(shown)) >= 4 * 8)
    assert shown.complaints() == []

    shown = page("histograms")
    shown.until(lambda: len(shown.see("tf-histogram-loader")) >= 4 and len(lines(shown)) >= 4 * 2)
    assert shown.complaints() == []

    shown = page("summary")
    shown.until(lambda: any("Finished" in text for text in shown.see("li")))
    shown.until(lambda: {"mu_alpha", "sigma_alpha"} <= set(shown.cells("td")))
    assert shown.complaints() == []

    shown = page("figures")
    shown.until(lambda: len(list(filter(None, shown.see("img", "naturalWidth")))) >= 8)
    assert set(filter(None, shown.see("img", "naturalWidth"))) == {576}
    assert set(shown.see("tf-image-loader", "tag")) == {f"figures/{figure}" for figure in FIGURES}
    assert shown.complaints() == []

    shown = page("compare")
    cells = shown.until(lambda: {"run", "other"} <= set(found := shown.cells("vaadin-grid-cell-content")) and found)
    assert {"elpd (LOO)", "worst R-hat", "smallest ESS", "collapsed", "VaryingIntercepts"} <= set(cells)
    assert shown.complaints() == []

    shown = page("traces")
    shown.until(lambda: shown.see("card-view line-chart canvas"))
    titles = shown.cells("metrics-dashboard tb-truncated-path")
    assert titles and all(title.startswith("trace/") for title in titles)
    assert shown.complaints() == []


def test_the_view_gains_points_while_a_fit_goes_on(browser, tmp_path, monkeypatch):
    tier = board.Tier  # twenty times as often
    monkeypatch.setattr(board, "Tier", lambda governor, every, **more: tier(governor, every / 20, **more))
    page = Page(browser)
    with serve(tmp_path) as server:
        fitting = Fit(tmp_path / "run")
        until(lambda: server.points("convergence/rhat_max"))
        page.open(dict(links(server.address, "run"))["health"])

        def steps():
            """Of the pinned table of R-hat, and of the chains' log density."""
            rows = page.cells("metrics-pinned-view tb-data-table-content-row")
            return [row for row in rows if row.startswith("run ")], [row for row in rows if "chain_0" in row]

        convergence, chains = page.until(lambda: all(found := steps()) and found)

        def reloaded():
            page.driver.execute_script("document.querySelector('app-header-reload button').click()")
            rows, more = steps()
            return rows and more and rows != convergence and more != chains

        page.until(reloaded)
        assert fitting.running
        fitting.end()
    assert [line for line in page.complaints() if "ERR_CONNECTION_REFUSED" not in line] == []
