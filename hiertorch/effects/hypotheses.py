"""Pr(a > b | y) of sentences on coefficients, such as "SES > 0" or "SES - 2 * Sector < 0.5".

The left side less the right side is computed in each draw; its posterior probability p of the sentence gives the odds
p / (1 - p), the evidence ratio of brms' `hypothesis`. Of an equation there is the interval of the difference alone: a
point has no probability, and a Bayes factor would be one of the priors.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from hiertorch.arguments import check_probability, names_of
from hiertorch.draws import summaries
from hiertorch.draws.fit import Fit
from hiertorch.effects.tables import coefficients
from hiertorch.errors import DataError, UnknownNameError
from hiertorch.wording import closest, listed

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt}
FUNCTIONS["abs"] = torch.abs

OPERATORS: dict[type, Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
    ast.Pow: torch.pow,
}


def hypothesis(fit: Fit, sentences: str | Sequence[str], ci_prob: float = summaries.CI_PROB) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.hypothesis`."""
    check_probability(ci_prob)
    rows = {}
    for sentence in names_of("sentences", sentences):
        known = _known(fit, sentence)
        left, sign, right = _sides(sentence, known)
        difference = (left - right).expand(fit.chains, fit.n_draws)
        row = {name: float(x) for name, x in summaries.moments(difference, ci_prob).items()}
        if sign == "=":
            row |= {"probability": math.nan, "evidence_ratio": math.nan}
        else:
            p = float((difference > 0 if sign == ">" else difference < 0).double().mean())
            row |= {"probability": p, "evidence_ratio": math.inf if p == 1 else p / (1 - p)}
        rows[sentence] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _sides(sentence: str, known: Mapping[str, Tensor]) -> tuple[Tensor, str, Tensor]:
    """Both sides by draws of the parameters that they name, and the sign between them."""
    every = sorted(known, key=len, reverse=True)
    names = "|".join(f"`{re.escape(name)}`|(?<![\\w.]){re.escape(name)}(?![\\w.([])" for name in every)
    used: list[str] = []

    def placed(match: re.Match[str]) -> str:
        used.append(match.group().strip("`"))
        return f" parameter_{len(used) - 1} "

    body = re.sub(names, placed, sentence) if names else sentence  # first, since a name such as bs(x, df=4) has a sign
    parts = re.split(r"(>=|<=|==|>|<|=)", body)
    if len(parts) != 3 or not parts[0].strip() or not parts[2].strip():
        raise DataError(
            f'a hypothesis is left > right, left < right or left = right, as in "x > 0"; found {sentence!r}.'
        )
    values = {f"parameter_{k}": known[name] for k, name in enumerate(used)}
    try:
        left, right = (
            _evaluated(ast.parse(part.replace("^", "**").strip(), mode="eval").body, values) for part in parts[::2]
        )
    except KeyError as error:
        raise UnknownNameError(
            f"{sentence!r} names {error.args[0]!r}, which is no parameter; coefficients: {listed(every[::-1])}."
            f"{closest(error.args[0], every)}"
        ) from error
    except (SyntaxError, TypeError) as error:
        raise DataError(
            f"can't read {sentence!r}: write parameters by their names, such as {listed(every[:3])}, numbers, "
            f"+ - * / ^, and {listed(FUNCTIONS)}."
        ) from error
    return left, parts[1][0], right


def _known(fit: Fit, sentence: str) -> dict[str, Tensor]:
    """Parameter -> draws `(chains, draws)`: coefficients by the names of `fixef`, all others as summaries call them."""
    found = dict[str, Tensor]()
    for name, x in fit.drawn().draws.items():
        if name in sentence:
            found |= dict(zip(fit.parameters(name), x.flatten(2).unbind(-1), strict=True))
    return found | (coefficients(fit) if fit.origin is not None else {})


def _evaluated(node: ast.expr, known: Mapping[str, Tensor]) -> Tensor:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return torch.tensor(float(node.value), dtype=torch.float64)
    if isinstance(node, ast.Name):
        return known[node.id].double().cpu()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _evaluated(node.operand, known)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluated(node.left, known), _evaluated(node.right, known))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in FUNCTIONS
        and len(node.args) == 1
    ):
        return FUNCTIONS[node.func.id](_evaluated(node.args[0], known))
    raise TypeError
