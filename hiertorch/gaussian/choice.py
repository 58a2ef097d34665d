"""Which latents can be integrated out, as the operations of the model say (`hiertorch.gaussian.pieces`).

The latents L are a choice if, whatever the values of the others,

- the mean of the likelihood is affine in all of L together,
- neither its scale, nor the spread of a prior of L, nor the prior of any other latent reads L.

A latent that stands in the way is left to be sampled, and the choice made again without it. What remains is written in
innovations: a latent of L is the mean of its prior plus its innovation, see `hiertorch.gaussian.affine`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from hiertorch import wording
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.operations import Powers
from hiertorch.gaussian.pieces import Pieces
from hiertorch.gaussian.terms import Sum, degree, inside, reads
from hiertorch.model.latent import Latent


@dataclass(frozen=True)
class Choice:
    """What is integrated out, and how the rest enters.

    Attributes:
        linear: latents that are integrated out, in the order of their declaration.
        held: latents of the rest in which the mean is linear, where all innovations are 0.
        coefficients: latent that is integrated out -> what its coefficients in the mean are, in latents of the rest.
        settled: latents that are integrated out of which neither the prior's spread nor the coefficients read anything.
        scaled: those of which the spread is data times a product of powers of positive numbers -> their exponents.
        pieces: of the model, with the innovations of these latents.
    """

    linear: tuple[str, ...]
    held: frozenset[str]
    coefficients: dict[str, Sum]
    settled: frozenset[str]
    scaled: dict[str, Powers]
    pieces: Pieces


def choose(
    trace: Callable[[Sequence[str]], Pieces],
    normal: Sequence[str],
    parents: Callable[[str], Iterable[str]],
    latents: Mapping[str, Latent],
    sizes: Mapping[str, Sequence[int]],
    positive: Collection[str],
) -> Choice:
    """The latents to integrate out.

    Args:
        trace: gives the pieces of the model where the innovations of some latents are unknown.
        normal: the latents with a normal prior, in order.
        parents: gives the latents that the prior of a latent reads.
        latents: all, in order.
        sizes: the shape of the event of each.
        positive: which are positive numbers.

    Raises:
        NotAffine: with the reason, if the effects of a grouping can't be integrated out.
    """
    linear = list(normal)
    while True:
        pieces, why = trace(linear), dict[str, str]()
        of_rest = {name: parents(name) for name in latents if name not in linear}
        for name in linear:
            if (reason := _against(name, linear, pieces, of_rest)) is not None:
                why[name] = reason
        if not why:
            drop = _one_of_two(pieces.mean, linear, latents, sizes)
            if drop is None:
                break
            why = {drop: ""}
        for name, reason in why.items():
            if latents[name].plate is not None:
                raise NotAffine(reason)
            linear.remove(name)
    offset = [term for term in pieces.mean if degree(term, linear) == 0]
    if bad := [term for term in offset if inside([term]) or len(term.factors) > 1]:
        raise NotAffine(f"the mean of the likelihood is not affine in {wording.quoted(sorted(reads(bad)))}")
    coefficients = {name: _coefficients(name, pieces.mean) for name in linear}
    settled = frozenset(name for name in linear if not reads(pieces.roots[name]) and not reads(coefficients[name]))
    scaled = {
        name: powers
        for name in linear
        if (powers := pieces.powers[name]) is not None
        and not reads(coefficients[name])
        and all(number in positive for number, _ in powers)
    }
    return Choice(tuple(linear), reads(offset), coefficients, settled, scaled, pieces)


def _coefficients(name: str, mean: Sum) -> Sum:
    """What a latent is multiplied with in a mean that is affine in it."""
    return frozenset(
        term._replace(factors=tuple(factor for factor in term.factors if factor != name))
        for term in mean
        if name in term.factors
    )


def _against(name: str, linear: Sequence[str], pieces: Pieces, of_rest: Mapping[str, Iterable[str]]) -> str | None:
    """Why a latent can't be integrated out, whatever else is; None if it can."""
    if name in reads(pieces.scale.terms):
        return f"the scale of the likelihood depends on {name!r}"
    for other in linear:
        if name in reads(pieces.roots[other]):
            return f"the scale of the prior of {other!r} depends on {name!r}"
    for other, read in of_rest.items():
        if name in read:
            return f"{name!r} can't be integrated out: the prior of {other!r}, which is sampled, reads it"
    if any(degree(term, [name]) > 1 for term in pieces.mean):
        return f"the mean of the likelihood is not affine in {name!r}"
    return None


def _one_of_two(
    mean: Sum, linear: Sequence[str], latents: Mapping[str, Latent], sizes: Mapping[str, Sequence[int]]
) -> str | None:
    """A latent of the population that others are multiplied with: the one that most are, or else the smaller one."""
    products = [set(term.factors) & set(linear) for term in mean if degree(term, linear) > 1]
    if not products:
        return None
    for both in products:
        if all(latents[name].plate is not None for name in both):
            raise NotAffine(f"the mean of the likelihood is not affine in {wording.quoted(sorted(both))} together")
    beside_groups = {
        name
        for both in products
        if any(latents[other].plate is not None for other in both)
        for name in both
        if latents[name].plate is None
    }
    count = Counter(name for both in products for name in both if latents[name].plate is None)
    candidates = beside_groups or set(count)
    return min(candidates, key=lambda name: (-count[name], prod(sizes[name]), linear.index(name)))
