"""What notebooks show: the numbers and labels of what is printed, and no label that is markup."""

import html
import re

import pandas as pd
import pytest

import hiertorch as ht

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
ODD = "<b>&amp;"


@pytest.fixture(scope="module")
def fitted():
    """Model, data and posterior of groups of which one is called as markup is written."""
    frame = {
        "y": [1.0, 2.5, 4.0, 3.5, 2.0, 5.0],
        "x": [0.0, 1.0, 2.0, 3.0, 1.0, 2.0],
        "g": ["a", "a", ODD, ODD, "c", "c"],
    }
    model, data = ht.formula("y ~ x + (1 | g)", frame)
    posterior = ht.sample(model, data, chains=4, warmup=50, draws=40, seed=1, progress=False)
    return model, data, posterior


def words(page):
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


def test_what_is_printed_is_shown(fitted):
    model, data, posterior = fitted
    for one in (model, data, ht.plan(model, data), posterior.criterion()):
        page = one._repr_html_()
        assert words(page).strip() == str(one).strip() and page.startswith("<pre")


def test_a_posterior_shows_what_all_groups_share(fitted):
    posterior = fitted[2]
    page = posterior._repr_html_()
    found = words(page)
    table = posterior.summary(["mu", "beta", "sigma_g", "sigma_y"])
    assert "beta[x]" in found and f"{table['mean']['beta[x]']:.4g}" in found and f"{table['r_hat']['mu']:.4g}" in found
    assert f"{table['ess_bulk']['mu']:,.0f}" in found
    assert "effects_g[a" not in found and repr(posterior).splitlines()[0] in found


def test_labels_are_escaped(fitted):
    prediction = fitted[2].predict(pd.DataFrame({"x": [1.0, 2.0], "g": ["a", ODD]}, index=["one", ODD]))
    page = prediction._repr_html_()
    assert ODD not in page and html.escape(ODD) in page
    assert f"{prediction.summary['mean'].iloc[1]:.4g}" in page
    assert "color:" not in page.replace("color: inherit", "")
