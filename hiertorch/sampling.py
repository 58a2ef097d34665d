"""`sample` and `plan`: a model and its data in, a posterior out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from hiertorch.data.table import Data
from hiertorch.fitting import fit
from hiertorch.fitting import resume as fit_on
from hiertorch.model.model import Model
from hiertorch.monitors import Monitor
from hiertorch.posterior import Posterior
from hiertorch.run.choosing import choose
from hiertorch.run.engine import EngineMaker
from hiertorch.run.options import Options
from hiertorch.run.plan import MoveSpec, Plan
from hiertorch.run.until import Until
from hiertorch.runtime.surroundings import at_home


@at_home
def plan(
    model: Model,
    data: Data,
    *,
    moves: Plan | EngineMaker | Sequence[MoveSpec] | None = None,
    collapse: bool = True,
    prior_only: bool = False,
) -> Plan:
    """The moves that `sample` would run, with their reasons; `print` it.

    Args:
        model: checked against the data first.
        data: what it will be fitted to.
        moves: a plan of this model and these data, whose steps then are these; or your own instead, such as
            `[("groupwise", ["alpha"]), ("centred", ["mu", "tau"], 3), MyMove(["beta"])]`, where MyMove is a class of
            yours (see `hiertorch.moves.base.Move`); `plan(...).spec` is the default in this form. Or the class of an
            engine of your own, which moves the chains in its own way (see `hiertorch.run.engine.Engine`).
        collapse: integrate effects and coefficients out where the model is Gaussian in them; the plan says why it is
            not otherwise. False takes the moves that serve any model.
        prior_only: leave the likelihood out.

    Raises:
        ModelError, DataError: see `Model.check`; also for moves that don't fit, and a plan of another model or of other
            data.
    """
    Options(collapse=collapse, prior_only=prior_only)  # checks them
    return choose(model, data, moves, collapse=collapse, prior_only=prior_only)


@at_home
def sample(
    model: Model,
    data: Data,
    *,
    chains: int | None = None,
    warmup: int | None = None,
    draws: int | None = None,
    thin: int | None = None,
    until: Until | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
    keep: Iterable[str] | None = None,
    keep_all: bool = False,
    monitors: Iterable[Monitor] = (),
    progress: bool = True,
    log_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    every: float = 30.0,
    overwrite: bool = False,
    keep_in_memory: int | float | str | None = None,
    spread: Literal["chains", "rows"] | None = None,
    plan: Plan | EngineMaker | Sequence[MoveSpec] | None = None,
    collapse: bool = True,
    compile: bool | Literal["auto"] = "auto",
    init: Mapping[str, object] | None = None,
    start: Posterior | None = None,
    prior_only: bool = False,
) -> Posterior:
    """Draws from p(latents | data) by adaptive Metropolis-Hastings: `warmup` sweeps that learn, then others,
    every `thin`-th of which gives a draw, until there are enough.

    Args:
        model: see `Model`; it is checked first, and not changed.
        data: its response, columns and groupings. A leading chain axis on response or weights gives each chain data of
            its own, and then no warning says that chains disagree.
        chains: run side by side in one batch. Left out: 16 to 256 of a collapsed model, the fewer the more numbers a
            draw has (8 where a density takes milliseconds), and 8 to 64 of others, the fewer the more rows there are.
        warmup: sweeps during which proposals are tuned, pooled over chains. Left out: 100 of a collapsed model for
            every three dimensions that are sampled; 40 to 200 of one whose likelihood is replaced by a Gaussian
            surrogate in its proposals, until these have settled (`hiertorch.run.rounds`); and 250 to 1000 of others,
            until chains agree, or a fifth of that after `start`. `posterior.run` says how many it came to.
        draws: of each chain. Left out, the run goes on until the worst parameter has an ESS of 1000 and an R-hat of
            1.01, as with `until=ht.Until()`, and for 8000 draws at most: 3200 of a model whose likelihood is replaced
            by a Gaussian surrogate in its proposals, 2000 or more of a collapsed one with very many numbers a draw.
            Chains with data of their own make an eighth of that most. At most 32,000 of all chains together are stored,
            evenly thinned: whenever there are more, every other one is dropped and the interval doubles.
            `posterior.run` says which "interval" it came to.
        thin: sweeps for each draw. Left out: 1, or 2 of models that don't collapse and have fewer than 100,000 rows
            times chains.
        until: a goal, `ht.Until(ess=1000, rhat=1.01, seconds=60)`: the run looks at its draws after `draws` of each
            chain (left out: 960 over the root of the chains, at least 100), 1.5 times as many, and so on, at the end of
            a window of sweeps, and ends when every parameter that is kept has reached the goal. A warning says so if a
            bound comes first, and `posterior.run["until"]` how it ended.
        seed: of all randomness; the same seed on the same machine gives the same draws. Left out: a random one,
            reported in `posterior.run`.
        device: "cpu", "cuda", ...; left out, where the data are.
        dtype: torch.float64, or torch.float32 for speed.
        keep: names of the latents to store; all if left out, but for effects of very many groups that were integrated
            out, which `Posterior.redraw` draws again.
        keep_all: store all draws, however many. Left out, the most are 32,000 of all chains together, but at least 8
            of each chain, and all where chains have data of their own.
        monitors: told of every window of sweeps; see `hiertorch.monitors.Monitor`.
        progress: show a bar, and above it the priors that the data chose. What `Data.check` finds to be an error or a
            warning is a `SamplingWarning`, with the bar or without.
        log_dir: folder for a TensorBoard dashboard.
        checkpoint: folder into which the run is written as it goes, so that `resume` goes on if it was killed, and
            gives the draws of a run that was not; `Posterior.load` reads what there is at any time.
        every: seconds between two writings at least; one more comes when the run ends, also by Ctrl-C or SIGTERM.
        overwrite: replaces a run that the folder has.
        keep_in_memory: bytes, or text such as "2 GiB", up to which draws are held in memory, half of what is free if
            left out. With `checkpoint`, what is more is in files in its folder, gone through piece by piece, and takes
            their space twice; without, draws are thinned until they fit, where this is given.
        spread: what several processes (`torchrun`, or a group of `torch.distributed`) have each: "chains" of the run,
            with all rows, or "rows" of some of the groups, with all chains, so that each holds the effects and the
            numbers by row of its own groups alone; the first one returns all groups. Rows are for models with effects
            of one grouping whose likelihood is replaced by a Gaussian surrogate; others are refused in a sentence.
            Left out: rows from 5,000,000 on where that can be, and then `posterior.run` has "spread"; else chains.
        plan: moves other than the default ones, or an engine of your own; see the `moves` of `hiertorch.plan`.
        collapse: see `hiertorch.run.plan`: in a Gaussian model only scales and correlations are sampled.
        compile: fuse the pass over the rows with `torch.compile` (seconds at the start, then several times faster):
            "auto" does so when the run is long enough to pay.
        init: latent -> starting value that broadcasts to `(chains, size, *event)`; the others start at draws from the
            middle of their prior.
        start: a posterior of the same model, given other rows, weights or groups: chains begin where its chains ended,
            with the tuning that they had; the warm-up of ordinary moves is a fifth as long unless `warmup` is given.
        prior_only: leave the likelihood out and draw from the prior, by the same moves.

    Returns:
        A `Posterior`. After Ctrl-C it holds what was drawn so far and is marked as interrupted. SIGTERM and SIGHUP
        raise SystemExit(143) and SystemExit(129), and an error of the likelihood or of a thread raises as it is, each
        with what was drawn so far as its `posterior`, which `log_dir` keeps as `draws.safetensors`.

    Raises:
        ModelError, DataError: what `Model.check` found, before anything is sampled.
        SamplingError: for settings that can't work, or when no finite starting point is found; it names the latent to
            blame.
        RunFolderError: if `log_dir` can't be written.
    """
    options = Options(
        chains=chains, warmup=warmup, draws=draws, thin=thin, until=until, seed=seed, device=device, dtype=dtype,
        keep=keep, keep_all=keep_all, monitors=monitors, progress=progress, log_dir=log_dir, checkpoint=checkpoint,
        every=every, overwrite=overwrite, keep_in_memory=keep_in_memory, spread=spread, plan=plan,
        collapse=collapse, compile=compile, init=init, start=start, prior_only=prior_only,
    )  # fmt: skip
    return fit(model, data, options, Posterior)


@at_home
def resume(folder: str | Path, model: Model | None = None, data: Data | None = None, **settings: Any) -> Posterior:
    """Goes on with a run of `ht.sample(model, data, checkpoint=folder)` that was stopped, however it was, and gives the
    draws that it would have given; or with one that has ended, if more draws are asked for.

    Args:
        folder: of the run.
        model: that was fitted; it is held against what the folder says of it. Left out, it is made again as
            `Posterior.load` does it, which can be done of formulas, ready models, and classes of your own.
        data: likewise.
        settings: what may be another than it was: draws, until, device, monitors, progress, log_dir, every,
            keep_in_memory; and plan,
            where the run had been given one. Others may be said again.

    Raises:
        DataError: if the folder has no run, for other data, or for a file that is damaged.
        ModelError: for another model or plan.
        SamplingError: for settings that can't change.
        RunFolderError: if another run is going on in the folder.
    """
    return fit_on(folder, model, data, settings, Posterior)
