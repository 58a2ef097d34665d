"""The sheet that a figure of the dashboard is drawn on: one pair of axes, a title, a note, a legend; then a PNG.

Matplotlib's objects are used without pyplot, whose figures and settings belong to the whole process: a figure is made
in the dashboard's thread while the main one may draw figures of its own.

docs/decisions.md: Figures of the dashboard are matplotlib's, by objects.
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from hiertorch.monitors.bar import shortened

SIZE, DPI = (576, 384), 100
"""Pixels of a figure, of which a card in TensorBoard shows every other one; and pixels of an inch, of 72 points."""

TITLE, LABEL, TICK = 14.5, 12.0, 11.0
"""Sizes of letters in points, legible at half the size."""

EDGE, TOP, BOTTOM = 10, 66, 60
"""Pixels that stay empty at the sides, and that title, legend and the lower axis have room for."""

NAMES, WIDE = 26, 60
"""Columns of a name at the left axis, and of a line, in letters of which some are wider than others."""

FONT, MISSING = "DejaVu Sans", "\N{WHITE SQUARE}"
"""The font that comes with matplotlib, and what stands for characters that it lacks."""

LARGEST = 1e100
"""What is larger is drawn there: spans must not overflow."""

BLUE, ORANGE, BLACK, GREY, LIGHT, PALE = "#0072b2", "#d55e00", "#222222", "#787878", "#dedede", "#bebebe"
CHAINS = (BLUE, "#e69f00", "#009e73", "#cc79a7", ORANGE, "#56b4e9", BLACK, "#c8be28")
"""Colours that colour-blind readers can tell apart (Okabe & Ito 2008); their yellow is darker, to be seen on white."""


class Sheet:
    """One pair of axes under a title, to be drawn on by `axes`, whose labeled artists make the legend. A title that is
    too long is shortened; the note at its right, in grey, never is.
    """

    def __init__(self, title: str, x_label: str = "", y_label: str = "", note: str = "") -> None:
        self.title, self.note, self.caption = title, note, ""
        self.figure = Figure((SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0.0, BOTTOM / SIZE[1], 1.0, 1 - (TOP + BOTTOM) / SIZE[1]), facecolor="white")
        self.axes.set_xlabel(name(x_label, 2 * NAMES), fontsize=LABEL, color=BLACK)
        self.axes.set_ylabel(name(y_label), fontsize=LABEL, color=BLACK)
        self.axes.spines[["top", "right"]].set_visible(False)
        self.axes.spines[["bottom", "left"]].set_color(GREY)
        self.axes.tick_params(labelsize=TICK, labelcolor=BLACK, color=GREY)
        self.axes.grid(color="#eaeaea", linewidth=0.8)
        self.axes.set_axisbelow(True)
        self.axes.locator_params(nbins=6)

    def dots(
        self,
        x: np.ndarray,
        y: np.ndarray,
        areas: float | np.ndarray,
        colours: str | Sequence[str],
        alpha: float = 1.0,
        label: str | None = None,
        edge: str = "none",
    ) -> None:
        """Discs of areas in square points, one for all or one each; whole at the axes' ends, and over what is there."""
        clipped = not len(x)  # without points one is drawn in the figure's corner
        self.axes.scatter(
            x, y, areas, colours, alpha=alpha, label=label, edgecolors=edge, linewidths=1.2, zorder=3.0, clip_on=clipped
        )

    def says(self, sentence: str) -> bytes:
        """A PNG without axes, where nothing can be drawn: the sentence says why."""
        self.axes.set_visible(False)
        self.figure.text(0.5, 0.5, name(sentence, WIDE), fontsize=LABEL, color=GREY, ha="center", va="center")
        return self.png()

    def png(self) -> bytes:
        """The figure as a PNG, its axes as wide as the words beside them leave room for."""
        (width, height), write = SIZE, self.figure.text
        canvas, top, row = FigureCanvasAgg(self.figure), 1 - EDGE / height, 1 - 0.75 * TOP / height
        note = write(1 - EDGE / width, top, self.note, size=TICK, color=GREY, ha="right", va="top")
        title = write(EDGE / width, top, name(self.title, WIDE), size=TITLE, color=BLACK, va="top")
        caption = write(EDGE / width, row, name(self.caption, WIDE), size=TICK, color=BLACK, va="center")
        handles, labels = self.axes.get_legend_handles_labels()
        legend = self.figure.legend(
            handles, labels, loc="center right", bbox_to_anchor=(1 - EDGE / width, row), ncols=max(1, len(handles)),
            frameon=False, fontsize=TICK, labelcolor=BLACK, borderpad=0.0, borderaxespad=0.0, handlelength=1.0,
            handletextpad=0.4, columnspacing=0.9, scatterpoints=1,
        )  # fmt: skip
        for text in self.figure.findobj(Text):
            assert isinstance(text, Text)
            text.set(parse_math=False, usetex=False, fontfamily=FONT)  # names of groups may have a typesetter's signs
        renderer = canvas.get_renderer()
        _fit(title, width - 3 * EDGE - note.get_window_extent(renderer).width, renderer)
        _fit(caption, width - 3 * EDGE - legend.get_window_extent(renderer).width, renderer)
        words = self.axes.yaxis.get_tightbbox(renderer)
        left = EDGE + (0.0 if words is None else -words.x0)
        axes = self.axes.get_position()
        self.axes.set_position((left / width, axes.y0, 1 - (left + 2 * EDGE) / width, axes.height))
        self.axes.xaxis.get_tightbbox(renderer)  # which finds the power of ten that stands beside the label
        power = self.axes.xaxis.get_offset_text().get_window_extent(renderer).width
        _fit(self.axes.xaxis.label, self.axes.bbox.width - 2 * (power + EDGE), renderer)
        file = io.BytesIO()
        canvas.print_png(file, pil_kwargs={"compress_level": 1})
        return file.getvalue()


def name(text: str, columns: int = NAMES) -> str:
    """A text on one line, in characters that the font has; a longer one without its middle."""
    font = get_font(findfont(FONT))
    known = (c if font.get_char_index(ord(c)) else MISSING for c in " ".join(text.split()) if c.isprintable())
    return shortened("".join(known), columns)


def finite(*columns: np.ndarray | Sequence[float]) -> list[np.ndarray]:
    """Numbers of equal length, without those of which one is NaN or infinite."""
    table = np.array([np.asarray(column, dtype=np.float64).reshape(-1) for column in columns])
    return list(np.clip(table[:, np.isfinite(table).all(0)], -LARGEST, LARGEST))


def _fit(text: Text, room: float, renderer: RendererAgg) -> None:
    """Shortens a text that is wider than its room in pixels."""
    while (wide := text.get_window_extent(renderer).width) > room and (long := len(text.get_text())) > 1:
        text.set_text(shortened(text.get_text(), min(long - 1, int(long * room / wide))))
