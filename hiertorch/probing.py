"""Which latents a Gaussian likelihood is linear in, found by probing a model that knows nothing of it.

Note [Probing]
The mean is evaluated as a function of all innovations. It is affine if its differences are the same at places far
apart. Its columns are its differences along one innovation of *all* groups at once: a row reads its own group alone,
which a random direction proves or disproves. The step of these differences is a large power of 2, which makes them
exact to the last digit, as those of an affine function are whatever the step. (`torch.func.jvp` gives the same numbers
and costs a process two seconds, in which it imports a compiler.) All this is done on some rows at a few draws from the
prior; `hiertorch.collapse` then holds the whole factorisation against the model's own density, on all rows.
"""

from collections.abc import Mapping, Sequence
from math import log2, prod

import torch
from torch import Tensor
from torch.distributions import Normal

from hiertorch.affine import STEP, Affine, Composed, NotAffine, Part, normal_root, some_rows
from hiertorch.data import Data
from hiertorch.declared import overrides
from hiertorch.latent import Values
from hiertorch.model import Model
from hiertorch.space import Coordinate, Space
from hiertorch.structure import Reads, coordinates_of

__all__ = ["find"]

MOST_STRATA = 6
CLOSE = 1e-8


def find(model: Model, data: Data, reads: Reads) -> Affine:
    """What the model is linear-Gaussian in.

    Raises:
        NotAffine: with the reason, if it is not.
    """
    _refuse(model, data, reads)
    coordinates = coordinates_of(model, reads)
    space = Space(coordinates).to(data.device, data.dtype)
    drawn = space.unconstrain({name: x.to(data.dtype) for name, x in reads.values.items()})
    probes = space.constrain({name: u.clamp(-2.0, 2.0) for name, u in drawn.items()})
    normal = [name for name in model.latents if normal_root(reads.distributions[name]) is not None]
    read_by_others = {parent for name, parents in reads.priors.items() if name not in normal for parent in parents}
    linear = [name for name in normal if name not in read_by_others]
    rows = some_rows(data)
    while True:
        composed = Composed(model, data, _parts(model, data, linear, coordinates))
        drop = _in_scales(composed, probes, rows, reads) or _curved(composed, probes, rows)
        if drop is None:
            break
        linear.remove(drop)
    rest = tuple(name for name in model.latents if name not in composed.part)
    for name in rest:
        if (plate := model.latents[name].plate) is not None:
            family = type(reads.distributions[name]).__name__
            why = f"its prior is {family} and not Normal" if name not in normal else "a scale or another prior reads it"
            raise NotAffine(f"{name!r} varies over {plate!r} and can't be integrated out: {why}")
    if not composed.part:
        raise NotAffine("the mean of the likelihood is linear in no latent with a normal prior")
    here = {name: probes[name] for name in rest}
    anchor = {name: x[:1] for name, x in here.items()}
    designs = _designs(composed, here, rows)
    _check_groups(composed, designs, here, rows)
    held = _held(composed, here, rows)
    strata, of_row = _strata(composed, here, rows)
    first = [int((of_row == s).nonzero()[0]) for s in range(len(strata))]
    witnesses = _alone(composed, rows, torch.tensor(first, device=data.device), here)
    turning = {}
    for part, design in designs.items():
        if not _close(design[1:], design[:1].expand_as(design[1:])):
            turning[part.plate] = _turning(part, design, rows)
    roots = {name: composed.root(name, composed.zeros(here, _count(probes))) for name in composed.part}
    shared = frozenset(name for name, root in roots.items() if bool((root == root[:, :1]).all()))
    settled = frozenset(name for name, root in roots.items() if bool((root == root[:1]).all()))
    lean = _lean(composed, here, roots)
    return Affine(composed, rest, held, shared, settled, lean, anchor, here, strata, witnesses, turning)


def _lean(composed: Composed, here: Mapping[str, Tensor], roots: Mapping[str, Tensor]) -> bool:
    """Whether priors built with one chain of zeros, have the same spreads: it saves chains x groups."""
    try:
        v = composed.zeros(here, 1)
        return all(torch.equal(*torch.broadcast_tensors(composed.root(name, v), root)) for name, root in roots.items())
    except Exception:  # such as of code that asks a latent for the number of chains
        return False


