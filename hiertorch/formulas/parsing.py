"""A formula's text in parts: response, what is told of its rows, common terms, offsets, and groups' effects.

    y | trials(n) + weights(w) ~ x * f + offset(log(t)) + (x | school) + (1 | district/school) + (z || ward)

Terms are separated here, with R's spelling made Python's; what each of them means is `formulae`'s to say
(`hiertorch.formulas.encoding`). An error quotes the place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hiertorch.errors import ModelError
from hiertorch.formulas.habits import response_levels, spelt, tidied
from hiertorch.formulas.scanning import bare, check_brackets, inside_of, outside, signed_terms, split, uncalled
from hiertorch.wording import listed

TOLD: dict[str, tuple[str, ...]] = {
    "trials": ("trials",),
    "weights": ("weights",),
    "se": ("se",),
    "rate": ("rate",),
    "cens": ("cens", "y2"),
    "trunc": ("lb", "ub"),
}
"""What may be told of rows behind the response: numbers of trials, row weights, standard errors, exposures, codes of
censored rows with their upper ends, and ends beyond which no row is seen; by the names of arguments.
"""

NONE = ("NULL", "NA", "None", "Inf", "-Inf", "inf", "-inf")
"""Of an argument, the same as to leave it out."""

LATER = {
    "mvbind": "several responses at once",
    "gr": "options of groupings",
    "s": "smooth terms",
    "t2": "smooth terms",
    "te": "smooth terms",
    "gp": "Gaussian processes",
    "mo": "monotonic effects",
    "monotonic": "monotonic effects",
    "me": "predictors with measurement error",
    "mi": "missing values as latents",
    "mm": "several memberships",
    "ar": "autoregressive rows",
    "arma": "autoregressive rows",
    "car": "spatial effects",
    "sar": "spatial effects",
    "ti": "smooth terms",
    "hsgp": "Gaussian processes",
    "ma": "autoregressive rows",
    "ar1": "autoregressive effects",
    "ou": "autoregressive effects",
    "cosy": "correlated rows",
    "unstr": "correlated rows",
    "fcor": "correlated rows",
    "cs": "effects of compound symmetry",
    "cor_ar": "autoregressive rows",
    "toep": "Toeplitz covariances",
    "rr": "effects of reduced rank",
    "Error": "strata of an analysis of variance (write (1 | block))",
    "frailty": "frailties under that name (write (1 | id))",
    "cluster": "clusters of standard errors (write (1 | id))",
    "strata": "strata of hazards (write the column, or (1 | it))",
    "SSlogis": "predictors nonlinear in parameters",
    "Surv": "pairs of time and status (write time | cens(1 - status))",
}
"""Functions of other packages' formulas that there are none of here, and what they are for."""

INSTEAD = {
    "%in%": "; for a %in% b write a:b",
    "$": "; columns are called by their name alone",
    ".": "; name the columns",
    "&": "; for an interaction write a:b or a * b, and for both of two conditions (a > 0) * (b > 0) in I()",
    "%%": "; write np.mod(a, b)",
    "%*%": "; write I(a * b)",
    "%/%": "; write floor(a / b)",
    "[": "; columns are called by their name alone",
}
"""Of R, and what is written here."""

A_FORMULA = 'a formula is text such as "y ~ x + (x | school)"'

NAME = re.compile(r"[^\W\d_][\w.]*|`[^`]+`")

CONDITION = re.compile(r"[<>]|[=!]=")

HINTS = {
    "IDENTIFIER": "; a name with blanks stands in backticks, `a b`",
    "_": "; a name that begins so stands in backticks, `_x`",
}
"""Behind what can't be read."""

CALLED = re.compile(r"`[^`]+`|(?<![\w.])[^\W\d_][\w.]*(?![\w.]|\s*\(|\s*=(?!=))")
"""A name that is no function's and no option's."""

