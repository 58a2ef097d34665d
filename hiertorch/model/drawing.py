"""Draws from priors at places that are possible.

p(theta) is 0 where the latents drawn so far make a parameter of the next prior impossible (a scale below 0), so that
chain draws them again: rejection, which gives the prior given that all its parameters are possible.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.errors import ModelError
from hiertorch.model.latent import Values, repaired
from hiertorch.model.support import Bounds, Condition, Sure, conditions, plain_bounds, violated
from hiertorch.model.tolerance import attempted

__all__ = ["Share", "draw_latents", "fits", "mended", "refuse_impossible", "shares"]

TRIES = 200
"""Times that a chain is drawn again before its prior is said to be impossible."""

TURNS = 16
"""Times that groups, or chains, at which the likelihood is 0 are drawn again."""

LOOKS, NUMBERS = 256, 500_000
"""Prior draws at which parameters are looked at; so many numbers at most."""


class Share:
    """How many prior draws make a parameter impossible.

    Attributes:
        name: such as "rate of Poisson".
        share: of the draws, or of draws and rows.
        text: that it does, in words.
    """

    def __init__(self, condition: Condition, mask: Tensor, of: str = "") -> None:
        self.name = f"{condition.name}{of}"
        self.share = float(mask.double().mean())
        value = (
            condition.value.expand(torch.broadcast_shapes(condition.value.shape, mask.shape))
            if (condition.value.dim() <= mask.dim())
            else None
        )
        found = "" if value is None else f", found such as {float(value[mask.expand(value.shape)][0]):.3g}"
        self.text = f"{self.name} must be {condition.wanted()}{found}"


def draw_latents(
    model: Any, data: Any, chains: int, given: Mapping[str, Tensor], met: MutableMapping[str, Share] | None = None
) -> dict[str, Tensor]:
    """theta ~ p(theta), name -> `(chains, size, *event)`; those `given` are kept. Shares of impossible draws are noted
    in `met`.

    Raises:
        ModelError: for a prior that can't be drawn from.
    """
    return _drawn(model, data, chains, given, tuple(model.latents), met)


def _drawn(
    model: Any,
    data: Any,
    chains: int,
    given: Mapping[str, Tensor],
    names: Sequence[str],
    met: MutableMapping[str, Share] | None = None,
) -> dict[str, Tensor]:
    every, tensors, ends = tuple(model.latents), dict[str, Tensor](), dict[str, Bounds]()
    for i, name in enumerate(names):
        fixed = isinstance(model.latents[name].prior, Distribution)
        if name in given:
            tensors[name] = given[name]
            if fixed and (pair := plain_bounds(model.latents[name].prior)) is not None:
                ends[name] = pair
            continue
        v = Values(tensors, every, None, ends)
        distribution = model.prior(name, v, data)
        for attempt in range(TRIES + 1):
            found = [] if fixed and met is None else _impossible(distribution, chains, v._satisfies)
            if not found:
                break
            if attempt == 0 and met is not None:
                for condition, mask in found:
                    share = Share(condition, mask, f", the prior of {name!r}")
                    met.setdefault(share.name, share)
            bad = torch.stack([mask.flatten(1).any(1) for _, mask in found]).any(0)
            if attempt == TRIES or (attempt and bool(bad.all()) and not any(n not in given for n in names[:i])):
                share = Share(*found[0])
                raise ModelError(
                    f"the prior of {name!r} is impossible at {int(bad.sum())} of {chains} draws of the latents before "
                    f"it, each tried {attempt + 1} times: {share.text}. Give it parameters that these latents can't "
                    "make impossible, such as a scale v.tau with a HalfNormal prior."
                )
            again = _drawn(model, data, chains, given, names[:i])
            tensors = {
                key: torch.where(bad.reshape(-1, *(1,) * (x.dim() - 1)), again[key], x) for key, x in tensors.items()
            }
            v = Values(tensors, every, None, ends)
            distribution = model.prior(name, v, data)
        plate = model.latents[name].plate
        size = 1 if plate is None else data.size(plate)
        tensors[name] = _draw(f"the prior of {name!r}", distribution, (chains, size), data)
        if (pair := plain_bounds(distribution)) is not None:
            ends[name] = pair
    return tensors


def _impossible(distribution: Any, chains: int, sure: Sure | None = None) -> list[tuple[Condition, Tensor]]:
    """Conditions that are violated, and where, `(chains, size)`."""
    if not isinstance(distribution, Distribution):
        return []
    found = []
    for condition in conditions(distribution, sure):
        mask = violated(condition.violated())
        if mask.device.type != "meta" and bool(mask.any()):
            found.append((condition, mask.expand(torch.broadcast_shapes((chains, 1), mask.shape))))
    return found


def refuse_impossible(distribution: Any, chains: int, what: str) -> None:
    """Raises a ModelError if parameters are impossible anywhere, which says what can't be done therefore."""
    for condition, mask in _impossible(distribution, chains):
        raise ModelError(f"{what} at {float(mask.double().mean()):.0%} of the values: {Share(condition, mask).text}.")


