"""Priors entry by entry: "beta[SES]" in place of what the rest of beta has."""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent, LKJCholesky, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.copies import prior_text
from hiertorch.model.distributions import EntryWise, HalfStudentT
from hiertorch.model.drawing import broadcasts
from hiertorch.model.latent import Latent, Values
from hiertorch.wording import closest, listed

KEY = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<entry>.+)\])?")

LKJ = re.compile(
    r"\s*LKJ(?:Cholesky\(\s*(?:dim\s*=\s*)?(?P<dim>\d+)\s*,|\()\s*(?:(?:eta|concentration)\s*=\s*)?(?P<c>[\d.]+)\s*\)\s*",
    re.IGNORECASE,
)
"""The prior of correlations as text, LKJ(2), whose size the model says, or LKJCholesky(size, 2)."""

SHRINKING = re.compile(r"\s*(?P<kind>horseshoe|r2d2)\b", re.IGNORECASE)
"""The names of priors that shrink many coefficients together, as text."""


@dataclass(frozen=True, eq=False)
class WithEntries:
    """The prior of a vector, some of whose entries have one of their own.

    Attributes:
        others: of the vector, or of each of its entries.
        own: number of an entry -> its prior.
        size: how many entries there are.
    """

    others: Distribution | Callable[..., Distribution]
    own: Mapping[int, Distribution]
    size: int

    def __call__(self, v: Values, data: Data) -> Distribution:
        """Independent over the entries."""
        made: Any = self.others if isinstance(self.others, Distribution) else self.others(v, data)
        base = made.base_dist if isinstance(made, Independent) else made
        names = list(base.arg_constraints)
        values = [torch.as_tensor(getattr(base, name)).to(data.y).expand(self.size) for name in names]
        ready = [type(base)(*(value[k] for value in values)) for k in range(self.size)]
        return stacked([self.own.get(k, one) for k, one in enumerate(ready)], data.y)


def stacked(parts: list[Distribution], like: Tensor) -> Distribution:
    """Independent entries, one of each distribution: of a vector of parameters where all are of one kind."""
    kind: Any = type(parts[0])
    names = list(parts[0].arg_constraints)
    if all(type(part) is kind for part in parts) and kind in (Normal, HalfStudentT):
        values = [torch.stack([torch.as_tensor(getattr(part, name)).to(like) for part in parts]) for name in names]
        return Independent(kind(*values), 1)
    return EntryWise(parts)


Given = dict[int | None, object]
"""Number of an entry, or None for the whole of a latent -> its prior, as a user gives it."""


def taken_apart(priors: Mapping[str, object], latents: Mapping[str, Latent], who: str) -> dict[str, Given]:
    """Latent -> what a user gives of it.

    Args:
        priors: "beta", "beta[SES]", "sigma_School[SES]", ... -> prior.
        latents: of the model.
        who: the model's class, for messages.

    Raises:
        ModelError: for a latent or an entry that there isn't.
    """
    found: dict[str, Given] = {}
    for key, prior in priors.items():
        match = None if key in latents else KEY.fullmatch(str(key))
        name, entry = (match["name"].strip(), match["entry"]) if match else (str(key), None)
        if name not in latents:
            owner = next(
                (own for own, one in latents.items() if str(key) in map(str, one.axes[0] if one.axes else ())), ""
            )
            own = f" Did you mean '{owner}[{key}]'?" if owner else closest(name, latents)
            hint = _elsewhere(str(key), latents) or own
            raise ModelError(
                f"priors names {name!r}, which {who} does not have here; its latents are {', '.join(latents)}.{hint}"
            )
        axes = latents[name].axes
        labels = [str(label) for label in axes[0]] if len(axes) == 1 else []
        if entry is not None and entry not in labels:
            known = f"its entries: {listed(labels)}.{closest(entry, labels)}" if labels else "it has no entries."
            raise ModelError(f"priors names {key!r}, and {name!r} has no entry {entry!r}; {known}")
        found.setdefault(name, {})[None if entry is None else labels.index(entry)] = prior
    return found


def _elsewhere(key: str, latents: Mapping[str, Latent]) -> str:
    """A hint at what brms, Bambi and others call b_x, Intercept, sd_g and sigma."""
    texts = {f"b_{label}": f"{name}[{label}]" for name, one in latents.items() if one.axes for label in one.axes[0]}
    texts |= {"Intercept": "mu", "b_Intercept": "mu", "sigma": "sigma_y"}
    texts |= {name.replace("sigma_", "sd_", 1): name for name in latents if name.startswith("sigma_")}
    found = texts.get(key, "")
    return f" Did you mean {found!r}?" if found.partition("[")[0] in latents else ""


def read(name: str, prior: object) -> Distribution | Callable[..., Distribution]:
    """A distribution, or a function, or text such as "Normal(0, 10)"."""
    return prior if isinstance(prior, Distribution) or callable(prior) else parsed(name, prior)


def entry(name: str, prior: object) -> Distribution:
    """The prior of one entry, a distribution of a number.

    Raises:
        ModelError: if it is none.
    """
    made = read(name, prior)
    if not isinstance(made, Distribution) or made.event_shape or made.batch_shape:
        raise ModelError(f'the prior of {name!r} is that of one number, such as "Normal(0, 1)"; found {prior!r}.')
    return made