STRUCTURES = {"us": True, "diag": False}
"""glmmTMB's word before (effects | groups) -> whether they are correlated."""


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
        told: argument of what is told of rows -> its expression, see `TOLD`.
        terms: parameter of the rows -> the terms of its predictor; "" is that of their mean.
        levels: of a response factor(y, levels = c(...)), in order.
    """

    text: str
    response: str
    told: Mapping[str, str]
    terms: Mapping[str, Terms]
    levels: tuple[object, ...] = ()


def parse(text: object, parameters: Mapping[str, object] | None = None, *, response: bool = True) -> Parts:
    """A formula in parts, with those of the rows' other parameters, such as sigma="~ z + (1 | school)"; with
    `response=False` it may have none.

    Raises:
        ModelError: for what is no formula, or none that is known here; it quotes the place and says what to write.
    """
    whole, left, right = _sides(text)
    left, levels = response_levels(left)
    if response and not left.strip():
        raise _wrong(whole, whole, "it has no response: write its column before the ~")
    of_rows, told = _left(whole, left) if left.strip() else ("", {})
    terms = {"": _right(whole, right)}
    for name, given in (parameters or {}).items():
        own, before, behind = _sides(given, f'{name}= is the formula of a predictor, such as "~ z + (1 | school)"')
        if before.strip() not in ("", name):
            raise _wrong(own, own, f"the formula of {name} has no response: begin it with ~")
        terms[name] = _right(own, behind)
    said = [whole, *(f"{name} ~ {' '.join(str(given).split()).partition('~')[2].strip()}"
                     for name, given in (parameters or {}).items())]  # fmt: skip
    return Parts("; ".join(said), of_rows, told, terms, levels)


def check_formula(text: object) -> None:
    """Raises a ModelError for what is no formula at all, before a frame is read."""
    _sides(text)


def _sides(text: object, what: str | None = None) -> tuple[str, str, str]:
    """A formula, what stands before its ~, and what behind; `what` it is, if not that of the mean."""
    if not isinstance(text, str) or not text.strip():
        found = repr(text) if isinstance(text, str | int | float | None) else f"a {type(text).__name__}"
        raise ModelError(f"{what or A_FORMULA}; found {found}.")
    whole = tidied(text)
    check_brackets(whole)
    left, *rights = split(spelt(whole), "~")
    if call := re.match(r"(bf|brmsformula|Formula)\(", whole):
        raise ModelError(
            f"{call[1]}() is not known here: give the formula of the mean alone, and those of other parameters as "
            f'arguments, sigma="~ x"; found {whole!r}.'
        )
    if what is not None and len(rights) != 1:
        raise ModelError(f"{what}; found {whole!r}.")
    if len(rights) != 1 or not rights[0].strip():
        raise ModelError(f'a formula has a response, "~" and terms, such as "y ~ x + (x | school)"; found {whole!r}.')
    return whole, left, rights[0]


def _right(whole: str, right: str) -> Terms:
    """Common terms, offsets, and groups' effects."""
    common, offsets, bars = list[str](), list[str](), list[Bar]()
    for sign, term in signed_terms(right):
        if not term:
            raise _wrong(whole, right, "a + or - has no term behind it")
        _check_known(whole, term)
        if "[" in bare(term):
            raise _wrong(whole, term, f"'[' is not known here{INSTEAD['[']}")
        inside = inside_of(term, "")
        if inside is not None and _is_bar(inside):
            if sign == "-":
                raise _wrong(whole, f"- {term}", "groups' effects can't be taken away: leave the term out")
            bars.append(_bar(whole, term, inside))
        elif (own := next((name for name in STRUCTURES if _is_bar(inside_of(term, name))), None)) is not None:
            bar = _bar(whole, term, str(inside_of(term, own)))
            bars.append(replace(bar, correlated=STRUCTURES[own]))
        elif (offset := inside_of(term, "offset")) is not None:
            if sign == "-":
                raise _wrong(whole, f"- {term}", "an offset is added: write offset(-(...))")
            if len(split(offset, ",")) > 1:
                raise _wrong(whole, term, "an offset is one expression: write offset(a) + offset(b)")
            offsets.append(offset)
        elif "|" in bare(term):
            raise _wrong(whole, term, "groups' effects are a term of their own in brackets, as in + (x | school)")
        else:
            common += [f"{sign} {part}" for part in _nested(whole, term)]
    terms = " ".join(common).removeprefix("+ ") or "1"
    check_terms(whole, terms)
    return Terms(terms, tuple(offsets), tuple(bars))