def _refuse(model: Model, data: Data, reads: Reads) -> None:
    """What can be said without probing."""
    for method in ("log_prob", "log_likelihood", "log_prior_term"):
        if overrides(model, method):
            raise NotAffine(f"the model overrides {method}")
    if type(reads.response) is not Normal:
        raise NotAffine(f"the likelihood is {type(reads.response).__name__}, not Normal")


def _parts(model: Model, data: Data, linear: Sequence[str], coordinates: Mapping[str, Coordinate]) -> list[Part]:
    """The population first, if it has any, then plates by first appearance."""
    plates: dict[str | None, dict[str, tuple[int, ...]]] = {}
    for name in sorted(linear, key=lambda n: model.latents[n].plate is not None):  # stable
        plates.setdefault(model.latents[name].plate, {})[name] = coordinates[name].event
    return [Part(plate, 1 if plate is None else data.size(plate), events) for plate, events in plates.items()]


def _count(probes: Mapping[str, Tensor]) -> int:
    return next(iter(probes.values())).shape[0]


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, in units of the largest entry."""
    largest = max(float(a.abs().max()), float(b.abs().max())) if a.numel() else 0.0
    return bool(((a - b).abs() <= CLOSE * max(largest, 1e-300)).all())


def _in_scales(composed: Composed, probes: Mapping[str, Tensor], rows: Data, reads: Reads) -> str | None:
    """A population-level latent on which a spread or the scale of the rows depends, None if there is none."""
    chains = _count(probes)
    nothing = composed.zeros(probes, chains)

    def scales(v: Values) -> list[tuple[str, Tensor]]:
        found = [(f"the prior of {name!r}", composed.root(name, v)) for name in composed.part]
        return [*found, ("the likelihood", composed.model.likelihood(v, rows).stddev)]

    before = scales(nothing)
    for name, part in composed.part.items():
        moved = Values({**nothing._tensors, name: probes[name]}, composed.names)
        for (what, a), (_, b) in zip(before, scales(moved), strict=True):
            if a.shape != b.shape or not torch.equal(a, b):
                if part.plate is not None:
                    raise NotAffine(f"the scale of {what} depends on {name!r}")
                return name
    return None


def _curved(composed: Composed, probes: Mapping[str, Tensor], rows: Data) -> str | None:
    """A population-level latent without which the mean is linear in the others, None if it is linear in all."""
    chains = _count(probes)
    generator = torch.Generator(rows.device).manual_seed(0)

    far = float(composed.mean(probes, {}, rows, chains).abs().max())  # against which differences must not vanish
    far = 2.0 ** round(log2(far)) if 1.0 < far < torch.inf else 1.0

    def random(scale: float, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: scale * torch.randn(probes[name].shape, dtype=rows.dtype, device=rows.device, generator=generator)
                for name in names}  # fmt: skip

    def linear(names: Sequence[str], moving: Sequence[str]) -> bool:
        """Whether derivatives along `names` are the same wherever `moving` are."""
        along = random(far, names)
        slopes = [composed.difference(probes, random(s * far, moving), along, rows, chains) for s in (0.0, 1.0, 10.0)]
        return all(_close(slopes[0], slope) for slope in slopes[1:])

    every = tuple(composed.part)
    if not every or linear(every, every):
        return None
    for name in every:
        if composed.part[name].plate is not None and not linear((name,), (name,)):
            raise NotAffine(f"the mean of the likelihood is not affine in {name!r}")
    for name in every:
        others = tuple(other for other in every if other != name)
        if composed.part[name].plate is None and (not linear((name,), (name,)) or linear(others, others)):
            return name
    raise NotAffine(f"the mean of the likelihood is not affine in {', '.join(map(repr, every))} together")


def _designs(composed: Composed, here: Mapping[str, Tensor], rows: Data) -> dict[Part, Tensor]:
    """Each part's design at each probe, `(probes, width, rows)`."""
    each = [{name: x[i : i + 1] for name, x in here.items()} for i in range(_count(here))] if here else [{}]
    found = [composed.design(one, rows)[1] for one in each]
    return {part: torch.stack([columns[part.plate] for columns in found]) for part in composed.parts}


