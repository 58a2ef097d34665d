"""One panel of a figure as a PNG, drawn with Pillow.

Marks are given in the data's units and kept until `Panel.png`: limits and margins follow from all of them.

Note [Without matplotlib]
    A dashboard may cost half a second of a short run, and importing matplotlib takes 0.4 s of it. Pillow, which
    TensorBoard requires, draws a panel in some 5 ms. Marks are drawn at twice the size and averaged, for smooth lines;
    words at their own size, where the font's outlines are fitted to the pixels.

Note [What can't be drawn]
    NaN and infinities are left out, and so is what isn't positive on a logarithmic axis. A panel without anything to
    draw says so.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from hiertorch.dashboard.drawing.lettering import plain
from hiertorch.dashboard.drawing.ticks import LARGEST, decades, limits, nice, whole, written
from hiertorch.dashboard.drawing.typesetting import BLACK, GREY, TWICE, Box, Colour, Pen, Place, dashes, draw

__all__ = ["BLACK", "BLUE", "CHAINS", "GREY", "LIGHT", "ORANGE", "PALE", "Axis", "Panel"]

BLUE: Colour = (0, 114, 178)
ORANGE: Colour = (213, 94, 0)
LIGHT: Colour = (222, 222, 222)
PALE: Colour = (190, 190, 190)
CHAINS: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (34, 34, 34),
    (200, 190, 40),  # darker than the palette's yellow, which is lost on white
)
"""Colours that colour-blind readers can tell apart (Okabe & Ito 2008)."""


class Axis:
    """The numbers that an axis has to show, its limits, and how they become pixels."""

    def __init__(self, label: str, log: bool = False) -> None:
        self.label, self.log = label, log
        self.fixed: tuple[float, float] | None = None  # limits, if not those of the marks
        self.whole = False  # whether only whole numbers mean something
        self.rows: Sequence[str] | None = None  # words for 0, 1, ... instead of numbers, from the top
        self.colours: Sequence[Colour] = ()  # of these words
        self._low, self._high = math.inf, -math.inf

    def scaled(self, values: np.ndarray | float) -> np.ndarray:
        """Flat float64, in powers of ten on a logarithmic axis; what can't be drawn is NaN."""
        x = np.asarray(values, dtype=np.float64).reshape(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.log10(x) if self.log else x
        return np.where(np.isfinite(x), np.clip(x, -LARGEST, LARGEST), np.nan)

    def see(self, scaled: np.ndarray) -> None:
        """Limits will hold these, some of which are finite."""
        self._low, self._high = min(self._low, np.nanmin(scaled)), max(self._high, np.nanmax(scaled))

    def limits(self) -> tuple[float, float]:
        """Ends, in powers of ten on a logarithmic axis."""
        if self.rows is not None:
            return -0.6, len(self.rows) - 0.4
        if self.fixed is not None:
            low, high = self.scaled(np.array(self.fixed))
            return float(low), float(high)
        return limits(np.array([self._low, self._high])) if self._low <= self._high else (0.0, 1.0)

    def ticks(self, at_most: int) -> tuple[np.ndarray, list[str]]:
        """Places, in the units of `limits`, and the words there."""
        if self.rows is not None:
            return np.arange(len(self.rows), dtype=float), [plain(row) for row in self.rows]
        low, high = self.limits()
        if not self.log:
            places = whole(low, high, at_most) if self.whole else nice(low, high, at_most)
            return places, written(places)
        places = decades(low, high, at_most)
        return places, [written([10.0**place])[0] for place in places]


@dataclass
class Panel:
    """A panel with one pair of axes; marks are drawn in the order in which they are added.

    Args:
        title: shortened if it is too long.
        x_label, y_label: of the axes; the second stands above its axis, where it can be read.
        note: goes on from the title, in grey, and is never shortened.
        log_x, log_y: logarithmic axes, of positive values.
        sentence: what the panel says if nothing can be drawn.
    """

    title: str
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    sentence: str = "nothing to draw: no finite values"
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, top, right, bottom of the axes, once drawn
    words: list[tuple[str, Box]] = field(default_factory=list)  # what was written where

    def __post_init__(self) -> None:
        self.x, self.y = Axis(self.x_label, self.log_x), Axis(self.y_label, self.log_y)
        self.marks: list[Callable[[Pen, Place, Place], None]] = []
        self.entries: list[tuple[str, Colour, str]] = []  # of the legend
        self.labels: list[tuple[float, float, str, Colour]] = []
        self.empty = True  # until something is added that can be drawn; lines through the whole panel don't count

    def points(
        self,
        x: np.ndarray,
        y: np.ndarray,
        colour: Colour,
        radius: float | np.ndarray = 4.0,
        alpha: float = 1.0,
        hollow: bool = False,
    ) -> None:
        """Discs, or with `hollow` rings, of a radius in pixels, one for all or one each."""
        x, y, radius = self._kept((self.x, x), (self.y, y), (None, radius))
        if not len(x):
            return
        fill = (*colour, round(255 * alpha))

        def draw(pen: Pen, to_x: Place, to_y: Place) -> None:
            for across, down, r in zip(to_x(x).tolist(), to_y(y).tolist(), (TWICE * radius).tolist(), strict=True):
                box = (across - r, down - r, across + r, down + r)
                if hollow:
                    pen.ellipse(box, fill=(255, 255, 255, 200), outline=fill, width=2 * TWICE)
                else:
                    pen.ellipse(box, fill=fill)

        self.marks.append(draw)

    def line(
        self, x: np.ndarray, y: np.ndarray, colour: Colour, thick: float = 2.0, alpha: float = 1.0, seen: bool = True
    ) -> None:
        """A line through points; one that is not `seen` doesn't widen the axes."""
        x, y = self._kept((self.x, x), (self.y, y), seen=seen)
        if len(x) < 2:
            return
        fill = (*colour, round(255 * alpha))

        def draw(pen: Pen, to_x: Place, to_y: Place) -> None:
            corners = np.column_stack([to_x(x), to_y(y)]).ravel().tolist()
            # Where parts of a see-through line overlap at a corner it would be darker.
            joint = "curve" if thick > 1.5 and alpha == 1.0 else None
            pen.line(corners, fill=fill, width=max(1, round(TWICE * thick)), joint=joint)

        self.marks.append(draw)

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: Colour, alpha: float = 0.25) -> None:
        """What lies between two lines, shaded."""
        x, low, high = self._kept((self.x, x), (self.y, low), (self.y, high))
        if len(x) < 2:
            return

        def draw(pen: Pen, to_x: Place, to_y: Place) -> None:
            across = np.concatenate([to_x(x), to_x(x)[::-1]])
            edge = np.column_stack([across, np.concatenate([to_y(low), to_y(high)[::-1]])])
            pen.polygon(edge.ravel().tolist(), fill=(*colour, round(255 * alpha)))

        self.marks.append(draw)

    def bars(self, x: np.ndarray, height: np.ndarray, wide: float, colour: Colour, alpha: float = 1.0) -> None:
        """Bars from 0, `wide` in units of x, centred at x."""
        x, height = self._kept((self.x, x), (self.y, height))
        if not len(x):
            return
        self.x.see(np.concatenate([x - wide / 2, x + wide / 2]))
        self.y.see(np.zeros(1))

        def draw(pen: Pen, to_x: Place, to_y: Place) -> None:
            left, right, top = to_x(x - wide / 2).tolist(), to_x(x + wide / 2).tolist(), to_y(height).tolist()
            foot = float(to_y(np.zeros(1))[0])
            for a, b, c in zip(left, right, top, strict=True):
                box = (a, min(c, foot), max(a + 1, b - 1), max(c, foot))
                pen.rectangle(box, fill=(*colour, round(255 * alpha)))

        self.marks.append(draw)

    def intervals(
        self,
        at: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        colour: Colour,
        thick: float = 2.0,
        level: bool = False,
    ) -> None:
        """From low to high: upright at x = `at`, or `level` at y = `at`."""
        off, along = (self.y, self.x) if level else (self.x, self.y)
        at, low, high = self._kept((off, at), (along, low), (along, high))

        def draw(pen: Pen, to_x: Place, to_y: Place) -> None:
            place, ends = (to_y, to_x) if level else (to_x, to_y)
            half = TWICE * thick / 2
            for a, b, c in zip(place(at).tolist(), ends(low).tolist(), ends(high).tolist(), strict=True):
                first, last = min(b, c), max(b, c)
                side, other = a - half + 0.5, a + half - 0.5
                box = (first, side, last, other) if level else (side, first, other, last)
                pen.rectangle(box, fill=(*colour, 255))

        self.marks.append(draw)

    def across(self, y: float, colour: Colour, dashed: bool = False, thick: float = 1.5, seen: bool = True) -> None:
        """A level line through the whole panel."""
        self._whole(self.y, y, colour, dashed, thick, seen)

    def upright(self, x: float, colour: Colour, dashed: bool = False, thick: float = 1.5, seen: bool = True) -> None:
        """An upright line through the whole panel."""
        self._whole(self.x, x, colour, dashed, thick, seen)

    def identity(self, colour: Colour, thick: float = 1.5) -> None:
        """The line y = x, through as much of it as the axes show."""

        def draw(pen: Pen, to_x: Place, to_y: Place) -> None:
            low = max(self.x.limits()[0], self.y.limits()[0])
            high = min(self.x.limits()[1], self.y.limits()[1])
            if low < high:
                ends = np.array([low, high])
                dashes(pen, to_x(ends), to_y(ends), colour, thick)

        self.marks.append(draw)

    def label(self, x: float, y: float, text: str, colour: Colour = BLACK) -> None:
        """Words beside a point, where there is room."""
        if np.isfinite([x, y]).all():
            self.labels.append((x, y, text, colour))

    def legend(self, kind: str, colour: Colour, text: str) -> None:
        """An entry above the panel: "line", "dash", "dot", "ring", "band", "bar" or "" and words."""
        self.entries.append((kind, colour, text))

    def png(self) -> bytes:
        """The panel as a PNG."""
        # A palette halves both the bytes and the time to compress them; no colour moves by more than can be seen.
        image = draw(self).quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        palette = image.getpalette()
        paper = image.getpixel((0, 0))
        if palette is not None and isinstance(paper, int):
            palette[3 * paper : 3 * paper + 3] = (255, 255, 255)
            image.putpalette(palette)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=6)
        return buffer.getvalue()

    def _kept(self, *parts: tuple[Axis | None, np.ndarray | float], seen: bool = True) -> list[np.ndarray]:
        """Values of equal length in the units of their axes, without those of which one can't be drawn."""
        scaled = [axis.scaled(x) if axis else np.asarray(x, dtype=np.float64).reshape(-1) for axis, x in parts]
        together = np.stack(np.broadcast_arrays(*scaled))
        together = together[:, np.isfinite(together).all(0)]
        if together.shape[1] and seen:
            self.empty = False
            for (axis, _), values in zip(parts, together, strict=True):
                if axis:
                    axis.see(values)
        return list(together)

    def _whole(self, axis: Axis, at: float, colour: Colour, dashed: bool, thick: float, seen: bool) -> None:
        value = axis.scaled(at)
        if not np.isfinite(value).all():
            return
        if seen:
            axis.see(value)

        def line(pen: Pen, to_x: Place, to_y: Place) -> None:
            ends = np.array((self.y if axis is self.x else self.x).limits())
            here = value.repeat(2)
            x, y = (here, ends) if axis is self.x else (ends, here)
            dashes(pen, to_x(x), to_y(y), colour, thick, dashed)

        self.marks.append(line)
