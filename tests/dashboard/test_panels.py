"""Figures of the dashboard: what is drawn where, in which colour, computed from the data by other means."""

import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text
from scipy import stats

from hiertorch.dashboard import checkpanels, panels, sheet
from hiertorch.dashboard.sheet import Sheet
from hiertorch.palette import BLACK, BLUE, GREY, ORANGE, PALE, SERIES

pytestmark = pytest.mark.filterwarnings("error")
BODY = "#969696"  # of chains that agree


@pytest.fixture
def drawn(monkeypatch) -> list[Sheet]:
    """Every sheet that was made into a PNG, which has the right size and is set well."""
    seen: list[Sheet] = []
    png = Sheet.png

    def remember(made: Sheet) -> bytes:
        seen.append(made)
        data = png(made)
        image = matplotlib.image.imread(io.BytesIO(data))
        assert image.shape[:2] == (384, 576) and (image[-10:, :10] == 1.0).all()
        well_set(made)
        return data

    monkeypatch.setattr(sheet.Sheet, "png", remember)
    return seen


def words(made: Sheet) -> list[Text]:
    """What can be read."""
    unseen = set(made.axes.findobj(Text))  # matplotlib's own ticks and labels
    texts = [text for text in made.figure.findobj(Text) if isinstance(text, Text) and text not in unseen]
    return [text for text in texts if text.get_visible() and text.get_text()]


def well_set(made: Sheet) -> None:
    """No words beyond the edge, over one another or in the axes, which are large."""
    renderer = FigureCanvasAgg(made.figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in words(made)]
    for k, (text, a) in enumerate(boxes):
        assert a.x0 >= 0 and a.y0 >= 0 and a.x1 <= 576 and a.y1 <= 384, (text, a)
        for other, b in boxes[:k]:
            assert not a.overlaps(b), (text, other)
    if made.axes.get_visible():
        assert made.axes.bbox.width > 250 and made.axes.bbox.height > 200
        frame = made.axes.bbox.padded(-1.0)
        assert not any(frame.overlaps(box) for _, box in boxes)


def sentence(made: Sheet) -> str:
    """What a sheet says that has nothing to draw."""
    return "" if made.axes.get_visible() else " ".join(text.get_text() for text in words(made))


def legend(made: Sheet) -> list[str]:
    return [words for _, _, words in made.key]


def lines(made: Sheet, colour: str) -> list[np.ndarray]:
    """Points `(n, 2)` of curves."""
    return [np.array(line.get_xydata()) for line in made.axes.lines if to_hex(line.get_color()) == colour]


def dots(made: Sheet, colour: str) -> np.ndarray:
    """Points `(n, 2)` of one colour."""
    found = [np.zeros((0, 2))]
    for part in made.axes.collections:
        if isinstance(part, PathCollection):
            at = np.array(part.get_offsets())
            each = np.broadcast_to(part.get_facecolors(), (len(at), 4))  # type: ignore[attr-defined]
            found.append(at[[to_hex(one) == colour for one in each]])
    return np.concatenate(found)


def intervals(made: Sheet, colour: str) -> list[tuple[float, np.ndarray]]:
    """Thickness and ends `(2, 2)` of each."""
    return [
        (float(part.get_linewidth()[0]), np.array(ends))
        for part in made.axes.collections
        if isinstance(part, LineCollection) and to_hex(part.get_color()[0]) == colour
        for ends in part.get_segments()
    ]


# Words


@pytest.mark.parametrize("text", ["alpha[" + "x" * 200 + " 77]", "北京" * 100, "Müller-Straße", "", "\ud800 \x00\n"])
def test_long_names_keep_their_ends(text):
    known = sheet.name(text, 10**9)
    for columns in (6, 26, 60):
        short = sheet.name(text, columns)
        assert len(short) <= columns
        if "…" in short:
            head, tail = short.split("…")
            assert known.startswith(head) and known.endswith(tail)
        else:
            assert short == known


def test_what_the_font_lacks_is_a_square_and_no_name_is_typeset():
    assert sheet.name("two\n lines\x00") == "two lines"
    assert sheet.name("σ² ≤ 北", 60) == "σ² ≤ □"
    made = Sheet("$\\alpha$", "$x$ and $y^{", "$1", "")
    made.rows, made.key, made.caption = [("$a$", BLACK), ("$b", BLUE)], [(sheet.LINE, BLUE, "$b$")], "$c$"
    made.png()
    assert {"$a$", "$b", "$b$", "$c$", "$1"} <= {text.get_text() for text in words(made)}
    assert not any(text.get_parse_math() or text.get_usetex() for text in words(made))


