"""Figures of the dashboard: what is drawn where, in which colour, computed from the data by other means."""

import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from hiertorch.dashboard.drawing import canvas, checkpanels, lettering, panels, ticks, typesetting
from hiertorch.dashboard.drawing.canvas import BLACK, BLUE, CHAINS, GREY, LIGHT, ORANGE, Panel

pytestmark = pytest.mark.filterwarnings("error")
NEAR = 24  # of a colour's channel: smooth edges, and a palette of 256


@pytest.fixture
def drawn(monkeypatch) -> list[Panel]:
    """Every panel that was made into a PNG."""
    seen: list[Panel] = []
    png = Panel.png

    def remember(panel: Panel) -> bytes:
        seen.append(panel)
        return png(panel)

    monkeypatch.setattr(canvas.Panel, "png", remember)
    return seen


def pixels(png: bytes) -> np.ndarray:
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) < 40_000
    image = Image.open(io.BytesIO(png))
    assert image.size == (576, 384)
    return np.asarray(image.convert("RGB")).astype(int)


def marked(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (abs(image - np.array(colour)) <= NEAR).all(-1)


def at(panel: Panel, x: float, y: float) -> tuple[int, int]:
    """Row and column of the pixel of a point given in the data's units, by the limits and the frame alone."""
    left, top, right, bottom = panel.frame
    (x_low, x_high), (y_low, y_high) = panel.x.limits(), panel.y.limits()
    x, y = (math.log10(x) if panel.log_x else x), (math.log10(y) if panel.log_y else y)
    across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
    down = up if panel.y.rows is not None else 1 - up
    return round(top + down * (bottom - top - 1)), round(left + across * (right - left - 1))


def inside(panel: Panel, image: np.ndarray) -> np.ndarray:
    left, top, right, bottom = panel.frame
    return image[top : bottom - 1, left + 1 : right]


def well_set(panel: Panel) -> None:
    """No words beyond the edge, over one another or across the frame, and no tick beyond the axes."""
    boxes = [box for _, box in panel.words]
    for a in boxes:
        assert a[0] >= 0 and a[1] >= 0 and a[2] <= 576 and a[3] <= 384, panel.words
    for k, a in enumerate(boxes):
        for b in boxes[:k]:
            apart = a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
            assert apart, (panel.words, a, b)
    if panel.empty:
        return
    left, top, right, bottom = panel.frame
    assert right - left > 250 and bottom - top > 200
    for text, (a, b, c, d) in panel.words:
        out = c <= left or a >= right or d <= top or b >= bottom
        within = a >= left and c <= right and b >= top - 2 and d <= bottom
        assert out or within, text
    for axis in (panel.x, panel.y):
        places, words = axis.ticks(6)
        low, high = axis.limits()
        assert axis.rows is not None or 0 < len(set(words)) == len(words)
        assert (places >= low - 1e-9 * (high - low)).all() and (places <= high + 1e-9 * (high - low)).all()


# Ticks and words.


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_nice_and_can_be_read_back(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        size, centre = 10.0 ** rng.uniform(-250, 250), rng.normal() * 10 ** rng.uniform(-3, 5)
        low, high = sorted(size * (centre + rng.normal(size=2)))
        at_most = int(rng.integers(3, 9))
        places = ticks.nice(low, high, at_most)
        step = (high - low) / 1e9 + (places[1] - places[0] if len(places) > 1 else high - low)
        assert 1 <= len(places) <= at_most and low - 1e-6 * step <= places[0] and places[-1] <= high + 1e-6 * step
        assert len(places) >= at_most / 2.5 - 1  # no finer step would do
        if len(places) > 1:
            mantissa = (places[1] - places[0]) / 10.0 ** math.floor(math.log10(places[1] - places[0]) + 1e-6)
            assert min(abs(mantissa / nice - 1) for nice in (1, 2, 5, 10)) < 1e-3
            words = ticks.written(places)
            assert abs(np.array([float(word) for word in words]) - places).max() < 1e-3 * step
            assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([0, 0.2, 0.4], ["0", "0.2", "0.4"]),
        ([-0.05, 0, 0.05], ["-0.05", "0", "0.05"]),
        ([0, 5e5, 1e6, 1.5e6], ["0", "5e5", "1e6", "1.5e6"]),
        ([2e-7, 4e-7], ["2e-7", "4e-7"]),
        ([1000000, 1000000.5], ["1000000.0", "1000000.5"]),
        ([1980, 2000, 2020], ["1980", "2000", "2020"]),
    ],
)
def test_ticks_are_written_briefly(places, words):
    assert ticks.written(places) == words


