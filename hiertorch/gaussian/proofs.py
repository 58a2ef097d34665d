"""What values at a few places must not contradict: what was traced, that functions change with what they read, and that
rows read their own groups alone.

The trace proves; this is for what it can't see, such as another thread of the model's own, and costs little.

docs/decisions.md: What only values can show must be free of kinks.
"""

from collections.abc import Callable, Collection, Mapping
from math import log2

import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.data.table import Data
from hiertorch.gaussian.affine import STEP, Composed, NotAffine, Part, some_rows
from hiertorch.gaussian.choice import Choice
from hiertorch.gaussian.slots import Slots, slots_of, with_slots
from hiertorch.gaussian.terms import Sum, inside
from hiertorch.gaussian.terms import reads as read_by
from hiertorch.model.latent import Values

CLOSE = 1e-8
"""Of the largest entry, by which what is equal may differ by rounding."""

FEW = 3
"""Probes at which the mean is moved far."""


def check_trace(composed: Composed, choice: Choice, here: Mapping[str, Tensor], rows: Data) -> None:
    """Holds at a few places what the trace says of the innovations, that the mean is affine in them and no scale reads
    them, and of all latents, that what is not read changes nothing.
    """
    pieces, names = choice.pieces, list(composed.part)
    anchor = {name: x[:1].expand_as(x) for name, x in here.items()}
    chains = count(here)

    def same(read: Collection[str], piece: Callable[[Mapping[str, Tensor]], Tensor]) -> bool:
        return close(piece(anchor), piece({name: anchor[name] if name in read else x for name, x in here.items()}))

    unread = [name for name in names if name not in read_by(pieces.mean)]
    followed = same(read_by(pieces.mean), lambda x: composed.mean(x, {}, rows, chains))
    followed &= same(read_by(pieces.scale.terms), lambda x: composed.scale(x, rows, chains))
    for name, terms in pieces.roots.items():
        followed &= same(read_by(terms), lambda x, name=name: composed.root(name, composed.zeros(x, chains)))  # type: ignore[misc]

    few = {name: x[:FEW] for name, x in here.items()}
    chains = count(few)
    generator = torch.Generator(rows.device).manual_seed(0)
    far = float(composed.mean(few, {}, rows, chains).abs().max())  # against which differences must not vanish
    far = 2.0 ** round(log2(far)) if 1.0 < far < torch.inf else 1.0

    def random(size: float) -> dict[str, Tensor]:
        shapes = {name: (chains, part.size, *part.events[name]) for name, part in composed.part.items()}
        return {name: size * torch.randn(shape, dtype=rows.dtype, device=rows.device, generator=generator)
                for name, shape in shapes.items()}  # fmt: skip

    along = random(far)
    moved = {name: along[name] for name in unread}
    if not followed or not close(composed.mean(few, {}, rows, chains), composed.mean(few, moved, rows, chains)):
        raise NotAffine("the model depends on latents in a way that can't be followed")
    slopes = [composed.difference(few, random(s * far), along, rows, chains) for s in (0.0, 1.0, 10.0)]
    if not all(close(slopes[0], slope) for slope in slopes[1:]):
        raise NotAffine(f"the mean of the likelihood is not affine in {wording.quoted(names)} together")
    nothing = composed.zeros(few, chains)
    other = Values({**nothing, **random(far)}, composed.names)
    scales = [composed.model.likelihood(v, rows).stddev for v in (nothing, other)]
    for name in names:
        scales += [composed.root(name, v) for v in (nothing, other)]
    if not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(scales[::2], scales[1::2], strict=True)):
        raise NotAffine(f"a scale depends on {' or '.join(map(repr, names))}")


def check_seen(
    what: str, terms: Sum, here: Mapping[str, Tensor], at: Callable[[Mapping[str, Tensor], int], Tensor]
) -> None:
    """Raises where a function of a latent is the same wherever this latent is: it is so here, but where not?

    Polynomials that are the same at so many values are so everywhere, as in a - (a - b), whose terms in a cancel.
    """
    anchor = {name: x[:1].expand_as(x) for name, x in here.items()}
    before = at(anchor, 0)
    for name in sorted(inside(terms)):
        moved = {**anchor, name: here[name]}
        if all(close(before, at(moved, i)) for i in range(1, count(here))):
            raise NotAffine(f"{what} depend on {name!r}, but were seen to change with it nowhere")


def find_slots(
    composed: Composed, designs: Mapping[Part, Tensor], here: Mapping[str, Tensor], rows: Data
) -> dict[str, Slots]:
    """What all rows of the data read of the plates of which some read other groups than their own."""
    found, generator = dict[str, Slots](), torch.Generator(rows.device).manual_seed(1)
    for part, design in designs.items():
        if part.plate is None:
            continue
        one = [{name: x[i : i + 1] for name, x in here.items()} for i in range(count(here))]
        t = torch.randn(part.width, part.size, 1, dtype=rows.dtype, device=rows.device, generator=generator)

        def slope(at: Mapping[str, Tensor], part: Part = part, t: Tensor = t) -> Tensor:
            return composed.difference(at, {}, part.split(STEP * t), rows, 1)[0] / STEP

        own = t[:, rows[part.plate], 0]
        if all(close(slope(at), (columns * own).sum(0)) for at, columns in zip(one, design, strict=False)):
            continue
        found[part.plate] = composed.slots(one[0], part, composed.data)
        read = slots_of(some_rows(with_slots(composed.data, found)), part.plate).read(t.permute(2, 1, 0))[0]
        if not all(close(slope(at), read) for at in one):
            names = wording.quoted([*part.events])
            raise NotAffine(f"rows read several groups of {part.plate!r}, with coefficients of {names} that change")
    return found


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, in units of the largest entry."""
    largest = max(float(a.abs().max()), float(b.abs().max())) if a.numel() else 0.0
    return bool(((a - b).abs() <= CLOSE * max(largest, 1e-300)).all())


def count(probes: Mapping[str, Tensor]) -> int:
    """How many probes there are; one of nothing."""
    return next((x.shape[0] for x in probes.values()), 1)
