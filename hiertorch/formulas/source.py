"""The model of a formula as a class that one can read, run and change: the way from it to a model of one's own."""

import inspect
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LKJCholesky

from hiertorch.data.table import Data
from hiertorch.families import Family, Link
from hiertorch.formulas.design import Encoding
from hiertorch.formulas.predictors import Effects, Predictor, latent_of, root_of
from hiertorch.formulas.shrinkage import Written
from hiertorch.formulas.thresholds import Thresholds
from hiertorch.model import checks
from hiertorch.model.distributions import EntryWise
from hiertorch.model.model import Model
from hiertorch.model.ordering import Ordered

HEAD = """import torch
from torch import tensor
from torch.distributions import *

import hiertorch as ht
from hiertorch.model.distributions import EntryWise, HalfStudentT


class FromFormula(ht.Model):
    \"\"\"{formula}\"\"\"
"""


BLOCKS = """def blocks(*roots):
    # Roots (chains, 1, k, k) of effects that are not correlated with one another, as one.
    size = sum(root.shape[-1] for root in roots)
    whole, start = roots[0].new_zeros(*roots[0].shape[:-2], size, size), 0
    for root in roots:
        stop = start + root.shape[-1]
        whole[..., start:stop, start:stop], start = root, stop
    return whole


"""
"""For effects in several blocks."""


def source(
    model: Model,
    encoding: Encoding,
    family: Family,
    inverses: Mapping[str, Callable[[Tensor], Tensor]],
    thresholds: Thresholds | None,
    data: Data,
) -> str:
    """A class `FromFormula` with the latents, priors in numbers, and likelihood of a formula's model on these data. It
    is fitted to the same data and has the same density.

    Args:
        model: that the formula says.
        encoding: of the formula.
        family: of the rows.
        inverses: other parameter of the rows -> from its predictor to it.
        thresholds: that are made of latents, if there are any.
        data: the rows that are fitted, which the priors follow.
    """
    reads, _ = checks.inspect(model, data, prior_only=True)
    head = HEAD.format(formula=encoding.parts.text)
    if any(one.roots and one.roots[0] != slice(0, len(one.labels)) for one in encoding.effects):
        head = head.replace("class FromFormula", f"{BLOCKS}class FromFormula")
    lines = [f"from types import SimpleNamespace\n\n{head}" if inverses or thresholds else head]
    effects = {f"effects_{one.name}": one for one in encoding.effects}
    for name, latent in model.latents.items():
        labels = "" if latent.labels is None else f", labels={[[str(x) for x in axis] for axis in latent.axes]!r}"
        if name in effects:
            prior = f"lambda v: {_effects_prior(effects[name])}"
            lines.append(f"    {_declared(name)} = ht.Latent({prior}, {latent.plate!r}{labels})")
        elif isinstance(latent.prior, Written):
            lines.append(f"    {_declared(name)} = ht.Latent({latent.prior.code(data)}{labels})")
        else:
            lines.append(f"    {_declared(name)} = ht.Latent({_text(reads.distributions[name])}{labels})")
    lines += ["", f"    family = {_made(family)}", "", "    def likelihood(self, v, data):"]
    own = encoding.predictors if family.several else encoding.predictors[:1]
    others = encoding.predictors[len(own) :]
    for one in others:
        lines += _predictor(encoding, one, one.parameter, leveled=one.intercept)
    for k, one in enumerate(own):
        called = f"eta_{k + 1}" if family.several else "eta"
        lines += _predictor(encoding, one, called, leveled=one.intercept and not family.thresholds)
    if family.several:
        each = ", ".join(f"eta_{k + 1}" for k in range(len(own)))
        lines.append(f"        eta = torch.stack(torch.broadcast_tensors({each}), -1)")
    inverse: dict[object, str] = {torch.exp: "{}.exp()", torch.sigmoid: "{}.sigmoid()", torch.positive: "{}"}
    made = {latent_of(name): inverse[own].format(name) for name, own in inverses.items()}
    if thresholds:
        made[thresholds.name] = thresholds.code(data)
    if made:
        each = ", ".join(f"{name}={made.get(name, f'v.{name}')}" for name in family.latents)
        lines.append(f"        v = SimpleNamespace({each})")
    lines.append("        return self.family.distribution(eta, v, data)")
    return "\n".join(lines) + "\n"


