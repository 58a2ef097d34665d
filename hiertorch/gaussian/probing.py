"""What a conditionally linear-Gaussian model is made of: its dependence traced, its coefficients measured.

Note [Probing]
What depends on what, and whether it is affine, follows from the operations (`hiertorch.gaussian.pieces`,
`hiertorch.gaussian.choice`). Values only measure: the columns of the mean are its differences along one innovation of
*all* groups at once; a row reads its own group alone, which a random direction proves or disproves. The step of these
differences is a large power of 2, which makes them exact to the last digit, as those of an affine function are whatever
the step. (`torch.func.jvp` gives the same numbers and costs a process two seconds, in which it imports a compiler.)

Where columns or the rows' scales change with the rest, values also tell how: columns are those at the anchor times a
matrix, scales those at the anchor times a factor for each stratum. Functions without kinks that agree on this at the
spread, distinct values of `hiertorch.gaussian.probes` agree everywhere, but for a set of measure 0; one that may have
kinks or jumps is refused, and so is one that reads a latent and was not seen to change with it. All this is done on
some rows; `hiertorch.gaussian.discovery` then holds the whole factorisation against the model's own density, on all
rows.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from math import prod

import torch
from torch import Tensor
from torch.distributions import Normal

from hiertorch import wording
from hiertorch.data.table import Data
from hiertorch.density.space import Coordinate, Space
from hiertorch.density.structure import coordinates_of
from hiertorch.gaussian.affine import Affine, Composed, NotAffine, Part, normal_root, some_rows, valid
from hiertorch.gaussian.choice import Choice, choose
from hiertorch.gaussian.pieces import prior_reads, trace
from hiertorch.gaussian.probes import spread
from hiertorch.gaussian.proofs import CLOSE, check_seen, check_trace, close, count, find_slots
from hiertorch.gaussian.terms import Term, are_smooth
from hiertorch.gaussian.terms import reads as read_by
from hiertorch.model.declared import overrides
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads

CHAINS = 3
"""Of a trace."""

MOST_STRATA = 6
"""Kinds of rows whose scales are different functions of the latents."""


def find(model: Model, data: Data, reads: Reads, kept: Collection[str] = ()) -> Affine:
    """What the model is linear-Gaussian in; latents that are `kept` are not to be integrated out.

    Raises:
        NotAffine: with the reason, if it is not.
    """
    coordinates, rows = coordinates_of(model, reads), some_rows(data)
    normal = [n for n in model.latents if n not in kept and normal_root(reads.distributions[n]) is not None]
    _refuse(model, reads, normal)
    space = Space(coordinates).to(data.device, data.dtype)
    probes = _probes(model, data, rows, reads, normal, space)
    values = {name: probes.get(name, x.to(data.dtype)) for name, x in reads.values.items()}
    values = {name: x[torch.arange(CHAINS) % len(x)] for name, x in values.items()}

    @cache
    def parents(name: str) -> frozenset[str]:
        return reads.priors[name] | prior_reads(model, data, values, name)

    sizes = {name: c.event for name, c in coordinates.items()}
    positive = {
        name for name, c in coordinates.items()
        if c.plate is None and prod(c.event) == 1 and c.bounds is not None and c.bounds[0] >= 0.0
    }  # fmt: skip
    choice = choose(
        lambda linear: trace(model, data, rows, values, linear), normal, parents, model.latents, sizes, positive
    )
    composed = Composed(model, data, _parts(model, data, choice.linear, coordinates))
    if not composed.part:
        raise NotAffine("the mean of the likelihood is linear in no latent with a normal prior")
    rest = tuple(name for name in model.latents if name not in composed.part)
    here = {name: probes[name] for name in rest}
    anchor = {name: x[:1] for name, x in here.items()}
    check_trace(composed, choice, here, rows)
    composed = composed.with_means(choice.pieces.still, anchor)
    designs = {part: _designs(composed, part, choice, here, rows) for part in composed.parts}
    slots = find_slots(composed, designs, here, rows)
    held = _held(composed, choice, here, rows)
    strata, of_row = _strata(composed, choice, here, rows)
    first = [int((of_row == s).nonzero()[0]) for s in range(len(strata))]
    witnesses = _alone(composed, rows, torch.tensor(first, device=data.device), here)
    moving = [part for part in composed.parts if len(designs[part]) > 1]
    turning = {part.plate: _turning(composed, part, designs[part], here, rows) for part in moving}
    roots = {name: composed.root(name, composed.zeros(here, count(here))) for name in composed.part}
    shared = frozenset(
        name for name, root in roots.items() if _is_shared(root, not are_smooth(choice.pieces.roots[name]))
    )
    lean = _lean(composed, here, roots)
    return Affine(
        composed, rest, held, shared, choice.settled, choice.scaled, lean, anchor, here, strata, witnesses, turning,
        slots,
    )  # fmt: skip


def _lean(composed: Composed, here: Mapping[str, Tensor], roots: Mapping[str, Tensor]) -> bool:
    """Whether priors built with one chain of zeros, have the same spreads: it saves chains x groups."""
    try:
        v = composed.zeros(here, 1)
        return all(torch.equal(*torch.broadcast_tensors(composed.root(name, v), root)) for name, root in roots.items())
    except Exception:  # such as of code that asks a latent for the number of chains
        return False


def _refuse(model: Model, reads: Reads, normal: Sequence[str]) -> None:
    """What can be said without probing."""
    for method in ("log_prob", "log_likelihood", "log_prior_term"):
        if overrides(model, method):
            raise NotAffine(f"the model overrides {method}")
    if type(reads.response) is not Normal:
        raise NotAffine(f"the likelihood is {type(reads.response).__name__}, not Normal")
    for name, latent in model.latents.items():
        if latent.plate is not None and name not in normal:
            family = type(reads.distributions[name]).__name__
            why = f"its prior is {family} and not Normal"
            raise NotAffine(f"{name!r} varies over {latent.plate!r} and can't be integrated out: {why}")


def _probes(
    model: Model, data: Data, rows: Data, reads: Reads, normal: Sequence[str], space: Space
) -> dict[str, Tensor]:
    """Spread values of all population-level latents, at which the model is finite with effects at their means."""
    plates = [name for name in normal if model.latents[name].plate is not None]
    population = [name for name in model.latents if name not in plates]
    effects = Composed(model, data, _parts(model, data, plates, space.coordinates))

    def is_finite(values: Mapping[str, Tensor]) -> Tensor:
        chains = count(values)
        v = effects.values(values, {}, chains)
        response = model.likelihood(v, rows)
        row = response.log_prob(rows.y).expand(chains, rows.n_rows).sum(-1)
        roots = [valid(effects.root(name, v)).flatten(1).sum(-1).expand(chains) for name in normal]
        priors = [model.log_prior_term(name, v, data).sum(-1) for name in population]
        return torch.isfinite(torch.stack([row, *roots, *priors])).all(0)

    others = {name: reads.values[name][:1].to(data.dtype) for name in plates}
    return spread(model, data, space, population, others, is_finite)


def _parts(model: Model, data: Data, linear: Sequence[str], coordinates: Mapping[str, Coordinate]) -> list[Part]:
    """The population first, if it has any, then plates by first appearance."""
    plates: dict[str | None, dict[str, tuple[int, ...]]] = {}
    for name in sorted(linear, key=lambda n: model.latents[n].plate is not None):  # stable
        plates.setdefault(model.latents[name].plate, {})[name] = coordinates[name].event
    return [Part(plate, 1 if plate is None else data.size(plate), events) for plate, events in plates.items()]


def _designs(composed: Composed, part: Part, choice: Choice, here: Mapping[str, Tensor], rows: Data) -> Tensor:
    """A part's design at each probe, `(probes, width, rows)`; at the first alone if it is the same everywhere."""

    def at(values: Mapping[str, Tensor], i: int) -> Tensor:
        return composed.design({name: x[i : i + 1] for name, x in values.items()}, rows)[1][part.plate]

    terms = frozenset[Term]().union(*(choice.coefficients[name] for name in part.events))
    if not read_by(terms):
        return at(here, 0).unsqueeze(0)
    what = f"the coefficients of {wording.quoted(sorted(part.events))}"
    if not are_smooth(terms):
        raise NotAffine(f"{what} may have kinks or jumps in {wording.quoted(sorted(read_by(terms)))}")
    check_seen(what, terms, here, at)
    design = torch.stack([at(here, i) for i in range(count(here))])
    return design[:1] if close(design, design[:1].expand_as(design)) else design


