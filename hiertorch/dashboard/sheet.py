"""The sheet that a figure of the dashboard is drawn on: one pair of axes, a title, a note, a legend; then a PNG.

Matplotlib's objects are used without pyplot, whose figures and settings belong to the whole process: a figure is made
in the dashboard's thread while the main one may draw figures of its own.

docs/decisions.md: Figures of the dashboard are matplotlib's, by objects.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text
from matplotlib.transforms import BboxBase, IdentityTransform

from hiertorch.monitors.bar import shortened
from hiertorch.palette import BLACK, GREY, PALER

SIZE, DPI = (576, 384), 100
"""Pixels of a figure, of which a card in TensorBoard shows every other one; and pixels of an inch, of 72 points."""

TITLE, LABEL, TICK = 14.5, 12.0, 11.0
"""Sizes of letters in points, legible at half the size."""

EDGE, TOP, BOTTOM, GAP = 10, 66, 60, 7
"""Pixels that stay empty at the sides, that title, key and the lower axis have room for, and between words."""

NAMES, WIDE = 26, 60
"""Columns of a name at the left axis, and of a line, in letters of which some are wider than others."""

FONT, MISSING = "DejaVu Sans", "\N{WHITE SQUARE}"
"""The font that comes with matplotlib, and what stands for characters that it lacks."""

LINE, DASHES, DISC, AREA = (
    "\u2501\u2501",
    "\u2013 \u2013",
    "\u25cf",
    "\u25a0",
)  # a heavy line, en dashes, a circle, a square
"""Signs of a key."""

LARGEST = 1e100
"""What is larger is drawn there: spans must not overflow."""


class Sheet:
    """One pair of axes under a title, to be drawn on by `axes`; `key` says what signs mean, in signs, their colours and
    words. A title that is too long is shortened; the note at its right, in grey, never is.
    """

    def __init__(self, title: str, x_label: str = "", y_label: str = "", note: str = "") -> None:
        self.title, self.note, self.caption = title, note, ""
        self.x_label, self.y_label = x_label, y_label
        self.key: list[tuple[str, str, str]] = []
        self.rows: list[tuple[str, str]] = []
        """Names at the left axis and their colours, from the top; without them there are numbers."""
        self.figure = Figure((SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0.0, BOTTOM / SIZE[1], 1.0, 1 - (TOP + BOTTOM) / SIZE[1]))
        self.axes.set_axis_off()  # five artists a tick, each laid out three times, were half of a figure's time
        self.axes.locator_params(nbins=6)

    def dots(
        self,
        x: np.ndarray,
        y: np.ndarray,
        areas: float | np.ndarray,
        colours: str | Sequence[str],
        alpha: float = 1.0,
        edge: str = "none",
    ) -> None:
        """Discs of areas in square points, one for all or one each; whole at the axes' ends, and over what is there."""
        if len(x):
            self.axes.scatter(
                x, y, areas, colours, alpha=alpha, edgecolors=edge, linewidths=1.2, zorder=3.0, clip_on=False
            )

    def says(self, sentence: str) -> bytes:
        """A PNG without axes, where nothing can be drawn: the sentence says why."""
        self.axes.set_visible(False)
        self._write(SIZE[0] / 2, SIZE[1] / 2, name(sentence, WIDE), LABEL, GREY, ha="center", va="center")
        return self.png()

    def png(self) -> bytes:
        """The figure as a PNG, its axes as wide as the words beside them leave room for."""
        (width, height), row = SIZE, SIZE[1] - 0.75 * TOP
        note = self._write(width - EDGE, height - EDGE, self.note, TICK, GREY, ha="right", va="top")
        title = self._write(EDGE, height - EDGE, name(self.title, WIDE), TITLE, va="top")
        _fit(title, width - 3 * EDGE - _box(note).width)
        right = float(width - EDGE + GAP)
        for sign, colour, words in reversed(self.key):
            for text, color, gap in ((words, BLACK, 2 * GAP), (sign, colour, GAP)):
                if text:
                    right = _box(self._write(right - gap, row, text, TICK, color, ha="right", va="center")).x0
        caption = self._write(EDGE, row, name(self.caption, WIDE), TICK, va="center")
        _fit(caption, right - 3 * EDGE)
        if self.axes.get_visible():
            self._frame()
        file = io.BytesIO()
        self._canvas.print_png(file, pil_kwargs={"compress_level": 1})
        return file.getvalue()

    def _frame(self) -> None:
        """Edges, a grid, and the words and numbers beside them."""
        (width, height), axes = SIZE, self.axes
        low, high = BOTTOM, height - TOP
        label = self._write(EDGE, (low + high) / 2, name(self.y_label), LABEL, va="center", rotation=90)
        power, numbers = _numbers(axes.yaxis)
        rows = self.rows or [(text, BLACK) for text in numbers.values()]
        size = TICK if len(rows) <= 12 else 8.5
        texts = [self._write(0, 0, text, size, colour, ha="right", va="center_baseline") for text, colour in rows]
        left = max((_box(text).width for text in texts), default=0.0) + _box(label).x1 + GAP * (1 + bool(self.y_label))
        right = width - 2 * EDGE
        axes.set_position((left / width, low / height, (right - left) / width, (high - low) / height))
        at = range(len(rows)) if self.rows else numbers
        across = [y for _, y in axes.transData.transform([(0.0, y) for y in at])] if len(rows) else []
        for text, y in zip(texts, across, strict=True):
            text.set_position((left - GAP, y))
        self._write(left, high + GAP / 2, power, TICK, va="bottom")
        power, numbers = _numbers(axes.xaxis)
        up = [x for x, _ in axes.transData.transform([(x, 0.0) for x in numbers])] if numbers else []
        for words, x in zip(numbers.values(), up, strict=True):
            self._write(x, low - GAP, words, TICK, ha="center", va="top")
        beside = _box(self._write(right, EDGE, power, TICK, ha="right")).width
        label = self._write((left + right) / 2, EDGE, name(self.x_label, 2 * NAMES), LABEL, ha="center")
        _fit(label, right - left - 2 * (beside + EDGE))
        grid = [[(x, low), (x, high)] for x in up] + [[(left, y), (right, y)] for y in across if not self.rows]
        lines = [*grid, [(left, high), (left, low)], [(left, low), (right, low)]]
        colours = [PALER] * len(grid) + [GREY, GREY]
        # Behind the axes, which have no face; in pixels, as all that is not data.
        self.figure.add_artist(
            LineCollection(lines, colors=colours, linewidths=0.8, zorder=-1.0, transform=IdentityTransform())
        )

    def _write(self, x: float, y: float, text: str, size: float, color: str = BLACK, **set: Any) -> Text:
        """Words at a place in pixels; names of groups may have a typesetter's signs."""
        return self.figure.text(
            x, y, text, size=size, color=color, family=FONT, parse_math=False, usetex=False,
            transform=IdentityTransform(), **set,
        )  # fmt: skip