def _check_groups(composed: Composed, designs: Mapping[Part, Tensor], here: Mapping[str, Tensor], rows: Data) -> None:
    """Raises where a row reads other groups than its own."""
    generator = torch.Generator(rows.device).manual_seed(1)
    for part, design in designs.items():
        if part.plate is None:
            continue
        t = torch.randn(part.width, part.size, 1, dtype=rows.dtype, device=rows.device, generator=generator)
        one = {name: x[:1] for name, x in here.items()}
        slope = composed.difference(one, {}, part.split(STEP * t), rows, 1)[0] / STEP
        if not _close(slope, (design[0] * t[:, rows[part.plate], 0]).sum(0)):
            raise NotAffine(f"rows read groups of {part.plate!r} other than their own")


def _held(composed: Composed, here: Mapping[str, Tensor], rows: Data) -> tuple[tuple[str, int], ...]:
    """Numbers of the rest in which the mean is linear while all innovations are 0."""
    if not here:
        return ()
    chains = _count(here)
    means = composed.mean(here, {}, rows, chains)
    if _close(means, means[:1].expand_as(means)):
        return ()
    every = [(name, at) for name, x in here.items() for at in range(prod(x.shape[1:]))]
    slopes = composed.slopes(here, every, rows)
    held = [number for number, slope in zip(every, slopes, strict=True) if bool((slope != 0).any())]
    moved = torch.stack([here[name].flatten(1)[:, at] - here[name].flatten(1)[0, at] for name, at in held])
    columns = composed.slopes({name: x[:1] for name, x in here.items()}, held, rows)[:, 0]
    predicted = means[:1] + moved.T @ columns
    if not _close(means, predicted):
        raise NotAffine(f"the mean of the likelihood is not affine in {', '.join(sorted({repr(n) for n, _ in held}))}")
    return tuple(held)


def _strata(composed: Composed, here: Mapping[str, Tensor], rows: Data) -> tuple[Tensor, Tensor]:
    """log of scales over the anchor's `(strata, probes)`, and the stratum of each row."""
    if not here:
        return rows.y.new_zeros(1, 1), torch.zeros(rows.n_rows, dtype=torch.long, device=rows.device)
    scale = composed.scale(here, rows, _count(here)).log()
    ratio = (scale - scale[:1]).transpose(0, 1)
    strata, of_row = torch.unique((ratio / CLOSE).round(), dim=0, return_inverse=True)
    if len(strata) > MOST_STRATA:
        raise NotAffine(
            "the scale of the likelihood is not the same function of the latents, up to a factor, in all rows"
        )
    return strata * CLOSE, of_row


def _alone(composed: Composed, rows: Data, at: Tensor, here: Mapping[str, Tensor]) -> Data:
    """Some rows by themselves, if the likelihood reads them as it does among the others."""
    alone = rows.take(at)
    chains = _count(here) if here else 1
    try:
        same = all(_close(part(here, alone, chains), part(here, rows, chains)[:, at])
                   for part in (composed.scale, lambda r, d, c: composed.mean(r, {}, d, c)))  # fmt: skip
    except Exception as error:
        raise NotAffine(
            f"the likelihood can't be evaluated on some of the rows ({type(error).__name__}: {error})"
        ) from error
    if not same:
        raise NotAffine("the likelihood reads its rows together, not one by one")
    return alone


def _turning(part: Part, design: Tensor, rows: Data) -> tuple[Data, Tensor]:
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
    if not _close(turned, design.transpose(1, 2)):
        names = ", ".join(map(repr, part.events))
        raise NotAffine(f"the rows' coefficients of {names} change with the latents that are left, and not all alike")
    return rows.take(torch.tensor(chosen, device=rows.device)), inverse
