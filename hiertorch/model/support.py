"""The support is part of the density: where a parameter is impossible, or a value outside the support, it is 0.

Note [Impossible places]
`torch.distributions` checks parameters when a distribution is made, and raises. That is of no use while chains move:
one bad proposal would end the run of all. Unchecked, torch's densities are finite for many impossible parameters
(`Poisson(-10).log_prob(0)` is 10), and chains go there. So the log density is -inf, and the proposal rejected, wherever
`arg_constraints` are violated, just as Stan rejects it. A parameter of which nothing can be wrong costs nothing: one
that may be any real number; one that depends on no latent, which is computed once (`hiertorch.density.recording`); and
one that is itself the value of a latent whose support is right.

An infinite parameter is impossible too (the overflow of exp(x beta), where torch gives inf - inf). NaN is another
matter: it stays NaN, and is counted and reported as such.

docs/decisions.md: Impossible places have density zero.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, TransformedDistribution, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import lazy_property

from hiertorch.model.intervals import beyond, has_tensor, is_interval, of_numbers

Sure = Callable[[Tensor, Constraint], bool]
"""Whether a tensor is known to satisfy a constraint, so that nobody needs to look."""

REAL = (constraints.real, constraints.real_vector)
"""Constraints that nothing violates."""

MATRICES = (constraints.positive_definite, constraints.positive_semidefinite)
"""Constraints that a Cholesky factor proves."""


class Condition:
    """What a parameter must satisfy; `violated` says where it does not.

    Args:
        name: such as "rate of Poisson"; none for a value outside the support, which is no parameter's fault.
        value: the parameter, `(*batch, *event)`, where the batch broadcasts to that of the distribution.
        constraint: of single numbers if it is about them.
        events: axes at the right that belong to one draw.
        found: where it is violated, `batch`, if that is known already.
    """

    def __init__(
        self,
        name: str | None,
        value: Tensor,
        constraint: Constraint | None,
        events: int = 0,
        found: Tensor | None = None,
    ) -> None:
        self.name, self.value, self.constraint, self.events, self.found = name, value, constraint, events, found

    def violated(self, reduced: Callable[[Tensor, Callable[..., Tensor]], Tensor] | None = None) -> list[Tensor]:
        """Where it is violated, in one respect or another: in `batch`, or in what `reduced(x, torch.amin)` makes of it.

        An interval holds all numbers if it holds the least and the greatest, which are faster to find than a look at
        each is. Infinity, which is rare, is looked for in the whole last axis.
        """
        if self.found is not None:
            return [self.found if reduced is None else reduced(self.found, torch.any)]
        x = self.value
        if not self.events and reduced is None:
            return self._beyond(x, x)
        over = tuple(range(-self.events, 0))
        least, most = (x.amin(over), x.amax(over)) if self.events else (x, x)
        if reduced is None:
            return self._beyond(least, most)
        low, high = (getattr(self.constraint, name, None) is not None for name in ("lower_bound", "upper_bound"))
        least = reduced(least, torch.amin) if low else _whole(least, torch.amin)
        return self._beyond(least, reduced(most, torch.amax) if high else _whole(most, torch.amax))

    def _beyond(self, least: Tensor, most: Tensor) -> list[Tensor]:
        below, above = beyond(self.constraint, least, most)
        if self.constraint is constraints.positive and (self.name or "").startswith("scale of "):
            return [below]  # at an infinite scale the density is 0 by itself
        return [below, above]

    def wanted(self) -> str:
        """What it asks for, in words."""
        c: Any = self.constraint
        if c in MATRICES or c is constraints.lower_cholesky:
            return "positive definite"
        if c is constraints.nonnegative_integer:
            return "a whole number of at least 0"
        if not is_interval(c) or has_tensor(c):
            return f"in {c}"
        low, high = (getattr(c, name, None) for name in ("lower_bound", "upper_bound"))
        if low is None:
            return f"below {high:g}"
        if high is not None:
            return f"between {low:g} and {high:g}"
        above = isinstance(c, constraints.greater_than)
        if low == 0:
            return "positive and finite" if above else "at least 0 and finite"
        return f"{'above' if above else 'at least'} {low:g}"


def density(
    distribution: Distribution,
    value: Tensor,
    sure: Sure | None = None,
    *,
    checked: bool = False,
    proved: bool = False,
) -> tuple[Tensor, list[Condition]]:
    """log p(value) as torch has it, and the conditions without which it is -inf instead; see Note [Impossible places].

    The conditions are about the parameters, unless these are `proved` possible, and about a value that may lie outside
    the support; not, if it has been `checked`, outside a support that is the same for all parameters.
    """
    found = [] if proved else conditions(distribution, sure)
    same = checked and has_one_support(distribution)
    if not same and (mask := outside(distribution, value, sure)) is not None:
        found.append(Condition(None, value, None, found=mask))
    return _log_prob(distribution, value), found


def impossible(terms: Tensor, found: Sequence[Condition]) -> Tensor:
    """log densities, -inf where a condition is violated."""
    masks = [mask for condition in found for mask in condition.violated()]
    return torch.where(violated(masks), -torch.inf, terms) if masks else terms


def violated(masks: Sequence[Tensor]) -> Tensor:
    """Where any is True."""
    return reduce(or_, masks)


def conditions(distribution: Distribution, sure: Sure | None = None) -> list[Condition]:
    """What its parameters must satisfy: those that the user gave, as in torch's own check; parts of it likewise."""
    return list(_conditions(distribution, sure, len(distribution.batch_shape)))


