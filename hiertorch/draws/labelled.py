"""Draws of latents by name, with the labels of their groups and axes: `(chains, draws, size, *event)`."""

import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd
from torch import Tensor

from hiertorch.arguments import check_choice, check_count, check_probability, names_of
from hiertorch.draws import summaries
from hiertorch.draws.naming import parameter_texts
from hiertorch.draws.summaries import CI_PROB, MIXING
from hiertorch.errors import DataError, UnknownNameError
from hiertorch.runtime.surroundings import feels_at_home
from hiertorch.wording import listed

KINDS = ("all", "stats", "diagnostics")
"""Of columns that a summary can have."""


@dataclass(frozen=True)
class Stats:
    """What the sampler reports beside the draws.

    Attributes:
        acceptance: block -> mean acceptance rate after warm-up, `(chains,)` or `(chains, groups)`.
        blocks: block -> plate of that groups axis, or None.
        log_density: log density of every kept draw, `(chains, draws)`.
        nan: block -> number of proposals whose log density was NaN; each was rejected.
    """

    acceptance: Mapping[str, Tensor]
    blocks: Mapping[str, str | None]
    log_density: Tensor
    nan: Mapping[str, int]


@feels_at_home
class LabelledDraws:
    """Draws theta^(c, s) of latents, for chains c and draws s, read by name; `hiertorch.draws.fit.Fit` makes them."""

    draws: dict[str, Tensor]
    plates: dict[str, str | None]
    labels: dict[str, pd.Index]
    event_labels: dict[str, tuple[tuple[Hashable, ...], ...]]
    stats: Stats
    run: dict[str, Any]
    interrupted: bool

    def changed(self, **attributes: object) -> Self:
        """The same with other attributes, and without what was computed of them. Nothing is copied."""
        kinds = [vars(kind) for kind in type(self).__mro__]
        computed = {name for body in kinds for name, value in body.items() if isinstance(value, cached_property)}
        new = type(self).__new__(type(self))
        new.__dict__.update({name: x for name, x in vars(self).items() if name not in computed} | attributes)
        return new

    def check_shapes(self) -> None:
        """Raises a DataError if shapes, plates and labels don't fit one another."""
        if not self.draws:
            raise DataError("A posterior needs the draws of at least one latent, found none.")
        chains, n_draws = next(iter(self.draws.values())).shape[:2]
        for name, x in self.draws.items():
            plate = self.plates[name]
            if plate is not None and plate not in self.labels:
                raise DataError(
                    f"{name!r} varies over {plate!r}, which has no labels=; there are {listed(self.labels)}."
                )
            size = 1 if plate is None else len(self.labels[plate])
            expected = (chains, n_draws, size, *(len(labels) for labels in self.event_labels[name]))
            if tuple(x.shape) != expected:
                raise DataError(
                    f"the draws of {name!r} should be (chains, draws, size, *event) = {expected}, by its labels "
                    f"and the first latent's chains and draws; found {tuple(x.shape)}."
                )

    @property
    def names(self) -> list[str]:
        """The latents, in the order of their declaration."""
        return list(self.draws)

    @property
    def chains(self) -> int:
        """The number of chains."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def n_draws(self) -> int:
        """The number of draws in each chain that are stored."""
        return next(iter(self.draws.values())).shape[1]

    @property
    def stopped(self) -> str:
        """How the run was stopped before it had all its draws, in a sentence; "" if it was not."""
        if not self.interrupted:
            return ""
        asked, by = self.run.get("draws", "more"), f" by {self.run['ended_by']}" if "ended_by" in self.run else ""
        made = self.n_draws * self.interval
        return f"The run was stopped{by} after {made} of {asked} draws: these are all there are."

    @property
    def interval(self) -> int:
        """Draws that the run made for each one that is here: of long runs every second, fourth, ... is stored."""
        return int(self.run.get("interval", 1))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.draws

    def __iter__(self) -> Iterator[str]:
        return iter(self.draws)

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, name: str) -> Tensor:
        """Draws of a latent: `(chains, draws, groups, *event)`, without groups for a population-level one."""
        x = self.draws[self.known(name)]
        return x.squeeze(2) if self.plates[name] is None else x

    def group(self, name: str, label: Hashable) -> Tensor:
        """Draws of one group, `(chains, draws, *event)`, by its label.

        Raises:
            UnknownNameError: if there is no such latent or group.
            DataError: if the latent doesn't vary over groups.
        """
        plate = self.plates[self.known(name)]
        if plate is None:
            raise DataError(f"{name!r} has no groups: it is population-level. Use posterior[{name!r}].")
        return self.draws[name][:, :, self.codes(plate, [label])[0]]

    def codes(self, plate: str, labels: Iterable[Hashable]) -> list[int]:
        """The codes of groups, or an UnknownNameError that says which label is none."""
        if isinstance(labels, str | Tensor) or not isinstance(labels, Iterable):
            raise DataError(f"labels= is a list of groups of {plate!r}; found {labels!r}: write [{labels!r}].")
        codes = {known: code for code, known in enumerate(self.labels[plate])}
        found = []
        for label in labels:
            if not isinstance(label, Hashable) or label not in codes:
                texts = {str(known): known for known in codes}
                close = difflib.get_close_matches(str(label), texts, n=3, cutoff=0.5) or list(texts)[:3]
                near = ", ".join(repr(texts[text]) for text in close)
                raise UnknownNameError(f"{plate!r} has no group {label!r}. Closest of its {len(codes)} labels: {near}.")
            found.append(codes[label])
        return found

    def known(self, name: object) -> str:
        """The name of a latent, or an UnknownNameError that says which there are."""
        if not isinstance(name, str):
            raise UnknownNameError(f"a latent is looked up by its name; found {name!r}; it has {listed(self.draws)}.")
        if name not in self.draws:
            self._check_is_no_parameter(name)
            owners = [own for own, axes in self.event_labels.items() if axes and name in map(str, axes[0])]
            hint = f" {name!r} is an entry of {owners[0]!r}: see posterior.fixef()." if owners else ""
            raise UnknownNameError(f"the posterior has no latent {name!r}; it has {listed(self.draws)}.{hint}")
        return name

    def _check_is_no_parameter(self, name: str) -> None:
        """An UnknownNameError that says how to read the draws of a parameter named as in tables: alpha[School 12]."""
        latent = str(name).partition("[")[0]
        if latent not in self.draws or latent == name:
            return
        plate = self.plates[latent]
        texts = {parameter_texts(latent, [[label]])[0]: label for label in self.labels[plate]} if plate else {}
        groups = f"posterior.group({latent!r}, {texts[name]!r})" if name in texts else f"posterior[{latent!r}]"
        raise UnknownNameError(f"posteriors are read by latent, and {name!r} is a parameter of one: write {groups}.")

    def drawn(self) -> Self:
        """Itself, or a DataError if the run ended before its first draw."""
        if self.n_draws == 0 and self.interrupted:
            by = self.run.get("ended_by", "Ctrl-C")
            raise DataError(f"this posterior has no draws: the run was stopped by {by} in its warm-up; run it again.")
        return self

    def parameters(self, name: str) -> list[str]:
        """The parameters of a latent as tables call them, in the order of `(size, *event)`: alpha[School 12, 0]."""
        plate = self.plates[name]
        groups: list[Iterable[Hashable]] = [] if plate is None else [self.labels[plate]]
        return parameter_texts(name, [*groups, *self.event_labels[name]])

    def table(self, name: str, columns: Mapping[str, Tensor]) -> pd.DataFrame:
        """Columns `(size, *event)` as a table with a row for each parameter."""
        return summaries.table(self.parameters(name), columns)

    @cached_property
    def columns(self) -> dict[str, dict[str, Tensor]]:
        """All columns of the summary with its usual interval, by latent: they share what is costly."""
        return {name: summaries.columns(x) for name, x in self.drawn().draws.items()}


def summary(
    draws: LabelledDraws,
    names: str | Sequence[str] | None = None,
    *,
    ci_prob: float = CI_PROB,
    kind: str = "all",
    round_to: int | None = None,
) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.summary`."""
    check_choice("kind", kind, KINDS)
    check_probability(ci_prob)
    check_count("round_to", round_to, 0, none="for the numbers as they are")
    draws.drawn()
    wanted = draws.names if names is None else names_of("names", names)
    if not wanted:
        raise DataError(f"names= is empty: name some of {listed(draws.names)}, or leave it out for all.")
    parts = [draws.table(name, _columns(draws, draws.known(name), ci_prob, kind)) for name in wanted]
    frame = pd.concat(parts)
    return frame if round_to is None else frame.round(round_to)


def _columns(draws: LabelledDraws, name: str, ci_prob: float, kind: str) -> dict[str, Tensor]:
    if kind == "stats":
        return summaries.moments(draws.draws[name], ci_prob)
    every = draws.columns[name]
    if kind == "all" and ci_prob == CI_PROB:
        return every
    found = summaries.moments(draws.draws[name], ci_prob) if kind == "all" else {}
    return found | {column: every[column] for column in MIXING}
