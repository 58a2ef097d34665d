"""Draws from priors at places that are possible.

p(theta) is 0 where the latents drawn so far make a parameter of the next prior impossible (a scale below 0), so that
chain draws them again: rejection, which gives the prior given that all its parameters are possible.

docs/decisions.md: Prior draws are conditioned on possible parameters.
"""

from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.copies import repaired
from hiertorch.model.declaring import Declaring
from hiertorch.model.intervals import Bounds, plain_bounds
from hiertorch.model.latent import Values, known
from hiertorch.model.support import Condition, Sure, conditions, violated

TRIES = 200
"""Times that a chain is drawn again before its prior is said to be impossible."""


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
        self.text = f"{self.name} must be {condition.wanted()}"
        if condition.value.dim() <= mask.dim():
            value, bad = torch.broadcast_tensors(condition.value, mask)
            self.text += f", found such as {float(value[bad][0]):.3g}"


def draw_latents(
    model: Declaring,
    data: Data,
    chains: int,
    given: Mapping[str, Tensor],
    met: MutableMapping[str, Share] | None = None,
    most: int | None = None,
) -> dict[str, Tensor]:
    """theta ~ p(theta), name -> `(chains, size, *event)`; those `given` are kept, and only the first `most` are drawn
    (None draws all). Shares of draws that make a parameter impossible are noted in `met`, by its name.

    Raises:
        ModelError: for a prior that can't be drawn from.
    """
    every, tensors, ends = tuple(model.latents), dict[str, Tensor](), dict[str, Bounds]()
    for i, name in enumerate(every[:most]):
        prior = model.latents[name].prior
        fixed = isinstance(prior, Distribution)
        if name in given:
            tensors[name] = given[name]
            if isinstance(prior, Distribution) and (pair := plain_bounds(prior)) is not None:
                ends[name] = pair
            continue
        v = Values(tensors, every, None, ends, chains)
        distribution = model.prior(name, v, data)
        for attempt in range(TRIES + 1):
            found = [] if fixed and met is None else impossible_at(distribution, chains, known(v))
            if not found:
                break
            if attempt == 0 and met is not None:
                for condition, mask in found:
                    share = Share(condition, mask, f", the prior of {name!r}")
                    met.setdefault(share.name, share)
            bad = torch.stack([mask.flatten(1).any(1) for _, mask in found]).any(0)
            if attempt == TRIES or (attempt and bool(bad.all()) and not any(n not in given for n in every[:i])):
                share = Share(*found[0])
                raise ModelError(
                    f"the prior of {name!r} is impossible at {int(bad.sum())} of {chains} draws of the latents before "
                    f"it, each tried {attempt + 1} times: {share.text}. Give it parameters that these latents can't "
                    "make impossible, such as a scale v.tau with a HalfNormal prior."
                )
            again = draw_latents(model, data, chains, given, most=i)
            tensors = {
                key: torch.where(bad.reshape(-1, *(1,) * (x.dim() - 1)), again[key], x) for key, x in tensors.items()
            }
            v = Values(tensors, every, None, ends, chains)
            distribution = model.prior(name, v, data)
        plate = model.latents[name].plate
        size = 1 if plate is None else data.size(plate)
        tensors[name] = _draw(f"the prior of {name!r}", distribution, (chains, size), data)
        if (pair := plain_bounds(distribution)) is not None:
            ends[name] = pair
    return tensors


def impossible_at(distribution: Distribution, chains: int, sure: Sure | None = None) -> list[tuple[Condition, Tensor]]:
    """Conditions that are violated, and where, `(chains, size)`."""
    if not isinstance(distribution, Distribution):
        return []
    found = []
    for condition in conditions(distribution, sure):
        mask = violated(condition.violated())
        if mask.device.type != "meta" and bool(mask.any()):
            found.append((condition, mask.expand(torch.broadcast_shapes((chains, 1), mask.shape))))
    return found


def refuse_impossible(distribution: Distribution, chains: int, what: str) -> None:
    """Raises a ModelError if parameters are impossible anywhere, which says what can't be done therefore."""
    for condition, mask in impossible_at(distribution, chains):
        raise ModelError(f"{what} at {float(mask.double().mean()):.0%} of the values: {Share(condition, mask).text}.")


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another."""
    padded = (1,) * (len(target) - len(shape)) + tuple(shape)
    return len(padded) == len(target) and all(a in (1, b) for a, b in zip(padded, target, strict=True))


def _draw(what: str, distribution: Distribution, shape: tuple[int, int], data: Data) -> Tensor:
    """A draw of a prior for each chain and group, `(chains, size, *event)`, or what is wrong with the prior."""
    family = type(distribution).__name__
    if _is_discrete(distribution):
        raise ModelError(
            f"{what}, {family}, is discrete; Metropolis-Hastings moves here need a continuous latent: sum it out in "
            "the likelihood."
        )
    if not broadcasts(distribution.batch_shape, shape):
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
