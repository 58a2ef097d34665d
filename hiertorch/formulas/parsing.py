"""A formula's text in parts: response, what is told of its rows, common terms, offsets, and groups' effects.

    y | trials(n) + weights(w) ~ x * f + offset(log(t)) + (x | school) + (1 | district/school) + (z || ward)

Terms are separated here, with R's spelling made Python's; what each of them means is `formulae`'s to say
(`hiertorch.formulas.encoding`). An error quotes the place.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hiertorch.errors import ModelError
from hiertorch.wording import listed

OPEN, CLOSED = "([{", ")]}"
QUOTES = "\"'`"

TOLD = ("trials", "weights", "se", "rate")
"""What may be told of rows behind the response: numbers of trials, row weights, standard errors, exposures."""

LATER = {
    "cens": "censored rows",
    "trunc": "truncated rows",
    "mvbind": "several responses at once",
    "s": "smooth terms",
    "t2": "smooth terms",
    "te": "smooth terms",
    "gp": "Gaussian processes",
    "mo": "monotonic effects",
    "me": "predictors with measurement error",
    "mi": "missing values as latents",
    "mm": "several memberships",
    "ar": "autoregressive rows",
    "arma": "autoregressive rows",
    "car": "spatial effects",
    "sar": "spatial effects",
}
"""Functions of other packages' formulas that there are none of here, and what they are for."""

INSTEAD = {
    "%in%": "; for a %in% b write a:b",
    "$": "; columns are called by their name alone",
    ".": "; name the columns",
    "&": "; for an interaction write a:b or a * b",
}
"""Of R, and what is written here."""

SPELLINGS = (
    (r"\^", "**"),
    (r"\b(?:as\.)?factor\(", "C("),
    (r"\brelevel\(", "T("),
    (r"\bnp\.pi\b", "pi"),
    (r"\bTRUE\b", "True"),
    (r"\bFALSE\b", "False"),
)
"""Of R, and what Python and `formulae` say instead."""

NAME = re.compile(r"[^\W\d_][\w.]*|`[^`]+`")


@dataclass(frozen=True)
class Bar:
    """(effects | groups): effects that vary over each of some groupings.

    Attributes:
        text: as it was written.
        effects: the terms on the left, such as "1 + x".
        groupings: the columns of each grouping; of a/b there are two, (a,) and (a, b).
        correlated: whether a group's effects are, which || says they are not.
        shared: i of (effects |i| groups), by which effects of several predictors are correlated; "" without.
    """

    text: str
    effects: str
    groupings: tuple[tuple[str, ...], ...]
    correlated: bool
    shared: str = ""


