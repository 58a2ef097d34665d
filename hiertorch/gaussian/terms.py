"""How a tensor depends on named unknowns: a sum of terms, each a product of unknowns and a function of others.

    x = sum_t c_t * (product of the factors of t) * f_t(what t reads in another way),     c_t: any data

What a computation makes of its inputs is followed on these sums alone. They say too much rather than too little: a term
may be there whose coefficient is 0, but what is not there is not read.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

MOST_TERMS = 1_000
"""A longer sum is taken for an unknown function of all that it reads."""


class Atom(NamedTuple):
    """One number for each chain, an unknown function with kinks or jumps of what it reads."""

    key: int
    reads: frozenset[str]


class Term(NamedTuple):
    """A product of unknowns, times an unknown function of others and of atoms."""

    factors: tuple[str, ...] = ()  # sorted; one that stands there more than twice stands there twice
    within: frozenset[str] = frozenset()  # what the function reads
    kinked: bool = False  # whether it may have kinks or jumps, so that no few values tell what it is elsewhere
    atoms: frozenset[Atom] = frozenset()  # what the function reads as well
    times: float | None = None  # the coefficient of an unknown that is a number, where it is the same everywhere


Sum = frozenset[Term]
"""No terms: nothing but zeros."""

CONSTANT: Sum = frozenset({Term()})
"""Data: what reads no unknown."""


def unknown(name: str, *, number: bool) -> Sum:
    """An unknown by itself: a `number` for each chain, or an array of which any entry may be meant."""
    return frozenset({Term((name,), times=1.0 if number else None)})


def inside(x: Iterable[Term]) -> frozenset[str]:
    """The unknowns that functions read, directly or through an atom."""
    return frozenset(name for term in x for part in (term.within, *(a.reads for a in term.atoms)) for name in part)


def reads(x: Iterable[Term]) -> frozenset[str]:
    """All unknowns in a sum."""
    x = frozenset(x)
    return inside(x) | {name for term in x for name in term.factors}


def are_smooth(x: Iterable[Term]) -> bool:
    """Whether values spread over what they read tell all of these functions.

    So it is of functions without kinks, of latents and of atoms; but then an atom must be all that reads its latents,
    since two functions of the same latent may agree at some values and not at others.
    """
    x = frozenset(x)
    atoms = {atom for term in x for atom in term.atoms}
    direct = [name for term in x for name in (*term.factors, *term.within)]
    others = Counter([*set(direct), *(name for atom in atoms for name in atom.reads)])
    return not any(term.kinked for term in x) and all(others[name] == 1 for atom in atoms for name in atom.reads)


def unknown_function(x: Iterable[Term], *, kinked: bool = False) -> Sum:
    """f(x), of which no more is known than what it reads and whether it is smooth where x is."""
    x = frozenset(x)
    if not reads(x):
        return CONSTANT
    within = frozenset(name for term in x for name in (*term.factors, *term.within))
    atoms = frozenset(atom for term in x for atom in term.atoms)
    return frozenset({Term((), within, kinked or any(term.kinked for term in x), atoms)})


def shifted(x: Iterable[Term], names: Collection[str]) -> Sum:
    """x where these unknowns are others plus constants."""
    found, left = set[Term](), set(x)
    while left:
        term = left.pop()
        found.add(term)
        for i, factor in enumerate(term.factors):
            if factor in names:
                left.add(term._replace(factors=(*term.factors[:i], *term.factors[i + 1 :]), times=None))
    return _short(frozenset(found))


def joined(*sums: Iterable[Term]) -> Sum:
    """Entries of any of these, in any combination."""
    return _short(frozenset(term._replace(times=None) for x in sums for term in x))


def scaled(x: Iterable[Term], by: float) -> Sum:
    """x times a number."""
    return frozenset(term if term.times is None else term._replace(times=term.times * by) for term in x)


def added(a: Iterable[Term], b: Iterable[Term]) -> Sum:
    """a + b, without what cancels exactly."""
    times: dict[Term, list[float | None]] = {}
    for term in (*a, *b):
        times.setdefault(term._replace(times=None), []).append(term.times)
    found = set()
    for term, every in times.items():
        known = [x for x in every if x is not None]
        total = sum(known) if len(known) == len(every) else None
        if total != 0.0:
            found.add(term._replace(times=total))
    return _short(frozenset(found))


def product(a: Iterable[Term], b: Iterable[Term]) -> Sum:
    """a b, term by term."""
    b = tuple(b)
    return _short(frozenset(_times(s, t) for s in a for t in b))


def _times(a: Term, b: Term) -> Term:
    count = Counter((*a.factors, *b.factors))
    factors = tuple(name for name in sorted(count) for _ in range(min(count[name], 2)))
    return Term(factors, a.within | b.within, a.kinked or b.kinked, a.atoms | b.atoms)


def _short(x: Sum) -> Sum:
    return x if len(x) <= MOST_TERMS else unknown_function(x, kinked=True)


def degree(term: Term, names: Collection[str]) -> int:
    """Of a term in some unknowns jointly: 0, 1, or 2 for more and for what is no polynomial."""
    return 2 if not inside([term]).isdisjoint(names) else min(sum(name in names for name in term.factors), 2)