def _made(family: Family) -> str:
    """How a family is made: its arguments that are not as they are without, which it keeps under their names."""
    known = inspect.signature(type(family)).parameters
    given = {name: getattr(family, name, None) for name in known}
    values = {name: value.name if isinstance(value, Link) else value for name, value in given.items()}
    values |= {"link": None} if "link" in values and family.has_default_link else {}
    told = [
        f"{name}={_made(value) if isinstance(value, Family) else repr(value)}"
        for name, value in values.items()
        if value != known[name].default and value is not None
    ]
    return f"ht.families.{type(family).__name__}({', '.join(told)})"


def _declared(name: str) -> str:
    return name if name.isidentifier() else f"vars()[{name!r}]"


def _value(name: str) -> str:
    return f"v.{name}" if name.isidentifier() else f"v[{name!r}]"


def _effects_prior(effects: Effects) -> str:
    scale = f"v[{f'sigma_{effects.name}'!r}]"
    zero = f"torch.zeros_like({scale})"
    if not effects.roots:
        return f"Independent(Normal({zero}, {scale}), 1)"
    size = len(effects.labels)
    parts, start = list[str](), 0
    for k, part in enumerate(effects.roots):
        parts += [f"torch.ones_like({scale}[..., :1, None])"] * (part.start - start)
        parts.append(f"v[{root_of(effects.name, k)!r}]")
        start = part.stop
    parts += [f"torch.ones_like({scale}[..., :1, None])"] * (size - start)
    root = parts[0] if len(parts) == 1 else f"blocks({', '.join(parts)})"
    return f"MultivariateNormal({zero}, scale_tril={scale}.unsqueeze(-1) * {root})"


def _predictor(encoding: Encoding, one: Predictor, called: str, *, leveled: bool) -> Iterator[str]:
    terms = [_value(one.called("mu"))] if leveled else []
    if one.column is not None:
        terms.append(f"{_value(one.called('beta'))}[:, 0] @ data[{one.column!r}].mT")
    for effects in encoding.effects:
        own = f"v[{f'effects_{effects.name}'!r}][:, data[{effects.plate!r}]]"
        for k, intercept in effects.of(one.parameter):
            terms.append(f"{own}[..., {k}]" + ("" if intercept else f" * data[{effects.column!r}][:, {k}]"))
    if one.offset is not None:
        terms.append(f"data[{one.offset!r}]")
    yield f"        {called} = {terms[0] if terms else 'data.y.new_zeros(1, data.n_rows)'}"
    yield from (f"        {called} = {called} + {term}" for term in terms[1:])


def _text(prior: Distribution, *, vector: bool = False) -> str:
    """A prior as code, with all digits."""
    if isinstance(prior, Independent):
        return f"Independent({_text(prior.base_dist, vector=True)}, {prior.reinterpreted_batch_ndims})"
    if isinstance(prior, LKJCholesky):
        return f"LKJCholesky({prior.dim}, {float(prior.concentration)!r})"
    if isinstance(prior, Ordered):
        return f"ht.ordered({_text(prior.base)}, {prior.size})"
    if isinstance(prior, EntryWise):
        return f"EntryWise([{', '.join(_text(part) for part in prior.parts)}])"
    known = [*prior.arg_constraints]
    names = [name for name in known if name in vars(prior)] or known  # of what is made of others they are properties
    held = {name: getattr(prior, name).double().flatten().tolist() for name in names}
    vector = vector or bool(prior.event_shape)
    said = {name: f"tensor({x if vector else x[0]!r}, dtype=torch.float64)" for name, x in held.items()}
    return f"{type(prior).__name__}({', '.join(f'{name}={text}' for name, text in said.items())})"