def _conditions(distribution: Distribution, sure: Sure | None, axes: int) -> Iterator[Condition]:
    """For a distribution within one of so many batch axes: what it has more of them belongs to a draw."""
    more = len(distribution.batch_shape) - axes
    if isinstance(distribution, Independent):
        yield from _conditions(distribution.base_dist, sure, axes)
        return
    if isinstance(distribution, MixtureSameFamily):
        yield from _conditions(distribution.mixture_distribution, sure, axes)
        yield from _conditions(distribution.component_distribution, sure, axes)
        return
    try:
        wanted: dict[str, Constraint] = distribution.arg_constraints
    except NotImplementedError:
        wanted = {}
    if not wanted:
        for part in vars(distribution).values():
            if isinstance(part, Distribution):
                yield from _conditions(part, sure, axes)
        return
    for name, constraint in wanted.items():
        if constraints.is_dependent(constraint) or of_numbers(constraint) in REAL:
            continue
        value = _given(distribution, name)
        if value is None or (sure is not None and sure(value, constraint)):
            continue
        yield _condition(f"{name} of {type(distribution).__name__}", distribution, value, constraint, max(0, more))


def _given(distribution: Distribution, name: str) -> Tensor | None:
    """A parameter, unless it is derived from those that the user gave."""
    owner = distribution
    if name not in vars(distribution):
        if isinstance(getattr(type(distribution), name, None), lazy_property):
            return None
        for part in vars(distribution).values():  # whose properties it shows
            if isinstance(part, Distribution) and name in part.arg_constraints:
                owner = part
                break
    if name not in vars(owner) and isinstance(getattr(type(owner), name, None), lazy_property):
        return None
    value = getattr(owner, name)
    return _lean(value) if isinstance(value, Tensor) else None


def _condition(name: str, distribution: Distribution, value: Tensor, constraint: Constraint, events: int) -> Condition:
    base = constraint
    while isinstance(base, constraints.independent):
        events += base.reinterpreted_batch_ndims
        base = base.base_constraint
    if is_interval(base) and not has_tensor(base):
        return Condition(name, _padded(value, events), base, events)
    if is_interval(base):
        bad = violated(beyond(base, value, value))
    elif base in MATRICES:
        root = next((x for key, x in vars(distribution).items() if key.endswith("scale_tril")), None)
        root = root if root is not None else torch.linalg.cholesky_ex(value).L
        sound = (root.diagonal(dim1=-2, dim2=-1) > 0).all(-1)  # False where `tolerant` put NaN
        bad = (sound | value.isnan().flatten(-2).any(-1)).logical_not()
    elif base is constraints.simplex:
        bad = (value.amin(-1) < 0) | ((value.sum(-1) - 1.0).abs() >= 1e-6)  # as torch's, but NaN is not impossible
    else:
        nan = value.isnan()
        bad = (base.check(value) | (nan.flatten(-base.event_dim).any(-1) if base.event_dim else nan)).logical_not()
    return Condition(name, value, base, found=_over(bad, events))