@pytest.mark.parametrize("scale", [1.0, 1e-9, 3e7])
def test_numbers_stand_where_matplotlib_has_them(scale):
    made = Sheet("")
    made.axes.plot(scale * np.array([-3.0, 2.2, 7.1]), scale * np.array([1.0, 11.0, -4.0]) + 1e8 * scale)
    made.png()
    ours = [text for text in words(made) if text.get_text()]
    made.axes.set_axis_on()
    made.axes.xaxis.get_tightbbox(FigureCanvasAgg(made.figure).get_renderer())
    made.axes.yaxis.get_tightbbox(FigureCanvasAgg(made.figure).get_renderer())
    found = {(text.get_text(), round(text.get_position()[k], 3)) for k in (0, 1) for text in ours}
    axes = made.axes
    for k, axis in enumerate((axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        assert axis.get_offset_text().get_text() in {"", *(text.get_text() for text in ours)}
        for tick in axis.get_major_ticks():
            if low <= tick.get_loc() <= high:
                pixel = axes.transData.transform([tick.get_loc()] * 2)[k]
                assert (tick.label1.get_text(), round(pixel, 3)) in found


# Ranks


def test_chains_that_agree_are_grey(drawn):
    panels.rank(np.random.default_rng(2).normal(size=(6, 400)), "mu")
    assert len(lines(drawn[0], BODY)) == 6 and legend(drawn[0]) == ["99% band"]
    assert not any(lines(drawn[0], colour) for colour in SERIES)
    assert drawn[0].note == "0 of 6 chains outside"


def test_chains_that_stand_apart_are_marked_and_named(drawn):
    """64 chains of which two are shifted by 1.5 sd: the others are hardly moved by them."""
    x = np.random.default_rng(3).normal(size=(64, 300))
    x[[7, 41]] += 1.5
    panels.rank(x, "mu")
    assert legend(drawn[0]) == ["99% band", "chain 7", "41"] and drawn[0].note == "2 of 64 chains outside"
    for colour in SERIES[:2]:
        (line,) = lines(drawn[0], colour)
        assert line[:, 1].max() < 0.03 and line[:, 1].min() < -0.3  # high draws: too few low ranks
        assert line[0].tolist() == [0, 0] and line[-1].tolist() == [1, 0]
    assert len(lines(drawn[0], BODY)) == panels.INSIDE


def test_a_stuck_chain_and_one_with_nan(drawn):
    x = np.random.default_rng(4).normal(size=(20, 200))
    x[3] = 0.7
    x[5, 9] = np.nan
    panels.rank(x, "tau")
    assert "chain 3" in legend(drawn[0]) and drawn[0].note.endswith("of 19 chains outside")


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((4, 100)), "never moved"),
        (np.ones((1, 100)), "two chains"),
        (np.ones((4, 3)), "eight finite draws"),
        (np.full((4, 100), np.nan), "two chains"),
        (np.zeros((0, 0)), "two chains"),
    ],
)
def test_ranks_that_cannot_be(x, says, drawn):
    panels.rank(x, "a name")
    assert says in sentence(drawn[0])


# Parameters and groups


def spread(mean: np.ndarray, rhat: np.ndarray) -> tuple[np.ndarray, ...]:
    return mean, mean[:, None] + [-2, -1, 1, 2], rhat


def test_forest_marks_what_has_not_mixed(drawn):
    mean, rhat = np.array([0.0, 5.0, -3.0, 1.0]), np.array([1.0, 1.05, np.nan, 1.01])
    panels.forest(["mu", "tau", "a", "b"], *spread(mean, rhat))
    for colour, rows in ((BLUE, [0, 2, 3]), (ORANGE, [1])):
        thin, thick = ({ends[0, 1]: ends[:, 0].tolist() for wide, ends in intervals(drawn[0], colour) if wide == each}
                       for each in (1.5, 4.0))  # fmt: skip
        assert thin == {row: [mean[row] - 2, mean[row] + 2] for row in rows}
        assert thick == {row: [mean[row] - 1, mean[row] + 1] for row in rows}
        np.testing.assert_array_equal(dots(drawn[0], colour), np.column_stack([mean[rows], rows]))
    assert drawn[0].rows == [("mu", BLACK), ("tau", ORANGE), ("a", BLACK), ("b", BLACK)]
    assert legend(drawn[0]) == ["R-hat above 1.01, worst 1.05"]
    low, high = drawn[0].axes.get_ylim()
    assert low > 3 and high < 0  # from the top