def test_decades():
    np.testing.assert_allclose(ticks.decades(-2.1, 3.1, 8), [-2, -1, 0, 1, 2, 3])
    np.testing.assert_allclose(10 ** ticks.decades(-0.1, 1.1, 8), [1, 2, 5, 10])
    assert len(ticks.decades(-200, 200, 6)) <= 6


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-300, 1e300, -7e12, 1e-20])
def test_constant_values_get_limits_around_them(value):
    low, high = ticks.limits(np.array([value, value]))
    assert low < value < high and np.isfinite(high - low)
    assert len(set(ticks.written(ticks.nice(low, high, 6)))) >= 2


@pytest.mark.parametrize("text", ["alpha[" + "x" * 200 + " 77]", "北京" * 100, "Müller-Straße", "", "\ud800 \x00\n"])
def test_long_labels_keep_their_ends(text):
    for room in (0.0, 5.0, 60.0, 200.0):
        word = lettering.shortened(text, 16, room)
        assert lettering.font(16).getlength(word) <= room
        if lettering.ELLIPSIS in word:
            head, tail = word.split(lettering.ELLIPSIS)
            assert lettering.plain(text).startswith(head) and lettering.plain(text).endswith(tail)
            assert 0 <= len(head) - len(tail) <= 2
    assert lettering.shortened(text, 16, 1e9) == lettering.plain(text)


def test_what_the_font_lacks_is_spelt():
    text = "Müller-Straße, σ² ≤ 3 \N{MULTIPLICATION SIGN} Ω\N{MINUS SIGN}1"
    assert lettering.plain(text) == "Muller-Strasse, sigma2 <= 3 x Omega-1"
    assert lettering.plain("two\n lines\x00") == "two lines"


# Marks.


@pytest.mark.parametrize("log", [False, True])
def test_points_stand_where_they_should(log, drawn):
    panel = Panel("points", "x", "y", log_x=log, log_y=log)
    places = [(1.0, 2.0, BLUE), (300.0, 4.0, ORANGE), (90.0, 1000.0, CHAINS[2])]
    for x, y, colour in places:
        panel.points(np.array([x]), np.array([y]), colour, 6.0)
    panel.points(np.array([np.nan, np.inf, 5.0]), np.array([1.0, 1.0, -np.inf]), BLACK, 6.0)
    image = pixels(panel.png())
    for x, y, colour in places:
        rows, columns = np.nonzero(marked(image, colour))
        row, column = at(panel, x, y)
        assert abs(rows.mean() - row) <= 1 and abs(columns.mean() - column) <= 1
        assert len(rows) == pytest.approx(math.pi * 6**2, rel=0.15)
    assert not marked(inside(panel, image), BLACK).any()
    well_set(panel)


def test_bars_bands_lines_and_intervals_stand_where_they_should():
    panel = Panel("marks", "x", "y")
    panel.bars(np.array([0.0, 1.0]), np.array([2.0, 5.0]), 0.5, BLUE)
    panel.band(np.array([2.0, 4.0]), np.array([1.0, 1.0]), np.array([3.0, 5.0]), ORANGE, 1.0)
    panel.line(np.array([5.0, 6.0]), np.array([0.0, 5.0]), CHAINS[2], 3.0)
    panel.intervals(np.array([7.0]), np.array([1.0]), np.array([4.0]), CHAINS[3], 4.0)
    image = pixels(panel.png())
    for x, y, colour in [
        (0.0, 1.8, BLUE),
        (0.0, 2.2, None),
        (0.2, 1.0, BLUE),
        (0.3, 1.1, None),
        (1.0, 4.8, BLUE),
        (3.0, 1.2, ORANGE),
        (3.0, 3.8, ORANGE),
        (3.0, 4.2, None),
        (5.5, 2.5, CHAINS[2]),
        (5.5, 3.5, None),
        (7.0, 1.2, CHAINS[3]),
        (7.0, 3.8, CHAINS[3]),
        (7.0, 4.3, None),
    ]:
        pixel = image[at(panel, x, y)]
        assert (abs(pixel - np.array(colour)) <= NEAR).all() if colour else pixel.min() > 225, (x, y, pixel)


