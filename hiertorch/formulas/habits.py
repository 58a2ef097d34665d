"""What users of R and of other packages write, and what is written here."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

from hiertorch.errors import ModelError, OptionError

SPELLINGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\^", "**"),
    (r"\b(?:as\.factor|as\.ordered|as\.character|ordered)\(", "factor("),
    (r"\bfactor\(\s*([^\W\d_][\w.]*)\s*\)", r"C(\1)"),
    (r"\bnp\.pi\b", "pi"),
    (r"\bnp\.(mean|median|std|min|max|sum|quantile)\(", r"\1("),
    (r"\bTRUE\b|(?<==)\s*T\b(?!\()", "True"),
    (r"\bFALSE\b|(?<==)\s*F\b(?!\()", "False"),
    (r"\bBoundary\.knots\b", "ends"),
    (r"\b(include|na|length)\.(lowest|rm|out)\b(?=\s*=)", r"\1_\2"),
    (r"([^\W\d_][\w.]*)\s*%in%\s*c\(", r"one_of(\1, "),
    (r"([^\W\d_][\w.]*)\s*%in%\s*([^\W\d_][\w.]*)(?!\s*[\w.(])", r"\1:\2"),
    (r"(?<![\w.])(\d+)L\b", r"\1"),
    (r"(?<![\w.])(\d+)\.(?![\w.])", r"\1.0"),
    (r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)\b", lambda found: f"{Decimal(found.group()):f}"),
    (r"\bcontr\.(sum|helmert|poly|treatment)\(\s*\d+\s*\)", r"contr.\1"),
    (r"\bcontr\.sum\b", "Sum"),
    (r"\bcontr\.helmert\b", "Helmert"),
    (r"\bcontr\.poly\b", "Poly"),
    (r"\bcontr\.treatment\b", "Treatment"),
)
"""Of R, and what Python and `formulae` say instead."""

RESPONSE = re.compile(
    r"\s*(?:C|factor)\(\s*(?P<name>[\w.]+|`[^`]+`)\s*(?:,\s*(?:levels\s*=\s*)?c\((?P<levels>[^()]*)\)\s*)?"
    r"(?:,\s*ordered\s*=\s*\w+\s*)?\)"
)

OPTIONS = {
    "random": 'groups\' effects are terms of the formula, "y ~ x + (1 | g)"',
    "groups": 'groups\' effects are terms of the formula, "y ~ x + (1 | g)"',
    "re_formula": 'groups\' effects are terms of the formula, "y ~ x + (1 | g)"',
    "weights": 'write "y | weights(w) ~ ..." with a column w',
    "offset": 'it is a term of the formula, "y ~ x + offset(log(t))"',
    "subset": "give the rows of the frame that you want",
    "prior": 'write priors={"beta[x]": "Normal(0, 1)"}',
    "iter": "write draws= and warmup=",
    "tune": "write warmup=",
    "burnin": "write warmup=",
    "nitt": "write draws=",
    "cores": "chains run side by side; write chains=",
    "ziformula": 'write zi="~ x" with a family such as "zero_inflated_poisson"',
    "dispformula": 'write the parameter of the family, such as sigma="~ x" or phi="~ x"',
    "correlation": "rows are independent given the effects of groups",
    "link": "give a family as an object, such as ht.families.Bernoulli(link=ht.families.PROBIT)",
    "REML": "all parameters have priors and are integrated over",
    "control": "write chains=, warmup=, draws=",
    "nAGQ": "all effects are sampled",
    "contrasts": "write C(f, Sum) in the formula",
    "na_action": 'write na="drop"',
    "dropna": 'write na="drop"',
    "missing": 'write na="drop"',
    "random_seed": "write seed=",
}
"""Option of other packages -> what does it here."""

FAMILIES = {
    "normal": "gaussian",
    "student": "student_t",
    "t": "student_t",
    "negbinomial": "negative_binomial",
    "negativebinomial": "negative_binomial",
    "nbinom": "negative_binomial",
    "nbinom1": "negative_binomial_1",
    "nbinom2": "negative_binomial",
    "nb": "negative_binomial",
    "logistic": "bernoulli",
    "logit": "bernoulli",
    "binary": "bernoulli",
    "betabinomial": "beta_binomial",
    "beta_family": "beta",
    "ordinal": "cumulative",
    "ordered": "cumulative",
    "zip": "zero_inflated_poisson",
    "zinb": "zero_inflated_negative_binomial",
    "wald": "inverse_gaussian",
    "inverse.gaussian": "inverse_gaussian",
    "multinomial": "categorical",
    "quasipoisson": "negative_binomial",
    "quasibinomial": "beta_binomial",
}
"""Family of other packages -> its name here."""


def spelt(text: str) -> str:
    """R's spelling as Python's, but for what is quoted."""
    pieces = re.split(r"(\"[^\"]*\"|'[^']*'|`[^`]*`)", text)
    for k in range(0, len(pieces), 2):
        for pattern, instead in SPELLINGS:
            pieces[k] = re.sub(pattern, instead, pieces[k])
    return "".join(pieces)


def tidied(text: str) -> str:
    """A formula on one line, with names in backticks and numbers in digits."""
    text = re.sub(r"\bQ\(\s*(['\"])(.*?)\1\s*\)", r"`\2`", " ".join(text.split())).replace("\u223c", "~")
    return text


def response_levels(left: str) -> tuple[str, tuple[object, ...]]:
    """A response factor(y) as y, which is all that a family of categories asks for, and its levels if they are told, as
    in factor(y, levels = c("low", "high")).
    """
    match = RESPONSE.match(left)
    if match is None:
        return left, ()
    levels = ast.literal_eval(f"[{match['levels']}]") if match["levels"] else []
    return f"{match['name']} {left[match.end() :]}".strip(), tuple(levels)


def check_priors(priors: object) -> None:
    """Raises a ModelError for priors that are no mapping."""
    if priors is not None and not isinstance(priors, Mapping):
        raise ModelError(f'priors are a mapping of names, {{"beta[x]": "Normal(0, 1)"}}; found {priors!r}.')


def check_options(given: Iterable[str]) -> None:
    """Raises an OptionError for options of other packages, with what does it here."""
    for name in given:
        if (instead := OPTIONS.get(name.replace(".", "_"))) is not None:
            raise OptionError(f"there is no option {name}=: {instead}.")
