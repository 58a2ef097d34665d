"""Draws of several runs joined, chain beside chain: what was drawn on two evenings, or on two machines.

Note [When draws may be joined]
    Runs must be of the same rows, model and latents, and independent of one another: the same random numbers twice are
    one run. They may have been sampled in different ways. A draw of each must stand for as many sweeps, since effective
    draws are counted from autocorrelations of all chains: those of the finer run are thinned. Chains have one length,
    that of the shortest, of which the last draws are kept. Whatever is left out is said.

docs/decisions.md: Joined runs must be independent.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiertorch.draws.attaching import disagreement
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError, warn
from hiertorch.gaussian.redraw import Redraw

ALIKE = 0.1
"""Share of draws that two independent runs can't have in common: a chain that stands still where it started is less."""

NUMBERS = 8
"""Of each latent, and latents, by which a draw is known again."""


def joined(posteriors: Iterable[Fit]) -> Fit:
    """The chains of several runs of one model and data as one; see `hiertorch.posterior.concat`."""
    parts = _checked(posteriors)
    runs, each = [one for part in parts for one in _runs_of(part)], math.lcm(*map(_sweeps_of, parts))
    parts = _even(parts, each)
    first, like = parts[0], next(iter(parts[0].draws.values()))
    pools = [{**part.more, **part.draws} for part in parts]
    every = {
        name: torch.cat([pool[name].to(like.device) for pool in pools])
        for name in pools[0]
        if all(name in pool for pool in pools)
    }
    found = next((part for part in parts if part.unstored is not None), None)
    effects = None if found is None else _effects(found, every)
    redrawn = _redrawn(parts, every)
    draws = {name: x for name, x in every.items() if all(name in part.draws for part in parts)}
    _check_names(parts, {**every, **redrawn})
    more = {name: x for name, x in every.items() if name not in draws}
    run = _run(parts, runs, each)
    known = next((part.origin for part in parts if part.origin is not None), None)
    ended = [name for name in first.positions if name not in every and all(name in part.positions for part in parts)]
    result = Fit(
        draws,
        plates={name: plate for part in parts for name, plate in {**part.plates, **part.unstored_plates}.items()},
        labels=first.labels,
        event_labels={name: first.event_labels[name] for name in draws},
        stats=_stats(parts, like),
        run=run,
        interrupted=any(part.interrupted for part in parts),
        unstored=effects,
        origin=None if known is None else Fitted(known.model, known.data, like),
        tuning={move: x for part in reversed(parts) for move, x in part.tuning.items()},
        fingerprint=first.fingerprint,
        more=more,
        positions={name: torch.cat([part.positions[name].to(like.device) for part in parts]) for name in ended},
        redrawn=redrawn,
        collapsed=any(part.collapsed for part in parts) and (bool(redrawn) or effects is not None or found is None),
    )
    for sentence in result.warnings():
        warn(sentence)
    return result


def _redrawn(parts: Sequence[Fit], every: Mapping[str, Tensor]) -> dict[str, str]:
    """Effects that some did not store and can be drawn again given draws that all have, latent -> plate."""
    found: dict[str, str] = {}
    for part in parts:
        needed = [name for name in {**part.more, **part.draws} if part.plates.get(name) is None]
        if all(name in every for name in needed):
            found |= {name: plate for name, plate in part.unstored_plates.items() if name not in every}
    return found


def _effects(part: Fit, every: Mapping[str, Tensor]) -> Redraw | None:
    """What draws effects again for the draws of all; None if some lack what these are drawn given."""
    effects = part.unstored
    if effects is None or not all(name in every for name in effects.population):
        return None
    return Redraw(effects.collapsed, {name: every[name] for name in effects.population}, effects.seed)