def test_labels_beside_points_do_not_overlap(drawn):
    panel = Panel("labels", "x", "y")
    panel.points(np.arange(10.0), np.zeros(10), BLUE)
    for k in range(5):
        panel.label(9.0, 0.0, f"the same place {k}")
    panel.png()
    well_set(panel)
    assert sum("the same place" in text for text, _ in panel.words) == 5


def test_an_empty_panel_says_so():
    panel = Panel("nothing", "x", "y")
    panel.points(np.array([np.nan]), np.array([1.0]), BLUE)
    panel.across(3.0, ORANGE)
    image = pixels(panel.png())
    assert "nothing to draw" in " ".join(text for text, _ in panel.words)
    assert not marked(image, ORANGE).any() and not marked(image, BLUE).any()


# Ranks.


def test_chains_that_agree_are_grey(drawn):
    image = pixels(panels.rank(np.random.default_rng(2).normal(size=(6, 400)), "mu"))
    assert not any(marked(image, colour).any() for colour in CHAINS[:4])
    assert marked(image, LIGHT).sum() > 10_000 and drawn[0].note == "0 of 6 chains outside"
    well_set(drawn[0])


def test_chains_that_stand_apart_are_marked_and_named(drawn):
    """64 chains of which two are shifted by 1.5 sd: the others are hardly moved by them."""
    x = np.random.default_rng(3).normal(size=(64, 300))
    x[[7, 41]] += 1.5
    image = pixels(panels.rank(x, "mu"))
    panel = drawn[0]
    assert [text for _, _, text in panel.entries] == ["99% band", "chain 7", "41"]
    assert panel.note == "2 of 64 chains outside"
    assert [marked(inside(panel, image), colour).sum() > 300 for colour in CHAINS[:4]] == [True, True, False, False]
    below = marked(image, CHAINS[0]).nonzero()[0][marked(image, CHAINS[0]).nonzero()[0] > panel.frame[1]]
    assert below.min() >= at(panel, 0.0, 0.03)[0]  # high draws: too few low ranks
    well_set(panel)


def test_a_stuck_chain_and_one_with_nan(drawn):
    x = np.random.default_rng(4).normal(size=(20, 200))
    x[3] = 0.7
    x[5, 9] = np.nan
    panels.rank(x, "tau")
    assert "chain 3" in [text for _, _, text in drawn[0].entries] and drawn[0].note.endswith("of 19 chains outside")


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((4, 100)), "never moved"),
        (np.ones((1, 100)), "two chains"),
        (np.ones((4, 3)), "eight draws"),
        (np.full((4, 100), np.nan), "two chains"),
        (np.zeros((0, 0)), "two chains"),
    ],
)
def test_ranks_that_cannot_be(x, says, drawn):
    pixels(panels.rank(x, "a name"))
    assert drawn[0].empty and says in drawn[0].sentence
    well_set(drawn[0])


# Parameters and groups.


def intervals(mean: np.ndarray, rhat: np.ndarray) -> tuple[np.ndarray, ...]:
    return mean, mean - 2, mean - 1, mean + 1, mean + 2, rhat