def _held(composed: Composed, choice: Choice, here: Mapping[str, Tensor], rows: Data) -> tuple[tuple[str, int], ...]:
    """Numbers of the rest in which the mean is linear while all innovations are 0."""
    every = [(name, at) for name, x in here.items() if name in choice.held for at in range(prod(x.shape[1:]))]
    if not every:
        return ()
    columns = composed.slopes({name: x[:1] for name, x in here.items()}, every, rows)[:, 0]
    some = (columns != 0).any(-1)
    held, columns = [number for number, one in zip(every, some.tolist(), strict=True) if one], columns[some]
    means = composed.mean(here, {}, rows, count(here))
    moved = [here[name].flatten(1)[:, at] - here[name].flatten(1)[0, at] for name, at in held]
    if not close(means, means[:1] + (torch.stack(moved).T @ columns if held else 0.0)):
        raise NotAffine(f"the mean of the likelihood is not affine in {wording.quoted(sorted(choice.held))}")
    return tuple(held)


def _strata(composed: Composed, choice: Choice, here: Mapping[str, Tensor], rows: Data) -> tuple[Tensor, Tensor]:
    """log of scales over the anchor's `(strata, probes)`, and the stratum of each row."""
    chains, terms = count(here), choice.pieces.scale.terms
    if choice.pieces.scale.even or not read_by(terms):  # one number for each chain, times data
        return rows.y.new_zeros(1, chains), torch.zeros(rows.n_rows, dtype=torch.long, device=rows.device)
    if not are_smooth(terms):
        names = wording.quoted(sorted(read_by(terms)))
        raise NotAffine(f"the scales of the rows may have kinks or jumps in {names}, not all alike")

    def at(values: Mapping[str, Tensor], i: int) -> Tensor:
        return composed.scale({name: x[i : i + 1] for name, x in values.items()}, rows, 1)

    check_seen("the scales of the rows", terms, here, at)
    scale = composed.scale(here, rows, chains).log()
    ratio = (scale - scale[:1]).transpose(0, 1)
    strata, of_row = torch.unique((ratio / CLOSE).round(), dim=0, return_inverse=True)
    if len(strata) > MOST_STRATA:
        raise NotAffine(
            "the scale of the likelihood is not the same function of the latents, up to a factor, in all rows"
        )
    return strata * CLOSE, of_row