def test_forest_says_how_many_more_there_are(drawn):
    names = [f"alpha[county {k}]" for k in range(31)]
    panels.forest(names, *spread(np.arange(31.0), np.ones(31)))
    assert [text for text, _ in drawn[0].rows] == [*names[:17], "… and 14 more"]


def test_shrinkage(drawn):
    alone, rows = np.array([-4.0, 0.0, 4.0, np.nan]), np.array([25, 100, 1, 0])
    panels.shrinkage(alone, np.array([-1.0, 0.5, 2.0, 0.4]), 0.8, rows, "alpha")
    assert sorted(dots(drawn[0], BLUE).tolist()) == [[-4.0, -1.0], [0.0, 0.5], [4.0, 2.0]]
    assert lines(drawn[0], ORANGE)[0][:, 1].tolist() == [0.8, 0.8]
    (identity,) = lines(drawn[0], GREY)
    assert (identity[:, 0] == identity[:, 1]).all() and drawn[0].note == "3 groups"
    areas = {tuple(at): area for part in drawn[0].axes.collections if isinstance(part, PathCollection)
             for at, area in zip(part.get_offsets().tolist(), part.get_sizes(), strict=True)}  # type: ignore[union-attr]  # fmt: skip
    assert areas[0.0, 0.5] == 4 * areas[-4.0, -1.0]


def test_groups_far_away_do_not_set_the_scale(drawn):
    rng = np.random.default_rng(5)
    alone = rng.normal(size=60)
    alone[7] = 1e6
    panels.shrinkage(alone, 0.5 * rng.normal(size=60), 0.0, np.ones(60), "alpha")
    assert drawn[0].axes.get_xlim()[1] < 20 and drawn[0].note == "60 groups (1 further out)"
    assert len(dots(drawn[0], "#ffffff")) == 1  # a ring


def test_draws_have_the_colours_of_their_chains(drawn):
    rng = np.random.default_rng(6)
    chain = np.repeat([0, 3, 5], 700)
    x = rng.normal(size=2100) + 10 * chain
    panels.pair(x, rng.normal(size=2100), "mu", "tau", chain)
    found = [dots(drawn[0], colour)[:, 0] for colour in SERIES[:3]]
    assert sum(map(len, found)) == panels.DRAWS and min(map(len, found)) > 300
    assert all(abs(part - 10 * each).max() < 5 for part, each in zip(found, (0, 3, 5), strict=True))
    assert legend(drawn[0]) == ["chain 0", "3", "5"]
    panels.pair(x, x, "mu", "tau", np.arange(2100))
    assert legend(drawn[1]) == ["1000 chains"]


def test_funnel_names_the_group_and_its_rhat(drawn):
    x = np.random.default_rng(7).normal(size=100)
    panels.funnel(x, x, "alpha[county Ådal]", "sigma_alpha", np.zeros(100, int), 1.0734)
    said = {"Funnel of alpha[county Ådal]", "R-hat 1.073", "log sigma_alpha", "alpha[county Ådal]", "chain 0"}
    assert said <= {text.get_text() for text in words(drawn[0])}


def test_acceptance(drawn):
    panels.acceptance(np.array([0.9, 0.2, 0.5, np.nan, 0.6, 0.3]), list("abcdef"), "alpha")
    np.testing.assert_allclose(dots(drawn[0], BLUE), [[1, 0.2], [2, 0.3], [3, 0.5], [4, 0.6], [5, 0.9]])
    assert lines(drawn[0], ORANGE)[0][:, 1].tolist() == [0.5, 0.5]
    assert drawn[0].caption == "lowest: b 0.20, f 0.30, c 0.50" and legend(drawn[0]) == ["mean 0.50"]


# Checks at the end


def densities(y: np.ndarray, replicated: np.ndarray, drawn: list[Sheet]) -> tuple[np.ndarray, np.ndarray]:
    """Places and densities of the response."""
    checkpanels.predictive(y, replicated, False)
    (line,) = lines(drawn[-1], BLACK)
    return line[:, 0], line[:, 1]