def check_terms(whole: str, terms: str) -> None:
    """Raises a ModelError for terms that `formulae` can't read to their end."""
    from formulae.parser import ParseError, Parser  # late, since it takes half a second
    from formulae.scanner import ScanError, Scanner

    if power := re.search(r"[^\W\d_][\w.]*\s*\*\*\s*[\w.]+", outside(terms)):
        name, _, exponent = power.group().partition("**")
        said = f"{name.strip()}^{exponent.strip()}"
        raise _wrong(whole, said, f"a power of one column is that column alone, as in R: write I({said})")
    try:
        parser = Parser(Scanner(terms).scan())
        parser.parse()
        if not parser.at_end():
            raise ParseError(f"it can't be read from {parser.peek().lexeme!r} on{HINTS.get(parser.peek().kind, '')}")
    except (ParseError, ScanError, IndexError, AttributeError) as error:
        why = f"{error}".rstrip(".") or "it can't be read"
        raise _wrong(whole, terms, f"{why}{HINTS['_'] if why.endswith(': _') else ''}") from error


def names_in(text: str) -> set[str]:
    """What an expression calls by name, but for functions and their options: columns."""
    return {name.strip("`") for name in CALLED.findall(re.sub(r"\"[^\"]*\"|'[^']*'", "", text))}


def _wrong(whole: str, place: str, why: str) -> ModelError:
    return ModelError(f"in the formula {whole!r}, at {place.strip()!r}: {why}.")


def _left(whole: str, left: str) -> tuple[str, dict[str, str]]:
    """The response, and what is told of its rows."""
    response, *behind = split(left, "|")
    if len(behind) > 1:
        raise _wrong(whole, left, "what is told of rows stands behind one |, as in y | trials(n) + weights(w)")
    _check_known(whole, response)
    if not response.strip():
        raise _wrong(whole, left, "there is no response before the |")
    if inside_of(response, "c") is not None:
        raise _wrong(whole, response, "there are no several responses at once in formulas; write one, or cbind(a, b)")
    told: dict[str, str] = {}
    for sign, term in signed_terms("+".join(split(behind[0], ","))) if behind else ():
        _check_known(whole, term)
        name = next((name for name in TOLD if inside_of(term, name) is not None), None)
        if name is None or sign == "-":
            calls = listed(f"{one}(column)" for one in TOLD)
            raise _wrong(whole, term or left, f"behind the | of a response stand {calls}, with a + between two")
        arguments = _arguments(whole, term, name)
        if arguments.keys() & told.keys():
            raise _wrong(whole, term, f"{name}() is told twice")
        told |= arguments
    return response.strip(), told


def _arguments(whole: str, term: str, name: str) -> dict[str, str]:
    """What a call tells, by the names of its arguments: in their order, or name = expression."""
    found, left = dict[str, str](), list(TOLD[name])
    for given in split(str(inside_of(term, name)), ","):
        key, equals, text = given.partition("=")
        if not equals or text.startswith("=") or not key.strip().isidentifier():
            key, text = left[0] if left else "", given
        if key.strip() not in left:
            raise _wrong(whole, term, f"{name}() takes {listed(TOLD[name])}")
        left.remove(key.strip())
        if text.strip() not in (*NONE, ""):
            found[key.strip()] = text.strip()
    if not found or (name == "cens" and name not in found):
        raise _wrong(whole, term, f"{name}() takes {listed(TOLD[name])}, and nothing is told")
    return found