def _whole(x: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    return reduce(x, -1, keepdim=True) if x.dim() and x.shape[-1] > 1 else x


def _padded(x: Tensor, axes: int) -> Tensor:
    """The same with so many axes at least."""
    return x.reshape((1,) * (axes - x.dim()) + tuple(x.shape)) if x.dim() < axes else x


def _lean(x: Tensor) -> Tensor:
    """A tensor before it was expanded, as `Normal(mean of each row, sigma)` expands sigma."""
    base = x._base
    if base is not None and 0 in x.stride() and base.dim() <= x.dim() and base.storage_offset() == x.storage_offset():
        kept = tuple(1 if step == 0 else n for n, step in zip(x.shape, x.stride(), strict=True))
        padded = (1,) * (x.dim() - base.dim()) + tuple(base.shape)
        if kept == padded:
            return base
    for axis, (n, step) in enumerate(zip(x.shape, x.stride(), strict=True)):
        if step == 0 and n > 1:
            x = x.narrow(axis, 0, 1)
    return x


def outside(distribution: Distribution, value: Tensor, sure: Sure | None = None) -> Tensor | None:
    """Where single numbers are outside the support, `batch`; None if they can't be.

    Simplexes and matrices are not looked at: what is sampled there comes from a bijection onto them.
    """
    if isinstance(distribution, Independent):
        mask = outside(distribution.base_dist, value, sure)
        return None if mask is None else _over(mask, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, MixtureSameFamily):
        return None  # each component's value has its own support: see `_log_prob`
    try:
        support = distribution.support
    except NotImplementedError:  # a distribution of the user's that tells none
        return None
    if support is None or (sure is not None and sure(value, support)):
        return None
    mask = None
    if support.event_dim == 0 and support is not constraints.real:
        mask = support.check(value).logical_not()
    if type(distribution) is TransformedDistribution and not distribution.event_shape:
        for transform in reversed(distribution.transforms):
            value = transform.inv(value)
        more = outside(distribution.base_dist, value)
        mask = more if mask is None or more is None else mask | more
    return mask


def shares_memory(x: Tensor, other: Tensor) -> bool:
    """Whether one tensor is the other, or a view of it."""
    try:
        return x.untyped_storage()._cdata == other.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a wrapper without memory of its own
        return False


def has_one_support(distribution: Distribution) -> bool:
    """Whether its family has one support, whatever the parameters."""
    if isinstance(distribution, Independent):
        return has_one_support(distribution.base_dist)
    own: object = getattr(type(distribution), "support", None)
    one = isinstance(own, Constraint) and not constraints.is_dependent(own)
    return one and distribution.support is own  # which an object may have set for itself


def _over(mask: Tensor, axes: int) -> Tensor:
    """Whether any is True over so many axes at the right."""
    return _padded(mask, axes).flatten(-axes).any(-1) if axes else mask


def _log_prob(distribution: Distribution, value: Tensor) -> Tensor:
    """torch's, but in a mixture each component has density 0 outside its own support."""
    if isinstance(distribution, MixtureSameFamily):
        component: Any = distribution.component_distribution
        padded = distribution._pad(value)
        if (mask := outside(component, padded)) is not None:
            terms = torch.where(mask, -torch.inf, component.log_prob(padded))
            return torch.logsumexp(terms + distribution.mixture_distribution.logits.log_softmax(-1), -1)
    return distribution.log_prob(value)