def _even(parts: Sequence[Fit], each: int) -> list[Fit]:
    """The same posteriors with a draw for every `each` sweeps, as many in each chain: the last ones."""
    steps = [each // _sweeps_of(part) for part in parts]
    number = min(part.n_draws // step for part, step in zip(parts, steps, strict=True))
    sweeps = ", ".join(f"{part.n_draws} of {_sweeps_of(part)} sweeps" for part in parts)
    if number == 0:
        raise DataError(f"the draws of each chain, {sweeps}, have no even share: join runs with the same thin=.")
    if lost := sum(part.chains * (part.n_draws - number) for part in parts):
        every = sum(part.chains * part.n_draws for part in parts)
        warn(
            f"{lost:,} of {every:,} draws are left out, so that every chain has {number} draws of {each} sweeps each; "
            f"there were {sweeps}."
        )
    ends = [slice(part.n_draws - 1 - step * (number - 1), None, step) for part, step in zip(parts, steps, strict=True)]
    return [part.taken(draws=end) for part, end in zip(parts, ends, strict=True)]


def _stats(parts: Sequence[Fit], like: Tensor) -> Stats:
    """Of all chains; NaN is the acceptance of a block in chains that did not have it, and the log density of draws of
    which some are noted with effects and coefficients integrated out and some without.
    """
    found = [part.stats for part in parts]
    blocks = {block: plate for stats in found for block, plate in stats.blocks.items()}
    acceptance = {}
    for block in blocks:
        some = next(stats.acceptance[block] for stats in found if block in stats.acceptance)
        rates = [
            stats.acceptance.get(block, some.new_full((part.chains, *some.shape[1:]), torch.nan)).to(like.device)
            for stats, part in zip(found, parts, strict=True)
        ]
        acceptance[block] = torch.cat(rates)
    density = torch.cat([stats.log_density.to(like.device) for stats in found])
    if len({part.run.get("collapsed") for part in parts}) > 1:
        density = torch.full_like(density, torch.nan)
    nan = {block: sum(stats.nan.get(block, 0) for stats in found) for stats in found for block in stats.nan}
    return Stats(acceptance, blocks, density, nan)


def _run(parts: Sequence[Fit], joined: list[dict[str, object]], each: int) -> dict[str, object]:
    """What was run, in the words of the first; counts of all."""
    runs = [part.run for part in parts]
    thins = [int(run.get("thin", 1)) for run in runs]
    thin = thins[0] if len(set(thins)) == 1 else 1
    asked = [int(run["draws"]) * own for run, own in zip(runs, thins, strict=True) if "draws" in run]
    spent = [run.get("seconds") or {} for run in runs]
    audits = sorted((run["audit"] for run in runs if "audit" in run), key=lambda audit: bool(audit["sound"]))
    stopped: dict[str, Any] = next((part.run for part in parts if part.interrupted), {})
    found = {
        "chains": sum(part.chains for part in parts),
        "draws": max(asked, default=0) // thin or None,
        "sweeps": max(int(run.get("sweeps", 0)) for run in runs) or None,
        "audit": audits[0] if audits else None,
        "status": stopped.get("status"),
        "ended_by": stopped.get("ended_by"),
    }
    return {
        **{key: value for key, value in runs[0].items() if key != "until"},  # how that one ended
        **{key: value for key, value in found.items() if value is not None},
        "collapsed": runs[0].get("collapsed") if len({run.get("collapsed") for run in runs}) == 1 else None,
        "thin": thin,
        "interval": each // thin,
        "seconds": {what: sum(seconds.get(what, 0.0) for seconds in spent) for seconds in spent for what in seconds},
        "findings": list(dict.fromkeys(finding for run in runs for finding in run.get("findings", ()))),
        "joined": joined,
    }


def _checked(posteriors: Iterable[Fit]) -> list[Fit]:
    """Two posteriors or more, of one model and data, independent of one another, or a DataError if they are not."""
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
    for here in _runs_of(one):
        for there in _runs_of(other):
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


def _check_names(parts: Sequence[Fit], known: Mapping[str, object]) -> None:
    """That every latent of one is known of all."""
    for name in dict.fromkeys(name for part in parts for name in part.names):
        if name not in known:
            raise DataError(
                f"one of these posteriors has draws of {name!r}, which another did not store: join runs with the same "
                "keep=."
            )


def _runs_of(posterior: Fit) -> list[dict[str, object]]:
    """The runs that a posterior is made of, each in short."""
    run = posterior.run
    alone = {
        "seed": run.get("seed"),
        "chains": posterior.chains,
        "draws": posterior.n_draws,
        "sweeps_each": _sweeps_of(posterior),
        "collapsed": run.get("collapsed"),
        "status": run.get("status"),
        "versions": run.get("versions"),
    }
    return list(run.get("joined") or [alone])


def _sweeps_of(posterior: Fit) -> int:
    """Sweeps that a stored draw stands for."""
    return int(posterior.run.get("thin", 1)) * posterior.interval
