"""A look at the draws so far: have the chains mixed, and what do we know already (tier 1).

Note [What a look sees]
All parameters are screened by the classical split R-hat, which needs no sorting. The shown ones and the WORST of the
others are then looked at closely: rank-normalised R-hat, effective draws, Monte Carlo errors and quantiles, by
`hiertorch.draws.diagnostics`. If that is much, R-hat comes from thinned draws of all chains, enough of them that its
error stays below what it is held against, and effective draws from successive draws of some of the chains, times the
number of chains: thinned draws would hide how many there are. A look says from how many draws it is.

The last one, of a run that has ended, is another: all that `Posterior.summary` shows, of all parameters and draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hiertorch.draws import summaries
from hiertorch.draws.diagnostics import digest, effective, quantile
from hiertorch.draws.fit import Fit
from hiertorch.monitors.base import RunInfo, Watch, parameter_names, spread, thinned

RHAT, ESS = summaries.LIMITS["r_hat"], summaries.LIMITS["ess_bulk"]
"""What is good enough, of all chains together (Vehtari et al. 2021, section 4)."""

LEVELS = (0.05, 0.25, 0.75, 0.95)
WORST = 10

SCREENED, FEWEST = 500_000, 10
"""Numbers that are screened, with at least so many draws of a chain; of more parameters, evenly spaced ones."""

ALL = 250_000
"""Draws x parameters of which every one is looked at closely."""

PRECISE = 500
"""R-hat of m half chains of n draws has an error of about 1 / (n sqrt(2m)): so many draws, by the root of the number of
chains, make it 0.002.
"""

RUNS, RUN = 8, 500
"""Chains, and successive draws, that tell the effective draws."""


@dataclass(frozen=True)
class Look:
    """Of P parameters, the shown ones first and then the worst of the others, each `(P,)` unless it is said."""

    names: tuple[str, ...]
    at: tuple[tuple[str, int], ...]  # their latents, and flat indices into (size, *event)
    shapes: Mapping[str, tuple[int, ...]]  # of latents, (size, *event)
    shown: int  # how many of them are shown anyway
    of: int  # draws of all chains that there were
    seen: int  # draws of all chains that R-hat, moments and quantiles are from
    draws: Tensor  # some of them, (chains, draws, P)
    screen: Tensor  # R-hat of the others that were screened, the classical one but for the last look
    mean: Tensor
    sd: Tensor
    levels: Tensor  # quantiles, (P, 4)
    rhat: Tensor  # infinite for a parameter that never moved; NaN with a single chain
    bulk: Tensor  # 0 for a parameter that never moved, as is the tail's
    tail: Tensor
    error: Tensor  # Monte Carlo standard error of the mean, by the sd
    exact: bool = False  # whether `screen` is as exact as the rest

    @property
    def all_rhat(self) -> Tensor:
        """R-hat of every parameter that was screened: the rank-normalised one where there is one. The screen has errors
        of its own: unless all of the worst that it found are bad indeed, it speaks against none of the others.
        """
        bad = self.exact or bool((self.rhat[self.shown :] > RHAT).all())
        return torch.cat([self.rhat, self.screen if bad else self.screen.clamp(max=RHAT)])

    @property
    def order(self) -> list[int]:
        """Parameters from the one whose chains agree least; with one chain, that with the fewest effective draws."""
        return sorted(range(len(self.names)), key=lambda k: (-self.rhat[k].nan_to_num().item(), self.bulk[k].item()))


class Eye:
    """Looks at a run's draws: at the parameters that are shown, and of each latent at flat indices of all that is
    stored.
    """

    def __init__(self, run: RunInfo, watch: Watch, everything: Mapping[str, Tensor]) -> None:
        self._run, self._watch, self._everything = run, watch, everything
        self.every = sum(map(len, everything.values()))

    def look(self, draws: Mapping[str, Tensor], effort: float = 1.0) -> Look:
        """Looks at draws `(chains, draws, size, *event)`; twice the effort takes twice as long."""
        chains, done = next(iter(draws.values())).shape[:2]
        screen, parts = self._screened(draws, int(SCREENED * effort))
        closer = [*self._watch.at.items(), *parts]
        places = tuple((name, k) for name, at in closer for k in at.tolist())
        shapes = {name: tuple(x.shape[2:]) for name, x in draws.items()}
        more = [text for name, at in parts for text in parameter_names(self._run, name, shapes[name], at.tolist())]
        names = (*self._watch.names, *more)
        whole = chains * done * len(names) <= ALL * effort
        kept = done if whole else 2 * math.ceil(PRECISE / 2 * effort * chains**-0.5)
        x = thinned(draws, closer, max(FEWEST, kept))
        found = digest(x, LEVELS, ess=whole)
        bulk, tail, mean = found.ess_bulk, found.ess_tail, found.ess_mean
        if not whole:
            run, step = min(done, int(RUN * effort)), max(1, chains // RUNS)
            y = thinned({name: z[::step, done - run :] for name, z in draws.items()}, closer, run)
            times = chains * done / (y.shape[0] * y.shape[1])
            bulk, tail, mean = (ess * times for ess in effective(y))
        bulk, tail, mean = (ess.nan_to_num(nan=0.0).cpu() for ess in (bulk, tail, mean))
        return Look(
            names,
            places,
            shapes,
            len(self._watch.names),
            chains * done,
            x.shape[0] * x.shape[1],
            x.cpu(),
            screen,
            found.mean.cpu(),
            found.sd.cpu(),
            found.quantiles.cpu(),
            (found.rhat if chains == 1 else found.rhat.masked_fill(found.rhat.isnan(), torch.inf)).cpu(),
            bulk,
            tail,
            mean.rsqrt(),
        )

    def conclude(self, posterior: Fit, draws: Mapping[str, Tensor]) -> Look:
        """The last look: what the summary of a posterior has of its parameters, and of latents that it left out, whose
        draws `(chains, draws, size, *event)` the run has stored.
        """
        every = {**draws, **posterior.draws}
        columns = {
            name: posterior.columns[name] if name in posterior.draws else summaries.columns(x)
            for name, x in every.items()
        }
        judged = {name: summaries.judged(every[name], found) for name, found in columns.items()}
        others = []
        for name in every:
            at = self._everything.get(name)
            if at is None:  # what the model derives of its latents, but for constants
                at = (~judged[name]["ess_bulk"].flatten().isnan()).nonzero().squeeze(1).cpu()
            others.append((name, self._unwatched(name, at)))
        screen, worst = _worst(others, torch.cat([judged[name]["r_hat"].flatten()[at].cpu() for name, at in others]))
        closer = [*self._watch.at.items(), *worst]
        shapes = {name: tuple(x.shape[2:]) for name, x in every.items()}
        names = list(self._watch.names)
        for name, at in worst:
            if name in posterior.draws:
                index = posterior.table(name, {"r_hat": judged[name]["r_hat"]}).index
                names += [str(index[k]) for k in at.tolist()]
            else:
                names += parameter_names(self._run, name, shapes[name], at.tolist())
        chains, number = posterior.chains, posterior.n_draws
        levels = [quantile(every[name].flatten(2)[:, :, at.to(every[name].device)], LEVELS) for name, at in closer]

        def of(column: str) -> Tensor:
            found = judged if column in summaries.LIMITS else columns
            return torch.cat([found[name][column].flatten()[at.to(every[name].device)].cpu() for name, at in closer])

        return Look(
            tuple(names),
            tuple((name, k) for name, at in closer for k in at.tolist()),
            shapes,
            len(self._watch.names),
            chains * number,
            chains * number,
            thinned(every, closer, max(FEWEST, 2 * math.ceil(PRECISE / 2 * chains**-0.5))).cpu(),
            screen,
            of("mean"),
            of("sd"),
            torch.cat(levels).cpu(),
            of("r_hat"),
            of("ess_bulk"),
            of("ess_tail"),
            (of("mcse_mean") / of("sd")).nan_to_num(nan=math.inf),
            exact=True,
        )

    def _unwatched(self, name: str, at: Tensor) -> Tensor:
        return at[~torch.isin(at, self._watch.at[name])] if name in self._watch.at else at

    def _screened(self, draws: Mapping[str, Tensor], numbers: int) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        """Classical split R-hat of what is not shown; and the worst, as latent and flat indices."""
        chains = len(next(iter(draws.values())))
        most = max(1, numbers // (chains * FEWEST))
        parts = []
        for name, at in self._everything.items():
            rest = self._unwatched(name, at)
            parts.append((name, rest if self.every <= most else spread(rest, max(1, most * len(rest) // self.every))))
        sizes = [len(at) for _, at in parts]
        if not sum(sizes):
            return torch.empty(0, dtype=torch.float64), []
        screen = split_rhat(thinned(draws, parts, max(FEWEST, numbers // (chains * sum(sizes)))))
        screen = screen.masked_fill(screen.isnan(), torch.inf).cpu()
        return _worst(parts, screen)


def _worst(parts: list[tuple[str, Tensor]], rhat: Tensor) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """R-hat of all but the worst; and the worst, as latent and flat indices: of parts that are such, and R-hat of each
    of their parameters.
    """
    chosen = torch.zeros(len(rhat), dtype=torch.bool)
    chosen[rhat.nan_to_num(nan=0.0).topk(min(WORST, len(rhat))).indices] = True
    split = chosen.split([len(at) for _, at in parts])
    worst = [(name, at[mask]) for (name, at), mask in zip(parts, split, strict=True) if mask.any()]
    return rhat[~chosen], worst


def split_rhat(x: Tensor) -> Tensor:
    """sqrt((B/W + n - 1) / n) of half chains, of draws `(chains, draws, P)` (Gelman et al. 2013, section 11.4)."""
    half = x.shape[1] // 2
    y = torch.cat([x[:, :half], x[:, -half:]]).double()
    return ((half * y.mean(1).var(0) / y.var(1).mean(0) + half - 1) / half).sqrt()