def name(text: str, columns: int = NAMES) -> str:
    """A text on one line, in characters that the font has; a longer one without its middle."""
    font = get_font(findfont(FONT))
    known = (c if font.get_char_index(ord(c)) else MISSING for c in " ".join(text.split()) if c.isprintable())
    return shortened("".join(known), columns)


def finite(*columns: np.ndarray | Sequence[float]) -> list[np.ndarray]:
    """Numbers of equal length, without those of which one is NaN or infinite."""
    table = np.array([np.asarray(column, dtype=np.float64).reshape(-1) for column in columns])
    return list(np.clip(table[:, np.isfinite(table).all(0)], -LARGEST, LARGEST))


def _numbers(axis: Axis) -> tuple[str, dict[float, str]]:
    """The power of ten that numbers of an axis share, and where they stand in it."""
    low, high = sorted(axis.get_view_interval())
    places, formatter = list(axis.get_major_locator()()), axis.get_major_formatter()
    texts = formatter.format_ticks(places)
    room = 1e-9 * (high - low)
    there = {x: text for x, text in zip(places, texts, strict=True) if low - room <= x <= high + room}
    return formatter.get_offset(), there


def _box(text: Text) -> BboxBase:
    """Where it stands, in pixels."""
    return text.get_window_extent()


def _fit(text: Text, room: float) -> None:
    """Shortens a text that is wider than its room in pixels."""
    while (wide := _box(text).width) > room and (long := len(text.get_text())) > 1:
        text.set_text(shortened(text.get_text(), min(long - 1, int(long * room / wide))))