def _bar(whole: str, term: str, inside: str) -> Bar:
    """A term (effects | groups)."""
    effects, *behind = (part.strip() for part in split(inside, "|"))
    correlated, shared = True, ""
    if len(behind) == 2 and not behind[0]:  # ||
        correlated, behind = False, behind[1:]
    elif len(behind) == 2 and behind[0].isidentifier():  # |i|
        shared, behind = behind[0], behind[1:]
    if len(behind) != 1:
        raise _wrong(whole, term, "groups' effects are (effects | grouping), or || where they are not correlated")
    if not effects or not behind[0]:
        raise _wrong(whole, term, "groups' effects are (effects | grouping), as in (1 | school) or (x | school)")
    signed = [(sign, part) for sign, whole_term in signed_terms(effects) for part in _nested(whole, whole_term)]
    effects = " ".join(f"{sign} {part}" for sign, part in signed).removeprefix("+ ")
    check_terms(whole, effects)
    groupings = list[tuple[str, ...]]()
    crossed = re.sub(r"\binteraction\(\s*([\w.]+)\s*,\s*([\w.]+)\s*\)", r"\1:\2", behind[0])
    for part in split(crossed, "/"):
        columns = tuple(_column(whole, term, name) for name in split(part, ":"))
        groupings.append((*(groupings[-1] if groupings else ()), *columns))
    return Bar(term, effects, tuple(groupings), correlated, shared)


def _is_bar(inside: str | None) -> bool:
    return inside is not None and len(split(inside, "|")) > 1


def _nested(whole: str, term: str) -> list[str]:
    """Of a/b the terms a and a:b, and the term itself if it is no such thing."""
    flat = outside(term)
    if number := re.search(r"(?<![\w.*])[\d.]+ *[*:/](?!\*)|(?<!\*)[*:/] *[\d.]+(?![\w.])", flat):
        raise _wrong(whole, term, f"a number multiplies no term ({number.group().strip()}): write I({term.strip()})")
    if CONDITION.search(uncalled(term)):
        raise _wrong(whole, term, "a condition is a column of 0 and 1 in I(), as in I(x > 0)")
    parts = [part.strip() for part in split(term, "/")]
    if len(parts) == 1:
        return [term]
    if sums := [part for part in parts if not part or inside_of(part, "") is not None]:
        raise _wrong(whole, term, f"a/b is a + a:b of two columns; found {sums[0]!r}: write the sum out")
    return [":".join(parts[: k + 1]) for k in range(len(parts))]


def _column(whole: str, term: str, text: str) -> str:
    """The name of a grouping's column."""
    name = text.strip()
    inside = inside_of(name, "C")
    name = name if inside is None else inside.strip()  # factor(g)
    if not NAME.fullmatch(name):
        parts = [part.strip() for part in re.split(r"[+*]", name)]
        apart = " + ".join(f"(1 | {part})" for part in parts) + (f" + (1 | {':'.join(parts)})" if "*" in name else "")
        more = f": write {apart}" if len(parts) > 1 and all(map(NAME.fullmatch, parts)) else ""
        raise _wrong(whole, term, f"a grouping is a column, a:b or a/b; found {text.strip()!r}{more}")
    return name.strip("`")


def _check_known(whole: str, term: str) -> None:
    for name in re.findall(r"([\w.]+)\s*\(", bare(term)):
        if name in LATER:
            raise _wrong(whole, term, f"{name}() is not known here: there are no {LATER[name]} in formulas")
    if found := re.search(r"%[\w/*]*%|&&?|<-|\$|(?<![\w.])\.(?![\w.])", bare(term)):
        raise _wrong(whole, term, f"{found.group()!r} is not known here{INSTEAD.get(found.group(), '')}")