@dataclass(frozen=True)
class Terms:
    """The right side of a formula, in the order in which it was written.

    Attributes:
        common: the terms that all rows share.
        offsets: expressions that are added to the linear predictor.
        bars: groups' effects.
    """

    common: str
    offsets: tuple[str, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Parts:
    """A formula's parts.

    Attributes:
        text: the whole.
        response: the expression on the left.
        told: what is told of rows -> its expression, see `TOLD`.
        terms: parameter of the rows -> the terms of its predictor; "" is that of their mean.
    """

    text: str
    response: str
    told: Mapping[str, str]
    terms: Mapping[str, Terms]


def parse(text: object, parameters: Mapping[str, object] | None = None) -> Parts:
    """A formula in parts, with those of the rows' other parameters, such as sigma="~ z + (1 | school)".

    Raises:
        ModelError: for what is no formula, or none that is known here; it quotes the place and says what to write.
    """
    whole, left, right = _sides(text, 'a formula is text such as "y ~ x + (x | school)"')
    if not left.strip():
        raise _wrong(whole, whole, "it has no response: write its column before the ~")
    response, told = _left(whole, left)
    terms = {"": _right(whole, right)}
    for name, given in (parameters or {}).items():
        own, before, behind = _sides(given, f'{name}= is the formula of a predictor, such as "~ z + (1 | school)"')
        if before.strip() not in ("", name):
            raise _wrong(own, own, f"the formula of {name} has no response: begin it with ~")
        terms[name] = _right(own, behind)
    said = [whole, *(f"{name} ~ {' '.join(str(given).split()).partition('~')[2].strip()}"
                     for name, given in (parameters or {}).items())]  # fmt: skip
    return Parts("; ".join(said), response, told, terms)


def _sides(text: object, what: str) -> tuple[str, str, str]:
    """A formula, what stands before its ~, and what behind."""
    if not isinstance(text, str) or not text.strip():
        raise ModelError(f"{what}; found {text!r}.")
    whole = " ".join(text.split())
    _check_brackets(whole)
    left, *rights = _split(spelt(whole), "~")
    if len(rights) != 1 or not rights[0].strip():
        raise ModelError(f'a formula has a response, "~" and terms, such as "y ~ x + (x | school)"; found {whole!r}.')
    return whole, left, rights[0]


def _right(whole: str, right: str) -> Terms:
    """Common terms, offsets, and groups' effects."""
    common, offsets, bars = list[str](), list[str](), list[Bar]()
    for sign, term in _terms(right):
        if not term:
            raise _wrong(whole, right, "a + or - has no term behind it")
        _check_known(whole, term)
        inside = _inside(term, "")
        if inside is not None and len(_split(inside, "|")) > 1:
            if sign == "-":
                raise _wrong(whole, f"- {term}", "groups' effects can't be taken away: leave the term out")
            bars.append(_bar(whole, term, inside))
        elif (offset := _inside(term, "offset")) is not None:
            if sign == "-":
                raise _wrong(whole, f"- {term}", "an offset is added: write offset(-(...))")
            offsets.append(offset)
        elif "|" in _bare(term):
            raise _wrong(whole, term, "groups' effects are a term of their own in brackets, as in + (x | school)")
        else:
            common += [f"{sign} {part}" for part in _nested(whole, term)]
    terms = " ".join(common).removeprefix("+ ") or "1"
    check_terms(whole, terms)
    return Terms(terms, tuple(offsets), tuple(bars))


def spelt(text: str) -> str:
    """R's spelling as Python's, but for what is quoted."""
    pieces = re.split(r"(\"[^\"]*\"|'[^']*'|`[^`]*`)", text)
    for k in range(0, len(pieces), 2):
        for pattern, instead in SPELLINGS:
            pieces[k] = re.sub(pattern, instead, pieces[k])
    return "".join(pieces)


def check_terms(whole: str, terms: str) -> None:
    """Raises a ModelError for terms that `formulae` can't read to their end."""
    from formulae.parser import ParseError, Parser  # late, since it takes half a second
    from formulae.scanner import ScanError, Scanner

    try:
        parser = Parser(Scanner(terms).scan())
        parser.parse()
        if not parser.at_end():
            raise ParseError(f"it can't be read from {parser.peek().lexeme!r} on")
    except (ParseError, ScanError, IndexError, AttributeError) as error:
        raise _wrong(whole, terms, f"{error}".rstrip(".") or "it can't be read") from error


def names_in(text: str) -> set[str]:
    """What an expression calls by name: columns, functions, and what belongs to them."""
    return {name.strip("`") for name in NAME.findall(re.sub(r"\"[^\"]*\"|'[^']*'", "", text))}


def _wrong(whole: str, place: str, why: str) -> ModelError:
    return ModelError(f"in the formula {whole!r}, at {place.strip()!r}: {why}.")


def _left(whole: str, left: str) -> tuple[str, dict[str, str]]:
    """The response, and what is told of its rows."""
    response, *behind = _split(left, "|")
    if len(behind) > 1:
        raise _wrong(whole, left, "what is told of rows stands behind one |, as in y | trials(n) + weights(w)")
    _check_known(whole, response)
    if not response.strip():
        raise _wrong(whole, left, "there is no response before the |")
    told: dict[str, str] = {}
    for sign, term in _terms(behind[0].replace(",", "+")) if behind else ():
        _check_known(whole, term)
        name = next((name for name in TOLD if _inside(term, name) is not None), None)
        if name is None or sign == "-":
            calls = listed(f"{one}(column)" for one in TOLD)
            raise _wrong(whole, term or left, f"behind the | of a response stand {calls}, with a + between two")
        if name in told:
            raise _wrong(whole, term, f"{name}() is told twice")
        told[name] = str(_inside(term, name))
    return response.strip(), told


def _bar(whole: str, term: str, inside: str) -> Bar:
    """A term (effects | groups)."""
    effects, *behind = (part.strip() for part in _split(inside, "|"))
    correlated, shared = True, ""
    if len(behind) == 2 and not behind[0]:  # ||
        correlated, behind = False, behind[1:]
    elif len(behind) == 2 and behind[0].isidentifier():  # |i|
        shared, behind = behind[0], behind[1:]
    if len(behind) != 1:
        raise _wrong(whole, term, "groups' effects are (effects | grouping), or || where they are not correlated")
    if not effects or not behind[0]:
        raise _wrong(whole, term, "groups' effects are (effects | grouping), as in (1 | school) or (x | school)")
    signed = [(sign, part) for sign, whole_term in _terms(effects) for part in _nested(whole, whole_term)]
    effects = " ".join(f"{sign} {part}" for sign, part in signed).removeprefix("+ ")
    check_terms(whole, effects)
    groupings = list[tuple[str, ...]]()
    for part in _split(behind[0], "/"):
        columns = tuple(_column(whole, term, name) for name in _split(part, ":"))
        groupings.append((*(groupings[-1] if groupings else ()), *columns))
    return Bar(term, effects, tuple(groupings), correlated, shared)


def _nested(whole: str, term: str) -> list[str]:
    """Of a/b the terms a and a:b, and the term itself if it is no such thing."""
    parts = [part.strip() for part in _split(term, "/")]
    if len(parts) == 1:
        return [term]
    if sums := [part for part in parts if not part or _inside(part, "") is not None]:
        raise _wrong(whole, term, f"a/b is a + a:b of two columns; found {sums[0]!r}: write the sum out")
    return [":".join(parts[: k + 1]) for k in range(len(parts))]


def _column(whole: str, term: str, text: str) -> str:
    """The name of a grouping's column."""
    name = text.strip()
    inside = _inside(name, "C")
    name = name if inside is None else inside.strip()  # factor(g)
    if not NAME.fullmatch(name):
        raise _wrong(whole, term, f"a grouping is a column, a:b or a/b; found {text.strip()!r}")
    return name.strip("`")


def _check_known(whole: str, term: str) -> None:
    for name in re.findall(r"([\w.]+)\s*\(", _bare(term)):
        if name in LATER:
            raise _wrong(whole, term, f"{name}() is not known here: there are no {LATER[name]} in formulas")
    if found := re.search(r"%\w*%|&&?|<-|\$|(?<![\w.])\.(?![\w.])", _bare(term)):
        raise _wrong(whole, term, f"{found.group()!r} is not known here{INSTEAD.get(found.group(), '')}")


def _check_brackets(whole: str) -> None:
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


def _letters(text: str) -> Iterator[tuple[int, str, bool]]:
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


def _split(text: str, by: str) -> list[str]:
    """Parts between letters that stand outside of brackets and quotes."""
    cuts = [at for at, letter, outside in _letters(text) if outside and letter == by]
    return [text[start:stop] for start, stop in zip([0, *(at + 1 for at in cuts)], [*cuts, len(text)], strict=True)]


def _terms(text: str) -> Iterator[tuple[str, str]]:
    """Signs and terms of a sum."""
    sign, start = "+", 0
    first = True
    for at, letter, outside in [*_letters(text), (len(text), "+", True)]:
        if not outside or letter not in "+-":
            continue
        term = text[start:at].strip()
        if term or not first:
            yield sign, term
        sign, start, first = letter, at + 1, False


def _inside(term: str, name: str) -> str | None:
    """What stands in the brackets of a term that is a call of this name as a whole, or brackets alone."""
    term = term.strip()
    if not (term.startswith(f"{name}(") and term.endswith(")")):
        return None
    inner = term[len(name) + 1 : -1]
    depth = 0
    for letter in _bare(inner):
        depth += (letter in OPEN) - (letter in CLOSED)
        if depth < 0:
            return None
    return inner


def _bare(text: str) -> str:
    """Without what is quoted."""
    return re.sub(r"\"[^\"]*\"|'[^']*'|`[^`]*`", lambda found: "x" * len(found.group()), text)
