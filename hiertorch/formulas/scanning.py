"""A formula's text letter by letter: what stands inside and outside of brackets and quotes."""

import re
from collections.abc import Iterator

from hiertorch.errors import ModelError

OPEN, CLOSED = "([{", ")]}"
QUOTES = "\"'`"


def check_brackets(whole: str) -> None:
    """Raises a ModelError for a bracket or quote that has no other."""
    waiting, quote = list[str](), ""
    for letter in whole:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        elif letter in OPEN:
            waiting.append(CLOSED[OPEN.index(letter)])
        elif letter in CLOSED and (not waiting or waiting.pop() != letter):
            raise ModelError(f"the formula {whole!r} has a {letter!r} that closes nothing.")
    if quote or waiting:
        raise ModelError(f"the formula {whole!r} lacks a {quote or waiting[-1]!r}.")


def letters(text: str) -> Iterator[tuple[int, str, bool]]:
    """Place, letter, and whether it stands outside of brackets and quotes."""
    depth, quote = 0, ""
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
            yield at, letter, False
            continue
        if letter in QUOTES:
            quote = letter
        depth -= letter in CLOSED
        yield at, letter, depth == 0 and letter not in QUOTES
        depth += letter in OPEN


def split(text: str, by: str) -> list[str]:
    """Parts between letters that stand outside of brackets and quotes."""
    cuts = [at for at, letter, outside in letters(text) if outside and letter == by]
    return [text[start:stop] for start, stop in zip([0, *(at + 1 for at in cuts)], [*cuts, len(text)], strict=True)]


def signed_terms(text: str) -> Iterator[tuple[str, str]]:
    """Signs and terms of a sum."""
    sign, start = "+", 0
    first = True
    for at, letter, outside in [*letters(text), (len(text), "+", True)]:
        if not outside or letter not in "+-":
            continue
        term = text[start:at].strip()
        if term or not first:
            yield sign, term
        sign, start, first = letter, at + 1, False


def inside_of(term: str, name: str) -> str | None:
    """What stands in the brackets of a term that is a call of this name as a whole, or brackets alone."""
    term = term.strip()
    if not (term.startswith(f"{name}(") and term.endswith(")")):
        return None
    inner = term[len(name) + 1 : -1]
    depth = 0
    for letter in bare(inner):
        depth += (letter in OPEN) - (letter in CLOSED)
        if depth < 0:
            return None
    return inner


def bare(text: str) -> str:
    """Without what is quoted."""
    return re.sub(r"\"[^\"]*\"|'[^']*'|`[^`]*`", lambda found: "x" * len(found.group()), text)


def outside(text: str) -> str:
    """With blanks in place of what stands in brackets and quotes."""
    return "".join(letter if alone else " " for _, letter, alone in letters(text))


def uncalled(text: str) -> str:
    """What stands in no call's brackets."""
    found, calls, before = "", list[bool](), ""
    for letter in bare(text):
        if letter in CLOSED:
            calls.pop()
        found += "" if any(calls) else letter
        if letter in OPEN:
            calls.append(letter == "{" or before.isalnum() or before in ("_", "."))
        before = letter
    return found