def with_own(
    name: str, latent: Latent, given: Given, text: str
) -> tuple[Distribution | Callable[..., Distribution], str]:
    """The prior of a latent of which a user gives the whole (None), or some entries, and how it prints.

    Args:
        name: of the latent.
        latent: as it is.
        given: entry, or None for the whole -> prior.
        text: of its prior, for print.
    """
    prior = (_correlations(name, latent, given[None]) or read(name, given[None])) if None in given else latent.prior
    prior = _of_shape(name, latent, prior)
    own = {k: entry(f"{name}[{latent.axes[0][k]}]", one) for k, one in given.items() if k is not None}
    if not own:
        return prior, ""
    if isinstance(prior, Distribution) and prior.event_shape and not isinstance(prior, Independent):
        raise ModelError(f"{name!r} has one prior for all of its entries: give that alone, priors={{{name!r}: ...}}.")
    text = prior_text(prior) if isinstance(prior, Distribution) else text
    said = ", ".join(f"{prior_text(one)} for {latent.axes[0][k]}" for k, one in own.items())
    return WithEntries(prior, own, len(latent.axes[0])), f"{text}; {said}"


def _correlations(name: str, latent: Latent, prior: object) -> Distribution | None:
    """The prior of a Cholesky factor of correlations, from text; None if it is another prior.

    Raises:
        ModelError: for a latent that is none, or of another size.
    """
    match = LKJ.fullmatch(prior) if isinstance(prior, str) else None
    if match is None:
        return None
    if not isinstance(latent.prior, LKJCholesky):
        raise ModelError(f"{name!r} is no correlation, and has no prior {prior!r}.")
    size = latent.prior.event_shape[0]
    if match["dim"] not in (None, str(size)):
        raise ModelError(f'{name!r} is of {size} effects, and {prior!r} of {match["dim"]}: write "LKJ({match["c"]})".')
    return LKJCholesky(size, float(match["c"]))


def _of_shape(
    name: str, latent: Latent, prior: Distribution | Callable[..., Distribution]
) -> Distribution | Callable[..., Distribution]:
    """The prior, independent over entries where it is a vector of priors.

    Raises:
        ModelError: for a distribution of more or fewer entries than the latent has.
    """
    if not isinstance(prior, Distribution):
        return prior
    own = latent.prior.event_shape if isinstance(latent.prior, Distribution) else ()
    event = tuple(len(axis) for axis in latent.axes) or tuple(own) or tuple(latent.event)
    shape = (*prior.batch_shape, *prior.event_shape)
    if isinstance(latent.prior, LKJCholesky) and tuple(prior.event_shape) != event:
        raise ModelError(
            f"{name!r} is the Cholesky factor of correlations of {event[0]} effects, whose prior is text such as "
            f'"LKJ(2)", or LKJCholesky({event[0]}, 2.0); found {prior_text(prior)}.'
        )
    if not broadcasts(shape, event or (1,)):
        wanted = f"{' x '.join(map(str, event))}" if event else "one"
        labels = listed(latent.axes[0]) if len(latent.axes) == 1 else ""
        raise ModelError(
            f"the prior of {name!r} has {' x '.join(map(str, shape))} entries, and {name!r} has {wanted}"
            + (
                f" ({labels}): give one for each, one for all, or one for an entry, {name}[{latent.axes[0][0]}]."
                if labels
                else ": give one of that size."
            )
        )
    if not event or prior.event_shape or prior.batch_shape.numel() == 1:
        return prior
    return Independent(prior.expand(torch.Size(event)), len(event))


def parsed(name: str, text: object) -> Distribution:
    """A prior from text such as "Normal(0, 10)" or "Gamma(2, rate=0.5)": a class of `torch.distributions` and numbers.

    Raises:
        ModelError: if it is none.
    """
    if match := SHRINKING.match(str(text)):
        raise ModelError(
            f"{match['kind']} is a prior of all coefficients of a formula's predictor together, ht.formula(..., "
            f'priors={{"beta": "{match["kind"]}"}}); found it for {name!r}: give that one such as "Normal(0, 1)".'
        )
    try:
        call = ast.parse(str(text), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no call")
        kind: Any = HalfStudentT if call.func.id == "HalfStudentT" else getattr(distributions, call.func.id, None)
        if not isinstance(kind, type):
            raise ValueError(f"there is no {call.func.id}.{closest(call.func.id, distributions.__all__)}")
        arguments = [_number(part) for part in call.args]
        named_arguments = {str(part.arg): _number(part.value) for part in call.keywords}
        return kind(*arguments, **named_arguments)
    except (ValueError, AttributeError, SyntaxError, TypeError) as error:
        raise ModelError(
            f"the prior of {name!r} is a distribution, a function, or text such as 'Normal(0, 10)' with a name of "
            f"torch.distributions and numbers; found {text!r} ({error})."
        ) from error


def _number(node: ast.expr) -> float | Tensor:
    value = ast.literal_eval(node)
    if isinstance(value, str | bytes | bool):
        raise ValueError(f"{value!r} is no number")
    if isinstance(value, list):
        return torch.tensor([float(x) for x in value], dtype=torch.float64, device="cpu")
    return torch.tensor(float(value), dtype=torch.float64, device="cpu")
