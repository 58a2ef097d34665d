"""Copies of priors: on another device, with the numbers that were written, with more axes, with draws that are right;
and a prior as text.
"""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution, Independent, LKJCholesky, TransformedDistribution
from torch.distributions.transforms import Transform
from torch.distributions.utils import lazy_property

from hiertorch.errors import ModelError
from hiertorch.model.ordering import Ordered

WRITTEN = 64
"""Numbers of a prior's parameter up to which they are thought to be written by hand."""

SHORT = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes in which a number that was written is rounded."""

Part = TypeVar("Part", bound=Distribution | Transform)


def prior_text(distribution: Distribution) -> str:
    """A distribution as people write it: Normal(0, 5)."""
    if isinstance(distribution, Independent):
        return prior_text(distribution.base_dist)
    if isinstance(distribution, Ordered):
        return f"ordered({prior_text(distribution.base)}, {distribution.size})"
    if isinstance(distribution, LKJCholesky):
        return f"LKJCholesky({distribution.dim}, {float(distribution.concentration):g})"
    if isinstance(distribution, Dirichlet) and distribution.batch_shape == () and distribution.event_shape[0] <= 20:
        return f"Dirichlet([{', '.join(f'{float(a):.4g}' for a in distribution.concentration)}])"
    # Of probs and logits one is given; parameters of what is made of others (a Beta of a Dirichlet) are properties.
    made_of_others = isinstance(distribution, TransformedDistribution)
    given = [name for name in distribution.arg_constraints if name in distribution.__dict__ and not made_of_others]
    parts = []
    for name in given or distribution.arg_constraints:
        flat = getattr(distribution, name).flatten()
        same = flat.numel() > 0 and bool((flat == flat[0]).all())
        each = [f"{x:.4g}" for x in flat.tolist()] if flat.numel() <= 20 else [*(f"{x:.4g}" for x in flat[:3]), "..."]
        parts.append(f"{float(flat[0]):.4g}" if same else f"[{', '.join(each)}]")
    return f"{type(distribution).__name__}({', '.join(parts)})" if parts else str(distribution)


def cast(thing: Part, device: torch.device, dtype: torch.dtype) -> Part:
    """A copy of a distribution or transform, with floating tensors of `dtype` on `device`, and without validation."""
    return _mapped(thing, lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None), {})


def home_of(prior: Distribution) -> tuple[torch.device, torch.dtype] | None:
    """The device and the dtype of all tensors of a prior, for which `cast` changes none; None if they have several, or
    if the prior keeps what it has computed for others, which may have been under another mode of torch.
    """
    tensors: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    made: dict[int, Distribution | Transform] = {}
    _mapped(prior, noted, made)
    if not all(type(x) is Tensor and x.is_floating_point() for x in tensors) or any(map(_remembers, made.values())):
        return None
    homes = {(x.device, x.dtype) for x in tensors}
    return homes.pop() if len(homes) == 1 else None


def _remembers(part: Distribution | Transform) -> bool:
    if isinstance(part, Transform):
        return part._cache_size != 0
    kinds = (value for kind in type(part).__mro__ for value in vars(kind).values())
    return any(isinstance(value, lazy_property | cached_property) for value in kinds)


def exact(prior: Distribution, most: int = WRITTEN) -> Distribution:
    """A prior in double precision, with the numbers that were written.

    torch makes plain numbers tensors of its default dtype: Normal(0.0, 0.1) has a scale of 0.100000001 (of 0.1001 where
    the default is bfloat16). The shortest decimal that is rounded to the same number is what somebody wrote.
    Parameters of more than `most` numbers are thought not to be written by hand.

    Raises:
        ModelError: if it was made on the meta device.
    """

    def written(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            raise ModelError(
                f"the prior {type(prior).__name__} was made on the meta device, which holds no numbers: make models "
                "outside of torch.device('meta')."
            )
        if tensor.dtype not in SHORT or tensor.requires_grad:
            return tensor.clone() if tensor.is_inference() else tensor
        if tensor.numel() > most:
            return tensor.double()
        numbers = [_shortest(float(x), tensor.dtype) for x in tensor.reshape(-1)]
        return torch.tensor(numbers, dtype=torch.float64, device=tensor.device).reshape(tensor.shape)

    return _mapped(prior, written, {})


def _shortest(x: float, dtype: torch.dtype) -> float:
    """The number of fewest digits that is rounded to x."""
    numbers = (float(f"{x:.{digits}g}") for digits in range(1, 10))
    return next((y for y in numbers if float(torch.tensor(y, dtype=dtype, device="cpu")) == x), x)


def repaired(distribution: Distribution) -> Distribution:
    """The same distribution, with draws that agree with its density where torch's don't.

    `LKJCholesky.sample` (torch 2.13) draws the squared length of row i, below the diagonal, from Beta(i - 1/2, .) where
    the onion method has Beta(i/2, .) (Lewandowski, Kurowicka & Joe 2009, section 3.2): right for 2 x 2 matrices alone.
    """
    if isinstance(distribution, Independent):
        base = repaired(distribution.base_dist)
        same = base is distribution.base_dist
        return distribution if same else Independent(base, distribution.reinterpreted_batch_ndims)
    if not isinstance(distribution, LKJCholesky):
        return distribution
    new = copy.copy(distribution)
    below = torch.arange(distribution.dim, device=distribution.concentration.device).clamp(min=1)  # entries of each row
    marginal = distribution.concentration.unsqueeze(-1) + 0.5 * (distribution.dim - 2)
    first = (0.5 * below).to(marginal).expand(*marginal.shape[:-1], distribution.dim)
    new._beta = Beta(first, marginal - 0.5 * (below - 1), validate_args=False)
    return new


def with_axes(distribution: Distribution, event: tuple[int, ...]) -> Distribution:
    """Independent copies along new axes at the right: parameters `(chains, size)` become `(chains, size, *event)`."""

    def appended(tensor: Tensor) -> Tensor:
        return tensor.reshape(tensor.shape + (1,) * len(event)).expand(tensor.shape + event) if tensor.dim() else tensor

    return _mapped(distribution, appended, {}, event)


def picked(distribution: Distribution, places: Tensor) -> Distribution:
    """Of a batch of single numbers those at some places, a mask of the shape of the batch: `(places,)`."""
    shape, number = distribution.batch_shape, int(places.sum())

    def chosen(tensor: Tensor) -> Tensor:
        return tensor[places] if tensor.shape[: len(shape)] == shape else tensor.expand(shape)[places]

    made: dict[int, Distribution | Transform] = {}
    new = _mapped(distribution, chosen, made)
    for part in made.values():
        if isinstance(part, Distribution):
            part._batch_shape = torch.Size([number])
    return new


def _mapped(
    thing: Part,
    function: Callable[[Tensor], Tensor],
    made: dict[int, Distribution | Transform],
    more: tuple[int, ...] = (),
) -> Part:
    """A copy of a distribution or transform and all its parts, a function of each tensor; batch shapes gain `more`."""
    if id(thing) in made:  # a transform and its inverse know each other
        return made[id(thing)]  # type: ignore[return-value]
    new = made[id(thing)] = copy.copy(thing)
    for name, value in vars(thing).items():
        if isinstance(value, Tensor):
            new.__dict__[name] = function(value)
        elif isinstance(value, Distribution | Transform):
            new.__dict__[name] = _mapped(value, function, made, more)
        elif isinstance(value, list | tuple) and any(isinstance(part, Distribution | Transform) for part in value):
            new.__dict__[name] = type(value)(_mapped(part, function, made, more) for part in value)
    if isinstance(new, Distribution):
        new._validate_args = False
        new._batch_shape = new._batch_shape + torch.Size(more)
    return new
