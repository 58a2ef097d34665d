"""Words in a figure: the font that comes with Pillow, characters that it lacks, labels that are too long."""

import unicodedata
from functools import cache, lru_cache

from PIL import ImageFont

__all__ = ["ELLIPSIS", "font", "plain", "shortened", "width"]

ELLIPSIS = "…"

SPELT = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{INFINITY}": "inf",
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{SQUARE ROOT}": "sqrt ",
    "\N{MICRO SIGN}": "mu",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{LATIN SMALL LETTER SHARP S}": "ss",
    "\N{LATIN SMALL LETTER AE}": "ae",
    "\N{LATIN CAPITAL LETTER AE}": "AE",
    "\N{LATIN SMALL LIGATURE OE}": "oe",
    "\N{LATIN SMALL LETTER O WITH STROKE}": "o",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": "O",
    "\N{LATIN SMALL LETTER L WITH STROKE}": "l",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": "L",
    "\N{LATIN SMALL LETTER D WITH STROKE}": "d",
    "\N{LATIN SMALL LETTER DOTLESS I}": "i",
}
MISSING = "\ue000"  # a private character, of which the font knows nothing either


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise ImportError("figures expected Pillow with FreeType and found it without: pip install 'pillow>=10.1'.")
    return found


@lru_cache(4096)
def plain(text: str) -> str:
    """The text on one line, in characters that the font has: u with two dots becomes u, the Greek letter sigma
    its name; what can't be spelt so stays, to be drawn as an empty box.
    """
    return "".join(_spelt(character) for character in " ".join(text.split()))


@lru_cache(4096)
def _spelt(character: str) -> str:
    if _has(character):
        return character
    if character in SPELT:
        return SPELT[character]
    simpler = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    if simpler != character and all(map(_has, simpler)):
        return simpler
    words = unicodedata.name(character, "").split()
    if words[:1] == ["GREEK"] and "LETTER" in words:  # GREEK SMALL LETTER SIGMA, GREEK CAPITAL LETTER DELTA
        word = words[words.index("LETTER") + 1]
        return word.capitalize() if "CAPITAL" in words else word.lower()
    return character if character.isprintable() else ""


def _has(character: str) -> bool:
    if " " <= character <= "~":
        return True
    return bytes(font(20).getmask(character)) != _empty_box()


@cache
def _empty_box() -> bytes:
    return bytes(font(20).getmask(MISSING))


@lru_cache(4096)
def width(text: str, size: int) -> float:
    """Of plain text, in pixels."""
    return font(size).getlength(text)


@lru_cache(4096)
def shortened(text: str, size: int, room: float) -> str:
    """Plain text that is at most `room` pixels wide: of a longer one its two ends, with an ellipsis between."""
    text = plain(text[:2000])
    if width(text, size) <= room:
        return text
    keep, fail = 0, len(text)  # the largest number of characters that fits, by bisection
    while fail - keep > 1:
        middle = (keep + fail) // 2
        if width(_ends(text, middle), size) <= room:
            keep = middle
        else:
            fail = middle
    return _ends(text, keep) if keep or width(ELLIPSIS, size) <= room else ""


def _ends(text: str, keep: int) -> str:
    tail = keep // 2
    return text[: keep - tail].rstrip() + ELLIPSIS + (text[-tail:].lstrip() if tail else "")
