"""Draws of several runs joined, chain beside chain: what was drawn on two evenings, or on two machines.

Note [When draws may be joined]
    Runs must be of the same rows, model and latents, and independent of one another: the same random numbers twice are
    one run. They may have been sampled in different ways. A draw of each must stand for as many sweeps, since effective
    draws are counted from autocorrelations of all chains: those of the finer run are thinned. Chains have one length,
    that of the shortest, of which the last draws are kept. Whatever is left out is said.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.joinable import check_names, checked, runs_of, sweeps_of
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError, warn
from hiertorch.gaussian.redraw import Redraw


def joined(posteriors: Iterable[Fit]) -> Fit:
    """The chains of several runs of one model and data as one; see `hiertorch.posterior.concat`."""
    parts = checked(posteriors)
    runs, each = [one for part in parts for one in runs_of(part)], math.lcm(*map(sweeps_of, parts))
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
    check_names(parts, {**every, **redrawn})
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
    steps = [each // sweeps_of(part) for part in parts]
    number = min(part.n_draws // step for part, step in zip(parts, steps, strict=True))
    sweeps = ", ".join(f"{part.n_draws} of {sweeps_of(part)} sweeps" for part in parts)
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
        **runs[0],
        **{key: value for key, value in found.items() if value is not None},
        "collapsed": runs[0].get("collapsed") if len({run.get("collapsed") for run in runs}) == 1 else None,
        "thin": thin,
        "interval": each // thin,
        "seconds": {what: sum(seconds.get(what, 0.0) for seconds in spent) for seconds in spent for what in seconds},
        "findings": list(dict.fromkeys(finding for run in runs for finding in run.get("findings", ()))),
        "joined": joined,
    }