def test_forest_marks_what_has_not_mixed(drawn):
    mean, rhat = np.array([0.0, 5.0, -3.0, 1.0]), np.array([1.0, 1.05, np.nan, 1.01])
    panel_of = panels.forest(["mu", "tau", "a", "b"], *intervals(mean, rhat))
    image, panel = pixels(panel_of), drawn[0]
    for row, centre in enumerate(mean):
        colour = ORANGE if row == 1 else BLUE
        for x in (centre - 1.9, centre - 0.6, centre + 0.6, centre + 1.9):
            assert (abs(image[at(panel, x, row)] - np.array(colour)) <= NEAR).all()
        assert (abs(image[at(panel, centre - 2.15, row)] - np.array(colour)) > NEAR).any()
        thick = marked(image, colour)[:, at(panel, centre - 0.6, row)[1]]
        thin = marked(image, colour)[:, at(panel, centre - 1.6, row)[1]]
        near = slice(at(panel, 0.0, row)[0] - 10, at(panel, 0.0, row)[0] + 11)
        assert thick[near].sum() > thin[near].sum() >= 1
    assert panel.y.colours == [BLACK, ORANGE, BLACK, BLACK]
    assert panel.entries[0][2] == "R-hat above 1.01, worst 1.05"
    well_set(panel)


def test_forest_says_how_many_more_there_are(drawn):
    names = [f"alpha[county {k}]" for k in range(31)]
    panels.forest(names, *intervals(np.arange(31.0), np.full(31, 1.0)))
    words = [text for text, _ in drawn[0].words]
    assert "… and 14 more" in words and names[16] in words and names[17] not in words
    well_set(drawn[0])


def test_shrinkage(drawn):
    alone = np.array([-4.0, 0.0, 4.0, np.nan])
    image = pixels(panels.shrinkage(alone, np.array([-1.0, 0.5, 2.0, 0.4]), 0.8, np.array([4, 16, 1, 0]), "alpha"))
    panel = drawn[0]
    for x, y in [(-4.0, -1.0), (0.0, 0.5), (4.0, 2.0)]:
        row, column = at(panel, x, y)
        assert image[row, column, 2] - image[row, column, 0] > 60  # blue, see-through
    assert (abs(image[at(panel, -2.0, 0.8)] - np.array(ORANGE)) <= NEAR).all()
    identity = [tuple(image[at(panel, z, z)]) for z in np.linspace(-0.9, 1.9, 60) if abs(z - 0.8) > 0.2]
    assert np.mean([abs(np.array(pixel) - GREY).max() < 60 for pixel in identity]) > 0.25  # a dashed line
    assert panel.note == "3 groups"
    well_set(panel)


def test_areas_grow_with_rows():
    alone, pooled = np.array([0.0, 10.0]), np.array([0.0, 1.0])
    image = pixels(panels.shrinkage(alone, pooled, 5.0, np.array([25, 100]), "alpha"))
    blue = (image[:, :, 2] - image[:, :, 0] > 60).sum(0)
    half = len(blue) // 2
    assert blue[half:].sum() / blue[:half].sum() == pytest.approx(4.0, rel=0.15)


def test_groups_far_away_do_not_set_the_scale(drawn):
    rng = np.random.default_rng(5)
    alone = rng.normal(size=60)
    alone[7] = 1e6
    panels.shrinkage(alone, 0.5 * rng.normal(size=60), 0.0, np.ones(60), "alpha")
    assert drawn[0].x.limits()[1] < 20 and drawn[0].note == "60 groups (1 further out)"


def test_draws_have_the_colours_of_their_chains(drawn):
    rng = np.random.default_rng(6)
    chain = np.repeat([0, 3, 5], 700)
    x = rng.normal(size=2100) + 10 * chain
    image = pixels(panels.pair(x, rng.normal(size=2100), "mu", "tau", chain))
    panel = drawn[0]
    for k, each in enumerate((0, 3, 5)):
        left, right = at(panel, 10 * each - 4, 0)[1], at(panel, 10 * each + 4, 0)[1]
        strip = image[panel.frame[1] : panel.frame[3] - 1, left:right]
        shares = [marked(strip, colour).mean() for colour in CHAINS[:3]]
        assert np.argmax(shares) == k and shares[k] > 10 * sorted(shares)[1]
    assert [text for _, _, text in panel.entries] == ["chain 0", "3", "5"]
    panels.pair(x, x, "mu", "tau", np.arange(2100))
    assert [text for _, _, text in drawn[1].entries] == ["1000 chains"]


def test_funnel_names_the_group_and_its_rhat(drawn):
    x = np.random.default_rng(7).normal(size=100)
    panels.funnel(x, x, "alpha[county Ådal]", "sigma_alpha", np.zeros(100, int), 1.0734)
    words = [text for text, _ in drawn[0].words]
    assert {"Funnel of alpha[county Adal]", "R-hat 1.073", "log sigma_alpha", "alpha[county Adal]"} <= set(words)


