"""Where everything of a panel stands: title, legend, axes with their numbers, marks, and labels beside points."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from hiertorch.dashboard.drawing.lettering import font, plain, shortened, width

if TYPE_CHECKING:
    from hiertorch.dashboard.drawing.canvas import Axis, Panel

__all__ = ["BLACK", "GREY", "SIZE", "TWICE", "Box", "Colour", "Pen", "Place", "dashes", "draw"]

SIZE = (576, 384)
"""Of a figure in pixels: a card in TensorBoard shows it at half the size."""

TITLE, LABEL, TICK = 21, 17, 16
"""Sizes of letters in pixels, legible at half the size."""

EDGE, GAP = 10, 8  # pixels that stay empty at the figure's edges, and between words and what they belong to
TWICE = 2  # marks are drawn at so many times their size
FAR = 20_000.0  # pixels: what lies beyond is drawn there

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Pen = ImageDraw.ImageDraw
Place = Callable[[np.ndarray], np.ndarray]  # from an axis's units to pixels of the enlarged drawing

BLACK: Colour = (34, 34, 34)
GREY: Colour = (120, 120, 120)
GRID: Colour = (234, 234, 234)
WHITE: Colour = (255, 255, 255)


def draw(panel: "Panel") -> Image.Image:
    """The figure; what was written where is left in `panel.words`, and where the axes are in `panel.frame`."""
    image = Image.new("RGB", SIZE, WHITE)
    pen = ImageDraw.Draw(image)
    panel.words.clear()
    write = _Writer(pen, panel.words)
    _title(panel, write)
    if panel.empty:
        panel.frame = (0, 0, 0, 0)
        _sentence(panel.sentence, write)
        return image
    top = 66 if panel.y.label or panel.entries else 42
    bottom = SIZE[1] - EDGE - (TICK + GAP) - (LABEL + 4 if panel.x.label else 0)
    high, row = bottom - top, TICK
    if panel.y.rows is not None:
        row = int(min(TICK, max(11, 0.95 * high / max(1, len(panel.y.rows)))))
    y_at, y_words = panel.y.ticks(6)
    y_words = [shortened(word, row, 0.4 * SIZE[0]) for word in y_words]
    left = round(EDGE + max((width(word, row) for word in y_words), default=0.0) + GAP)
    right = SIZE[0] - 2 * EDGE
    panel.frame = (left, top, right, bottom)
    x_at, x_words = _without_crowding(panel.x, right - left)
    to_x, to_y = _place(panel.x, right - left, False), _place(panel.y, high, True)
    image.paste(_marks(panel, x_at, y_at, to_x, to_y), (left, top))
    pen.line((left, top, left, bottom), fill=GREY)
    pen.line((left, bottom, right, bottom), fill=GREY)
    for at, word in zip(to_x(x_at).tolist(), x_words, strict=True):
        half = width(word, TICK) / 2
        centre = min(max(left + at / TWICE, EDGE + half), SIZE[0] - 4 - half)
        write(centre - half, bottom + GAP + 0.75 * TICK, word, TICK, BLACK)
    colours = panel.y.colours or [BLACK] * len(y_words)
    for at, word, colour in zip(to_y(y_at).tolist(), y_words, colours, strict=True):
        write(left - GAP - width(word, row), top + at / TWICE + 0.36 * row, word, row, colour)
    if panel.x.label:
        word = shortened(panel.x.label, LABEL, SIZE[0] - 2 * EDGE)
        half = width(word, LABEL) / 2
        centre = min(max((left + right) / 2, EDGE + half), SIZE[0] - EDGE - half)
        write(centre - half, SIZE[1] - EDGE, word, LABEL, BLACK)
    _legend(panel, image, write)
    _labels(panel, write, to_x, to_y)
    return image


def dashes(pen: Pen, x: np.ndarray, y: np.ndarray, colour: Colour, thick: float, dashed: bool = True) -> None:
    """A straight line between two points."""
    ends, wide = np.column_stack([x, y]), round(TWICE * thick)
    if not dashed:
        pen.line(ends.ravel().tolist(), fill=colour, width=wide)
        return
    pieces = max(1, int(np.hypot(*(ends[1] - ends[0])) / (8 * TWICE)))
    for k in range(min(pieces, 500)):
        part = ends[0] + (ends[1] - ends[0]) * np.array([[k / pieces], [(k + 0.6) / pieces]])
        pen.line(part.ravel().tolist(), fill=colour, width=wide)


class _Writer:
    """Writes plain text from its left end on a baseline, and remembers where."""

    def __init__(self, pen: Pen, words: list[tuple[str, Box]]) -> None:
        self._pen, self._words = pen, words

    def __call__(self, x: float, y: float, text: str, size: int, colour: Colour, halo: int = 0) -> None:
        if not text:
            return
        x, y = round(x), round(y)
        self._pen.text((x, y), text, colour, font(size), "ls", stroke_width=halo, stroke_fill=WHITE)
        if text[0] == "-":  # a page that shows every other row of pixels would lose it
            middle = y - round(0.27 * size)
            self._pen.rectangle((x, middle - 1, x + width("-", size) - 1, middle + 1), fill=colour)
        self._words.append((text, self._pen.textbbox((x, y), text, font=font(size), anchor="ls")))


def _title(panel: "Panel", write: _Writer) -> None:
    note = plain(panel.note)
    room = SIZE[0] - 2 * EDGE - (width(note, LABEL) + GAP if note else 0.0)
    title = shortened(panel.title, TITLE, room)
    write(EDGE, 27, title, TITLE, BLACK)
    write(EDGE + width(title, TITLE) + GAP, 27, note, LABEL, GREY)


def _sentence(sentence: str, write: _Writer) -> None:
    lines, line = [], ""
    for word in plain(sentence).split():
        longer = f"{line} {word}".strip()
        if line and width(longer, LABEL) > 0.8 * SIZE[0]:
            lines.append(line)
            longer = word
        line = longer
    for k, each in enumerate([*lines, line][:8]):
        each = shortened(each, LABEL, SIZE[0] - 2 * EDGE)
        down = SIZE[1] / 2 + (k - len(lines) / 2) * 1.4 * LABEL
        write((SIZE[0] - width(each, LABEL)) / 2, down, each, LABEL, GREY)


def _without_crowding(axis: "Axis", room: int) -> tuple[np.ndarray, list[str]]:
    """As many ticks as there is room for."""
    low, high = axis.limits()
    for at_most in (8, 7, 6, 5, 4, 3):
        at, words = axis.ticks(at_most)
        half = np.array([width(word, TICK) / 2 for word in words])
        centre = (at - low) / (high - low) * room
        if len(at) < 2 or (centre[1:] - half[1:] - centre[:-1] - half[:-1] >= 1.2 * TICK).all():
            return at, words
    return at[::2], words[::2]


def _place(axis: "Axis", pixels: int, down: bool) -> Place:
    """A margin of a pixel keeps the ends inside."""
    low, high = axis.limits()
    start, end = ((pixels - 1) * TWICE, 0.0) if down and axis.rows is None else (0.0, (pixels - 1) * TWICE)

    def place(values: np.ndarray) -> np.ndarray:
        share = (np.asarray(values) - low) / (high - low)
        at = np.clip(start + (end - start) * share, -FAR, FAR)
        return at if axis.rows is None else TWICE * (at / TWICE).round() + 0.5  # where the row's line is

    return place


def _marks(panel: "Panel", x_at: np.ndarray, y_at: np.ndarray, to_x: Place, to_y: Place) -> Image.Image:
    """What lies within the axes: lines at the ticks, and the marks over them."""
    left, top, right, bottom = panel.frame
    large = Image.new("RGB", ((right - left) * TWICE, (bottom - top) * TWICE), WHITE)
    pen = ImageDraw.Draw(large, "RGBA")
    for at in np.round(to_x(x_at) / TWICE).astype(int).tolist():
        pen.rectangle((TWICE * at, 0, TWICE * at + 1, large.height), fill=GRID)
    for at in np.round(to_y(y_at) / TWICE).astype(int).tolist():
        pen.rectangle((0, TWICE * at, large.width, TWICE * at + 1), fill=GRID)
    for mark in panel.marks:
        mark(pen, to_x, to_y)
    return large.reduce(TWICE)


def _legend(panel: "Panel", image: Image.Image, write: _Writer) -> None:
    """The label of the y axis from the left, and the entries up to the right, as far as there is room."""
    room = SIZE[0] - 2 * EDGE
    entries = [(kind, colour, plain(text)) for kind, colour, text in panel.entries]
    marked = 22  # pixels of a mark and the gap after it
    wide = [width(text, TICK) + (marked if kind else 0) + 14 for kind, _, text in entries]
    label = shortened(panel.y.label, LABEL, max(room - sum(wide), 0.3 * room))
    write(EDGE, 50, label, LABEL, BLACK)
    x = max(EDGE + width(label, LABEL) + 14, SIZE[0] - EDGE - sum(wide) + 14)
    for (kind, colour, text), each in zip(entries, wide, strict=True):
        if kind:
            _sample(image, kind, colour, x, 45)
        start = x + (marked if kind else 0)
        write(start, 50, shortened(text, TICK, max(0, SIZE[0] - EDGE - start)), TICK, BLACK)
        x += each


def _sample(image: Image.Image, kind: str, colour: Colour, x: float, y: float) -> None:
    """What the words of an entry mean, 16 pixels wide, drawn large for smooth edges."""
    fine = 4
    mask = Image.new("L", (16 * fine, 12 * fine), 0)
    pen = ImageDraw.Draw(mask)
    if kind == "dot":
        pen.ellipse((3 * fine, fine, 13 * fine, 11 * fine), fill=255)
    elif kind == "ring":
        pen.ellipse((3 * fine, fine, 13 * fine, 11 * fine), outline=255, width=2 * fine)
    elif kind in ("band", "bar"):
        pen.rectangle((0, 0, 16 * fine, 12 * fine), fill=255)
    elif kind == "dash":
        pen.rectangle((0, 5 * fine, 6 * fine - 1, 7 * fine - 1), fill=255)
        pen.rectangle((10 * fine, 5 * fine, 16 * fine, 7 * fine - 1), fill=255)
    else:
        pen.rectangle((0, 5 * fine - 2, 16 * fine, 7 * fine + 1), fill=255)
    image.paste(colour, (round(x), round(y) - 6), mask.reduce(fine))


def _labels(panel: "Panel", write: _Writer, to_x: Place, to_y: Place) -> None:
    """Beside their points, on the side with more room, and apart from one another."""
    left, top, right, bottom = panel.frame
    taken: list[Box] = []
    for x, y, text, colour in panel.labels:
        across = left + float(to_x(panel.x.scaled(x))[0]) / TWICE
        down = top + float(to_y(panel.y.scaled(y))[0]) / TWICE
        after = across < (left + right) / 2
        word = shortened(text, TICK, min(0.45 * (right - left), (right - across if after else across - left) - 2 * GAP))
        start = across + GAP if after else across - GAP - width(word, TICK)
        down = min(max(down, top + 0.5 * TICK), bottom - 0.5 * TICK)
        for step in (0, 1, -1, 2, -2, 3, -3, 4, -4):
            y_at = down + 0.55 * TICK * step
            box = (start, y_at - 0.5 * TICK, start + width(word, TICK), y_at + 0.5 * TICK)
            inside = top <= box[1] and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                write(start, y_at + 0.36 * TICK, word, TICK, colour, halo=2)
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