def mended(
    model: Any, data: Any, rows: Any, values: Mapping[str, Tensor], generator: Any, fixed: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Prior draws, of which those of the groups where the likelihood of some rows is not finite are drawn again, or
    those of all latents; those that are `fixed` are kept. Not all may be mended.
    """
    values, chains = dict(values), len(next(iter(values.values())))
    latents = model.latents
    varying = [name for name, latent in latents.items() if latent.plate is not None and name not in fixed]
    for turn in range(TURNS):
        terms = model.log_likelihood(model.values(values), rows)
        bad = ~torch.isfinite(terms) if rows.weights is None else ~torch.isfinite(terms) & (rows.weights != 0)
        bad = bad.expand(chains, rows.n_rows)
        if not bool(bad.any()):
            break
        whole = not varying or turn % 4 == 3
        keep = [name for name in latents if name in fixed or (not whole and latents[name].plate is None)]
        fresh = model.sample_prior(data, chains, generator, given={name: values[name] for name in keep})
        for name in latents:
            if name in keep:
                continue
            if whole:
                where = bad.any(1, keepdim=True)
            else:
                size = values[name].shape[1]
                groups = bad.new_zeros(chains, size, dtype=terms.dtype)
                where = groups.index_add(1, rows.codes[latents[name].plate], bad.to(terms.dtype)) > 0
            where = where.reshape(*where.shape, *(1,) * (values[name].dim() - 2))
            values[name] = torch.where(where, fresh[name], values[name])
    return values


def shares(model: Any, data: Any, rows: Any, generator: Any) -> list[Share]:
    """How many prior draws make parameters of priors, or of the likelihood of some rows (if any), impossible."""
    met: dict[str, Share] = {}
    number = LOOKS if rows is None else max(8, min(LOOKS, NUMBERS // rows.n_rows))
    number = next((len(x) for x in (data.y, data.weights) if x is not None and x.dim() == 2), number)
    values = model.sample_prior(data, number, generator, met=met)
    if rows is not None:
        for condition, mask in _impossible(attempted(model.likelihood, values, rows), number):
            share = Share(condition, mask)
            met.setdefault(share.name, share)
    return list(met.values())


def fits(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another."""
    padded = (1,) * (len(target) - len(shape)) + tuple(shape)
    return len(padded) == len(target) and all(a in (1, b) for a, b in zip(padded, target, strict=True))


def _draw(what: str, distribution: Distribution, shape: tuple[int, int], data: Any) -> Tensor:
    """A draw of a prior for each chain and group, `(chains, size, *event)`, or what is wrong with the prior."""
    family = type(distribution).__name__
    if _is_discrete(distribution):
        raise ModelError(
            f"{what}, {family}, is discrete; Metropolis-Hastings moves here need a continuous latent: sum it out in "
            "the likelihood."
        )
    if not fits(distribution.batch_shape, shape):
        raise ModelError(
            f"{what} has batch shape {tuple(distribution.batch_shape)}; expected one that broadcasts to (chains, size) "
            f"= {shape}. For a vector use Independent(..., 1) or event=."
        )
    asked = f"the data are {data.dtype} on {data.device}; make its tensors from the latents it reads or plain numbers"
    try:
        draw = repaired(distribution).expand(torch.Size(shape)).sample()
    except NotImplementedError as error:
        raise ModelError(
            f"{what}, {family}, can't be drawn from (it has no sample() or expand()): chains start at draws from the "
            "prior, so that it must be proper and have both."
        ) from error
    except RuntimeError as error:
        raise ModelError(
            f"{what}, {family}, can't be drawn from: {error}. Do devices or dtypes meet? {asked}."
        ) from error
    if draw.dtype != data.dtype or draw.device != data.device:
        raise ModelError(f"{what} gives values of {draw.dtype} on {draw.device}; {asked}.")
    return draw


def _is_discrete(distribution: Distribution) -> bool:
    try:
        return bool(getattr(distribution.support, "is_discrete", False))
    except NotImplementedError:  # it tells no support; `hiertorch.model.checks` says so
        return False