def test_acceptance(drawn):
    rates = np.array([0.9, 0.2, 0.5, np.nan, 0.6, 0.3])
    image, panel = pixels(panels.block_acceptance(rates, list("abcdef"), "alpha")), drawn[0]
    for k, rate in enumerate([0.2, 0.3, 0.5, 0.6, 0.9]):
        assert image[at(panel, k + 1, rate)][2] - image[at(panel, k + 1, rate)][0] > 100
    assert (abs(image[at(panel, 1.5, 0.5)] - np.array(ORANGE)) <= NEAR).all()
    assert [text for text, _ in panel.words if " (" in text] == ["b (0.20)", "f (0.30)", "c (0.50)"]
    well_set(panel)


# Checks at the end.


def curves(monkeypatch, y: np.ndarray, replicated: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    lines: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(canvas.Panel, "line", lambda panel, x, y, *_: lines.append((x, y)))
    checkpanels.predictive(y, replicated, False)
    return lines


def test_densities_are_those_of_scipy(monkeypatch):
    rng = np.random.default_rng(8)
    y = rng.normal(3.0, 2.0, size=500)
    (_, _), (x, density) = curves(monkeypatch, y, rng.normal(3.0, 2.0, size=(20, 500)))
    spread = min(y.std(), stats.iqr(y) / 1.34)
    expected = stats.gaussian_kde(y, 0.9 * spread * 500**-0.2 / y.std(ddof=1))(x)
    assert abs(density - expected).max() < 0.02 * expected.max()
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=0.01)


def test_a_positive_response_has_no_density_below_zero(monkeypatch):
    rng = np.random.default_rng(9)
    y = rng.exponential(size=400)
    (_, _), (x, density) = curves(monkeypatch, y, rng.exponential(size=(20, 400)))
    assert x[0] > 0 and density.sum() * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-9)


def test_the_band_holds_replications(drawn):
    """The data's line is dark and over the band, which is at half height where replications differ."""
    rng = np.random.default_rng(10)
    image = pixels(checkpanels.predictive(rng.normal(size=300), rng.normal(size=(100, 300)), False))
    assert marked(inside(drawn[0], image), BLACK).sum() > 300
    pale = np.array([255, 255, 255]) + 0.22 * (np.array(BLUE) - 255)
    assert marked(inside(drawn[0], image), tuple(pale)).sum() > 1_000
    well_set(drawn[0])


@pytest.mark.parametrize("missing", [False, True])
def test_frequencies_of_counts(missing, drawn):
    rng = np.random.default_rng(11)
    y, replicated = rng.poisson(2.0, size=400).astype(float), rng.poisson(2.0, size=(80, 400)).astype(float)
    if missing:
        y[:40], replicated[rng.random(replicated.shape) < 0.1] = np.nan, np.nan
    image, panel = pixels(checkpanels.predictive(y, replicated, True)), drawn[0]
    for value in range(4):
        share = np.mean(y[np.isfinite(y)] == value)
        every = [np.mean(row[np.isfinite(row)] == value) for row in replicated]
        low, high = np.quantile(every, [0.05, 0.95])
        assert (abs(image[at(panel, value - 0.3, share - 0.01)] - 190) <= NEAR).all()
        assert (image[at(panel, value - 0.3, share + 0.012)] > 225).all()
        for z in (low + 0.004, np.median(every), high - 0.004):
            assert (abs(image[at(panel, value, z)] - np.array(BLUE)) <= NEAR).all()
    well_set(panel)


