"""Whether draws of several runs may be joined: checked beforehand, and said in words where not.

docs/decisions.md: Joined runs must be independent.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

import numpy as np
import torch

from hiertorch.draws.agreement import disagreement
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError

ALIKE = 0.1
"""Share of draws that two independent runs can't have in common: a chain that stands still where it started is less."""

NUMBERS = 8
"""Of each latent, and latents, by which a draw is known again."""


def checked(posteriors: Iterable[Fit]) -> list[Fit]:
    """Two posteriors or more, of one model and data, independent of one another.

    Raises:
        DataError: if they are not.
    """
    if isinstance(posteriors, Fit) or not isinstance(posteriors, Iterable):
        raise DataError(f"concat takes a list of posteriors, ht.concat([a, b]); found {type(posteriors).__name__}.")
    parts = list(posteriors)
    for part in parts:
        if not isinstance(part, Fit):
            raise DataError(f"concat takes a list of posteriors, ht.concat([a, b]); one of them is {part!r}.")
        if part.drawn().run.get("own_data"):
            raise DataError(
                "each chain of this run has data of its own, so that together they are no draws from one posterior: "
                "more draws of each come from a longer run."
            )
    if len(parts) < 2:
        raise DataError(f"concat takes two posteriors or more, and there is {len(parts) or 'none'}: use it as it is.")
    for other in parts[1:]:
        _check_data(parts[0], other)
        _check_latents(parts[0], other)
    for one, other in combinations(parts, 2):
        _check_independent(one, other)
    _check_densities(parts)
    return parts


def _check_data(one: Fit, other: Fit) -> None:
    here, there = one.fingerprint, other.fingerprint
    if here is not None and there is not None:
        if found := here.differences(there) or there.differences(here):
            raise DataError(f"these posteriors are of other data: {'; '.join(found)}. Join runs of the same data.")
    elif here is not there:
        raise DataError(
            "one of these posteriors knows which data it was drawn from, and one, made by hand, does not: join what a "
            "run or a file gives."
        )
    for plate in one.labels.keys() & other.labels.keys():
        if list(one.labels[plate]) != list(other.labels[plate]):
            raise DataError(f"the groups of {plate!r} are others, or in another order: join runs of the same data.")


def _check_latents(one: Fit, other: Fit) -> None:
    texts = [str(part.run.get("model_text", "")) for part in (one, other)]
    if texts[0] != texts[1]:
        raise DataError(
            f"these posteriors are of other models. One prints as\n{texts[0]}\nand one as\n{texts[1]}\nJoin runs "
            "of the same model, with the same priors."
        )
    if bool(one.run.get("prior_only")) != bool(other.run.get("prior_only")):
        raise DataError("one of these posteriors leaves the likelihood out (prior_only=True), and is another one.")
    for name in (name for name in one.names if name in other.draws):
        here, there = (
            f"{tuple(part.draws[name].shape[2:])} of {part.draws[name].dtype} over {part.plates[name]}, called "
            f"{part.event_labels[name]}"
            for part in (one, other)
        )
        if here != there:
            raise DataError(f"a draw of {name!r} is {here} in one and {there} in another: join runs of the same kind.")


def _check_independent(one: Fit, other: Fit) -> None:
    for here in runs_of(one):
        for there in runs_of(other):
            if here["seed"] is not None and here["seed"] == there["seed"] and here["collapsed"] == there["collapsed"]:
                raise DataError(
                    f"two of these runs have seed {here['seed']}: their random numbers are the same, and so are their "
                    "draws, or nearly. Run one again with another seed=."
                )
    names = [name for name in one.names if name in other.draws][:NUMBERS]
    first, second = _known_again(one, names), _known_again(other, names)
    both = len(np.intersect1d(first, second))
    if both > ALIKE * min(len(first), len(second)):
        raise DataError(f"{both} draws of these posteriors are the same to the bit: they are of one run. Join it once.")


def _known_again(posterior: Fit, names: Sequence[str]) -> np.ndarray:
    """The first numbers of every draw, each draw as one value; a draw that comes twice is there once."""
    if not names:
        return np.empty(0)
    flat = torch.cat([posterior.draws[name].flatten(2)[..., :NUMBERS] for name in names], -1)
    rows = flat.flatten(0, 1).double().cpu().contiguous().numpy()
    return np.unique(rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0])


def _check_densities(parts: Sequence[Fit]) -> None:
    """That models which print alike are one, as far as one of them is known."""
    known = next((part.origin for part in parts if part.origin is not None), None)
    effects = next((part.unstored for part in parts if part.unstored is not None), None)
    if known is None:
        return
    for part in parts:
        collapsed = effects.collapsed if part.run.get("collapsed") and effects is not None else None
        if off := disagreement(part, known.model, known.data, known.reads, collapsed):
            raise DataError(
                "these posteriors are of models that print alike and are others: at draws of one, the log density of "
                f"another's differs from what the run has noted, by up to {off:.3g} beyond a constant."
            )


def check_names(parts: Sequence[Fit], known: Collection[str]) -> None:
    """That every latent of one is known of all.

    Raises:
        DataError: if not.
    """
    for name in dict.fromkeys(name for part in parts for name in part.names):
        if name not in known:
            raise DataError(
                f"one of these posteriors has draws of {name!r}, which another did not store: join runs with the same "
                "keep=."
            )


def runs_of(posterior: Fit) -> list[dict[str, object]]:
    """The runs that a posterior is made of, each in short."""
    run = posterior.run
    alone = {
        "seed": run.get("seed"),
        "chains": posterior.chains,
        "draws": posterior.n_draws,
        "sweeps_each": sweeps_of(posterior),
        "collapsed": run.get("collapsed"),
        "status": run.get("status"),
        "versions": run.get("versions"),
    }
    return list(run.get("joined") or [alone])


def sweeps_of(posterior: Fit) -> int:
    """Sweeps that a stored draw stands for."""
    return int(posterior.run.get("thin", 1)) * posterior.interval
