"""What a run leaves: its draws, the model and the data, what it learnt. How it was sampled is unknown here.

docs/decisions.md: Fit below, Posterior on top.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Self

import pandas as pd
import torch
from torch import Tensor

from hiertorch import markup
from hiertorch.arguments import check_seed
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.data.table import Data
from hiertorch.draws import diagnostics, summaries
from hiertorch.draws.archive import Source
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.judgement import Judgement, judge
from hiertorch.draws.labelled import LabelledDraws, Stats, summary
from hiertorch.draws.naming import parameter_texts
from hiertorch.errors import DataError, UnknownNameError
from hiertorch.gaussian.redraw import Redraw
from hiertorch.model.model import Model
from hiertorch.randomness import derived
from hiertorch.runtime.surroundings import feels_at_home
from hiertorch.wording import listed

FEWEST = 8
"""Draws of each chain, below which a notebook shows no summary."""


@feels_at_home
class Fit(LabelledDraws):
    """Draws, with the model and the data that they are of.

    Args:
        draws: name -> `(chains, draws, size, *event)`; size is the number of groups, 1 for a population-level latent.
        plates: name -> plate, or None.
        labels: plate -> labels of its groups, in code order.
        event_labels: name -> one tuple of labels for each event dimension; 0, 1, ... for names left out.
        stats: what the sampler reports.
        run: what was run: model, plan, settings, seconds, versions; all that JSON can hold. Its "draws" were asked for,
            each after "thin" sweeps, and every "interval"-th of them is stored.
        interrupted: whether the run was stopped before it had all its draws.
        unstored: what draws effects again that were not stored.
        origin: the model and the data.
        tuning: move -> what warm-up has learnt for it, for runs that start from this one.
        fingerprint: of the data, for draws whose data are not there.
        more: draws of population-level latents that `draws` leave out, likewise shaped.
        positions: where chains ended, latent -> `(chains, size, *event)`, of latents whose draws are not there.
        redrawn: latent -> plate, of effects that were not stored and could be drawn again if `unstored` were given.
        collapsed: whether effects were integrated out in the run, as they were if `unstored` is given.

    Attributes:
        outline: how new rows are read, of draws that were saved without their rows.
        source: what the file from which they were loaded has of model and data.
        lacks: why a loaded posterior does not know its model and data.

    Raises:
        DataError: if shapes, plates and labels don't fit one another.
    """

    def __init__(
        self,
        draws: Mapping[str, Tensor],
        *,
        plates: Mapping[str, str | None],
        labels: Mapping[str, pd.Index],
        event_labels: Mapping[str, tuple[tuple[Hashable, ...], ...]],
        stats: Stats,
        run: Mapping[str, object],
        interrupted: bool = False,
        unstored: Redraw | None = None,
        origin: Fitted | None = None,
        tuning: Mapping[str, Mapping[str, Tensor]] | None = None,
        fingerprint: Fingerprint | None = None,
        more: Mapping[str, Tensor] | None = None,
        positions: Mapping[str, Tensor] | None = None,
        redrawn: Mapping[str, str] | None = None,
        collapsed: bool = False,
    ) -> None:
        self.draws = {name: x.detach() for name, x in draws.items()}
        self.plates = {name: plates.get(name) for name in draws}
        self.labels = dict(labels)
        integers = {name: tuple(tuple(range(k)) for k in x.shape[3:]) for name, x in draws.items()}
        self.event_labels = {name: event_labels.get(name, integers[name]) for name in draws}
        self.stats = stats
        self.run = dict(run)
        self.interrupted = interrupted
        self.check_shapes()
        self.tuning = dict(tuning or {})
        self.unstored = unstored
        self.origin = origin
        self._fingerprint = fingerprint
        self.unstored_plates = {
            name: str(plates[name]) for name in (unstored.names if unstored else ()) if name not in draws
        } or dict(redrawn or {})
        self.more = dict(more or {})
        self.positions = dict(positions or {})
        self.collapsed = collapsed or unstored is not None
        self.outline: Fitted | None = None
        self.source: Source | None = None
        self.lacks = ""

    @classmethod
    def of(cls, fit: "Fit") -> Self:
        """The same draws as of this class, with what was computed of them."""
        if type(fit) is cls:
            return fit
        other = cls.__new__(cls)
        other.__dict__.update(fit.__dict__)
        return other

    def taken(self, chains: slice = slice(None), draws: slice = slice(None)) -> Self:
        """Some chains, and some draws of each, with all that goes with them; effects that were not stored can be drawn
        again for these draws. Nothing is copied.
        """

        def some(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x[chains, draws] for name, x in values.items()}

        rates = {block: x[chains] for block, x in self.stats.acceptance.items()}
        run = dict(self.run)
        if draws.step not in (None, 1):
            run["interval"] = self.interval * draws.step
        if chains != slice(None):
            run["chains"] = len(range(*chains.indices(self.chains)))
        return self.changed(
            draws=some(self.draws),
            stats=replace(self.stats, acceptance=rates, log_density=self.stats.log_density[chains, draws]),
            run=run,
            unstored=None if self.unstored is None else self.unstored.taken(chains, draws),
            more=some(self.more),
            positions={name: x[chains] for name, x in self.positions.items()},
        )

    def __repr__(self) -> str:
        thinned = f" (each the last of {self.interval} made)" if self.interval > 1 else ""
        lines = [
            f"Posterior: {self.chains} chains x {self.n_draws} draws{thinned}" + ", interrupted" * self.interrupted
        ]
        for plate in (None, *self.labels):
            latents = [
                name + "".join(f"[{k}]" for k in x.shape[3:])
                for name, x in self.draws.items()
                if self.plates[name] == plate
            ]
            head = "population" if plate is None else f"{plate} ({len(self.labels[plate])} groups)"
            lines += [f"  {head}: {', '.join(latents)}"] if latents else []
        if self.unstored_plates:
            lines.append(f"  not stored, drawn again by redraw(): {', '.join(self.unstored_plates)}")
        if chosen := self.run.get("priors"):
            lines.append(
                f"  priors by the data's scale: {', '.join(f'{name} ~ {text}' for name, text in chosen.items())}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What it prints, and the summary of what all groups share."""
        shared = [name for name in self.draws if self.plates[name] is None]
        table = markup.table(summary(self, shared)) if shared and self.n_draws >= FEWEST else ""
        return markup.text(repr(self)) + table

    @property
    def fitted(self) -> Fitted:
        """The model and the data; a DataError if they are not known, or if there are no draws."""
        self.drawn()
        return self._knows()

    @property
    def readable(self) -> Fitted:
        """The model and how it reads new rows; a DataError if that is not known, or if there are no draws."""
        self.drawn()
        return self._knows() if self.origin is not None or self.outline is None else self.outline

    @property
    def model(self) -> Model:
        """What was fitted; a DataError if the posterior does not know it."""
        return self._knows().model

    @property
    def data(self) -> Data:
        """What it was fitted to; after an update all rows."""
        return self._knows().data

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the data that it was fitted to; None if it does not know them."""
        return self._fingerprint if self.origin is None else self.fitted.data.fingerprint

    def _knows(self) -> Fitted:
        if self.origin is None:
            why = self.lacks or "it was loaded from a file that does not have them, or made by hand"
            raise DataError(
                f"this posterior does not know its model and data, since {why}: give them, "
                "ht.Posterior.load(path, model=..., data=...)."
            )
        self.origin.data.check_unchanged()
        return self.origin

    def known(self, name: object) -> str:
        """The name of a latent, or an UnknownNameError that says which there are."""
        if isinstance(name, str) and name in self.unstored_plates:
            raise UnknownNameError(
                f"the draws of {name!r} were not stored: posterior.effects({name!r}) has means and standard "
                f"deviations, posterior.redraw({name!r}, labels) draws some groups again, and keep= in ht.sample "
                "stores them."
            )
        return super().known(name)

    def redraw(self, name: str, labels: Iterable[Hashable] | None = None) -> Tensor:
        """Draws of effects that were not stored, given those that were: `(chains, draws, groups, *event)`.

        Exact draws from their conditional distribution in a model whose effects were integrated out; the draws of one
        call belong together, those of two calls are independent given what was stored.

        Args:
            name: a latent that varies over groups.
            labels: of the groups wanted, in this order; all if left out.

        Raises:
            UnknownNameError: if there is no such latent or group, or its draws can't be made again.
        """
        if name in self and self.plates[name] is not None:
            x = self.draws[name]
            return x if labels is None else x[:, :, self.codes(str(self.plates[name]), labels)]
        plate, effects = self._redrawn(name)
        if labels is None:
            return effects.draws([name])[name]
        codes, where = torch.tensor(self.codes(plate, labels), dtype=torch.long).unique(return_inverse=True)
        return effects.draws([name], {plate: codes})[name][:, :, where]

    def effects(self, name: str) -> pd.DataFrame:
        """Posterior mean and sd of every group's effect: one row a parameter, such as alpha[School 12].

        Averages of conditional means and variances where effects were not stored, moments of the draws where they were.

        Raises:
            UnknownNameError: if there is no such latent.
        """
        if name in self:
            mean, sd = diagnostics.moments(self.draws[name])
            return self.table(name, {"mean": mean, "sd": sd})
        plate, effects = self._redrawn(name)
        mean, sd = effects.moments(name)
        index = parameter_texts(name, [self.labels[plate], *(range(k) for k in mean.shape[1:])])
        return summaries.table(index, {"mean": mean, "sd": sd})

    def log_marginal(self, plate: str) -> Tensor:
        """log p(y_j | draw) of each group j of a plate, its own effects and those nested in it integrated out:
        `(chains, draws, groups)`, for leaving groups out (Merkle, Furr & Rabe-Hesketh 2019, eq. 8).

        Conditional on scales, coefficients, and the effects of other plates; in closed form.

        Raises:
            DataError: if the model's effects were not integrated out, or none vary over the plate.
        """
        if self.unstored is None:
            raise DataError(
                "the marginal likelihood by group has a closed form only where effects were integrated out in the run "
                "that made this posterior; this one was not, or was loaded from a file."
            )
        if not isinstance(plate, str) or plate not in self.labels:
            raise DataError(f"no effects vary over {plate!r}; there are {listed(self.labels)}.")
        return self.unstored.log_group(plate, self.draws)

    def _redrawn(self, name: str) -> tuple[str, Redraw]:
        if not isinstance(name, str) or name not in self.unstored_plates:
            self.known(name)
            raise UnknownNameError(f"{name!r} has no groups to draw again; use posterior[{name!r}].")
        if self.unstored is None:
            raise DataError(
                f"the draws of {name!r} were not stored; they can be drawn again with the model and the data: "
                "ht.Posterior.load(path, model=..., data=...)."
            )
        return self.unstored_plates[name], self.unstored

    @cached_property
    def judgement(self) -> Judgement:
        """What a run's end says of convergence, everywhere alike."""
        return judge(self)

    @cached_property
    def _whole(self) -> Judgement:
        """The same of all parameters and draws, however many."""
        return judge(self.drawn(), whole=True) if self.judgement.part else self.judgement

    def diagnostics(self) -> pd.DataFrame:
        """The worst R-hat, bulk ESS and tail ESS of all parameters: value, parameter, limit, how many are beyond it.

        A parameter that never moved, though it could, has an infinite R-hat and no effective draws here.
        """
        self.drawn()
        return self._whole.table.copy()

    def warnings(self) -> list[str]:
        """What a reader should know before believing the numbers, and what to do about it; an empty list if nothing."""
        return self._whole.sentences

    def derived(self, use: str, seed: int | None = None) -> int:
        """The seed of a use of these draws: by `seed`, or else by that of their run."""
        check_seed(seed)
        return derived(int(self.run.get("seed", 0)) if seed is None else seed, use)

    def generator(self, use: str, seed: int | None, device: torch.device) -> torch.Generator:
        """The random numbers of a use of these draws, likewise."""
        return torch.Generator(device).manual_seed(self.derived(use, seed))