def test_densities_are_those_of_scipy(drawn):
    rng = np.random.default_rng(8)
    y = rng.normal(3.0, 2.0, size=500)
    x, density = densities(y, rng.normal(3.0, 2.0, size=(20, 500)), drawn)
    iqr = min(y.std(), stats.iqr(y) / 1.34)
    expected = stats.gaussian_kde(y, 0.9 * iqr * 500**-0.2 / y.std(ddof=1))(x)
    assert abs(density - expected).max() < 0.02 * expected.max()
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=0.01)
    assert legend(drawn[-1]) == ["data", "5-95 %", "median"]


def test_a_positive_response_has_no_density_below_zero(drawn):
    rng = np.random.default_rng(9)
    x, density = densities(rng.exponential(size=400), rng.exponential(size=(20, 400)), drawn)
    assert x[0] > 0 and density.sum() * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("missing", [False, True])
def test_frequencies_of_counts(missing, drawn):
    rng = np.random.default_rng(11)
    y, replicated = rng.poisson(2.0, size=400).astype(float), rng.poisson(2.0, size=(80, 400)).astype(float)
    if missing:
        y[:40], replicated[rng.random(replicated.shape) < 0.1] = np.nan, np.nan
    checkpanels.predictive(y, replicated, True)
    bars = {bar.get_center()[0]: bar.get_height() for bar in drawn[0].axes.patches}  # type: ignore[attr-defined]
    middle, ends = dict(dots(drawn[0], BLUE).tolist()), {x[0, 0]: x[:, 1] for _, x in intervals(drawn[0], BLUE)}
    for value in range(4):
        every = [np.mean(row[np.isfinite(row)] == value) for row in replicated]
        assert bars[value] == pytest.approx(np.mean(y[np.isfinite(y)] == value))
        assert middle[value] == pytest.approx(np.median(every))
        np.testing.assert_allclose(ends[value], np.quantile(every, [0.05, 0.95]))
    assert all(to_hex(bar.get_facecolor()) == PALE for bar in drawn[0].axes.patches)


def test_pareto_k(drawn):
    k = np.array([0.1, 0.9, -0.2, np.inf, np.nan, 0.65, 0.75, 0.3])
    checkpanels.pareto_k(k, list("abcdefgh"), 0.6)
    assert dots(drawn[0], BLUE).tolist() == [[1, 0.1], [3, -0.2], [8, 0.3]]
    top = drawn[0].axes.get_ylim()[1]
    assert dots(drawn[0], ORANGE).tolist() == [[4, top], [2, 0.9], [7, 0.75], [6, 0.65]]  # infinity at the edge
    assert drawn[0].caption == "worst: d inf, b 0.9, g 0.75" and drawn[0].note == "4 of 7 above 0.6"
    assert legend(drawn[0]) == ["0.7", "limit 0.6"]


# Whatever comes

LONG = "theta[" + "Ärger, 北京 \U0001d504 $x_$ " * 20 + "]"
KINDS = {
    "none": np.zeros(0),
    "one": np.array([0.3]),
    "nan": np.full(40, np.nan),
    "some": np.where(np.arange(40) % 3, np.linspace(0, 1, 40), np.where(np.arange(40) % 2, np.nan, np.inf)),
    "huge": np.linspace(-1e305, 1e305, 40),
    "close": 1e6 + np.linspace(0, 1e-3, 40),
    "tiny": np.linspace(-1e-200, 1e-200, 40),
    "far": np.append(np.linspace(0, 1, 39), 1e9),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_numbers_and_names_make_a_figure(kind, drawn):
    x = KINDS[kind]
    names, n = [f"{LONG} {k}" for k in range(len(x))], len(x)
    panels.forest(names, x, np.stack([x] * 4, 1), x)
    panels.shrinkage(x, x[::-1], 0.5, np.arange(n), LONG)
    panels.pair(x, x[::-1], LONG, "mu", np.arange(n) % 8)
    panels.acceptance(np.clip(x, 0.0, 1.0), names, LONG)
    checkpanels.predictive(x, np.stack([x, x[::-1], 2 * (x / 4)]), False)
    checkpanels.predictive(x, np.stack([x, x[::-1]]), True)
    checkpanels.pareto_k(x, names, 0.7)
    if kind in ("none", "nan"):
        assert all(map(sentence, drawn))
    else:
        assert not any(map(sentence, drawn[:4]))