def test_pareto_k(drawn):
    k = np.array([0.1, 0.9, -0.2, np.inf, np.nan, 0.65, 0.75, 0.3])
    image, panel = pixels(checkpanels.pareto_k(k, list("abcdefgh"), 0.6)), drawn[0]
    for row, value in [(1, 0.1), (3, -0.2), (8, 0.3)]:
        assert image[at(panel, row, value)][2] - image[at(panel, row, value)][0] > 100
    for row, value in [(2, 0.9), (6, 0.65), (7, 0.75)]:
        assert (abs(image[at(panel, row, value)] - np.array(ORANGE)) <= NEAR).all()
    column = at(panel, 4, 0.0)[1]
    edge = image[panel.frame[1] : panel.frame[1] + 8, column]
    assert (abs(edge - np.array(ORANGE)).max(-1) <= NEAR).any()  # infinity
    words = [text for text, _ in panel.words]
    assert {"d: inf", "b: 0.9", "g: 0.75"} <= set(words) and not any(text.startswith("f: ") for text in words)
    assert panel.note == "4 of 7 above 0.6" and [text for _, _, text in panel.entries] == ["limit 0.6", "0.7"]
    well_set(panel)


# Whatever comes.

LONG = "theta[" + "Ärger, 北京 \U0001d504 " * 20 + "]"
KINDS = {
    "none": np.zeros(0),
    "one": np.array([0.3]),
    "constant": np.full(40, 0.25),
    "nan": np.full(40, np.nan),
    "some nan": np.where(np.arange(40) % 3, np.linspace(0, 1, 40), np.nan),
    "infinite": np.where(np.arange(40) % 3, np.linspace(0, 1, 40), np.inf),
    "huge": np.linspace(-1e305, 1e305, 40),
    "large": 1e12 + np.linspace(0, 1e8, 40),
    "close": 1e6 + np.linspace(0, 1e-3, 40),
    "tiny": np.linspace(-1e-200, 1e-200, 40),
    "least": np.linspace(0, 1e-310, 40),
    "counts": np.arange(40.0) % 5,
    "far": np.append(np.linspace(0, 1, 39), 1e9),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mu", LONG])
def test_any_numbers_and_names_make_a_figure(kind, name, drawn):
    x = KINDS[kind]
    names, n = [f"{name} {k}" for k in range(len(x))], len(x)
    grid = x[: n // 4 * 4].reshape(4, -1)
    bounds = (x, x, x, x, x, x)
    figures = [
        panels.rank(grid, name),
        panels.forest(names, *bounds),
        panels.shrinkage(x, x[::-1], 0.5, np.arange(n), name),
        panels.shrinkage(x, x, np.nan, x, name),
        panels.pair(x, x[::-1], name, name, np.arange(n) % 8),
        panels.funnel(x, x, name, name, np.zeros(n), np.inf),
        panels.block_acceptance(x, names, name),
        checkpanels.predictive(x, np.stack([x, x[::-1], 2 * (x / 4)]), False),
        checkpanels.predictive(x, np.stack([x, x[::-1]]), True),
        checkpanels.pareto_k(x, names, 0.7),
    ]
    assert len(drawn) == len(figures)
    for figure, panel in zip(figures, drawn, strict=True):
        pixels(figure)
        well_set(panel)
        if kind in ("none", "nan"):
            assert panel.empty
    if kind not in ("none", "nan"):
        assert not any(panel.empty for panel in drawn[1:3] + drawn[4:7])


def test_the_figures_import_neither_matplotlib_nor_torch():
    """The package around them imports torch: an empty one stands in for it."""
    code = """if True:
        import sys, types
        sys.modules["hiertorch"] = package = types.ModuleType("hiertorch")
        package.__path__ = sys.argv[1:]
        from hiertorch.dashboard.drawing.panels import rank
        from hiertorch.dashboard.drawing.checkpanels import pareto_k
        rank([[1.0] * 9] * 2, "mu"), pareto_k([0.1], ["a"], 0.7)
        print([name for name in ("matplotlib", "torch", "scipy", "pandas") if name in sys.modules])
    """
    folder = str(Path(canvas.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_frame_is_drawn_around_the_marks():
    panel = Panel("frame", "x", "y")
    panel.points(np.arange(5.0), np.arange(5.0), BLUE)
    image = np.asarray(typesetting.draw(panel)).astype(int)
    left, top, right, bottom = panel.frame
    assert marked(image, GREY)[top:bottom, left].all() and marked(image, GREY)[bottom, left:right].all()
    assert (image[top - 4 : top, left:right] == 255).all() and (image[bottom + 1, left:right] == 255).all()