def _is_shared(root: Tensor, kinked: bool) -> bool:
    """Whether a prior has the same spread in all groups, `(probes or 1, groups or 1, width, width)`."""
    if root.shape[1] == 1 or root.stride(1) == 0:
        return True
    return not kinked and bool((root == root[:, :1]).all())


def _alone(composed: Composed, rows: Data, at: Tensor, here: Mapping[str, Tensor]) -> Data:
    """Some rows by themselves, if the likelihood reads them as it does among the others."""
    alone = rows.take(at)
    chains = count(here)
    try:
        same = all(close(part(here, alone, chains), part(here, rows, chains)[:, at])
                   for part in (composed.scale, lambda r, d, c: composed.mean(r, {}, d, c)))  # fmt: skip
    except Exception as error:
        raise NotAffine(
            f"the likelihood can't be evaluated on some of the rows ({type(error).__name__}: {error})"
        ) from error
    if not same:
        raise NotAffine("the likelihood reads its rows together, not one by one")
    return alone


def _turning(
    composed: Composed, part: Part, design: Tensor, here: Mapping[str, Tensor], rows: Data
) -> tuple[Data, Tensor]:
    """Rows from which the design at other values of the rest is known, and the pseudo-inverse of their design."""
    anchor = design[0].transpose(0, 1)  # (rows, width)
    chosen, left = [], anchor.clone()
    for _ in range(part.width):
        lengths = left.square().sum(1)
        at = int(lengths.argmax())
        if float(lengths[at]) <= CLOSE**2 * float(anchor.square().sum(1).max()):
            break
        chosen.append(at)
        direction = left[at] / lengths[at].sqrt()
        left = left - (left @ direction).unsqueeze(1) * direction
    inverse = torch.linalg.pinv(anchor[chosen])
    turned = anchor @ inverse @ design.transpose(1, 2)[:, chosen]
    if not close(turned, design.transpose(1, 2)):
        names = wording.quoted([*part.events])
        raise NotAffine(f"the rows' coefficients of {names} change with the latents that are left, and not all alike")
    return _alone(composed, rows, torch.tensor(chosen, device=rows.device), here), inverse
