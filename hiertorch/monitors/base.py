"""What a monitor is told about a run, and what every monitor needs: names, a selection to watch."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch
from torch import Tensor

from hiertorch.draws.fit import Fit
from hiertorch.draws.judgement import Worst
from hiertorch.draws.naming import parameter_text
from hiertorch.draws.spacing import evenly
from hiertorch.draws.summaries import LIMITS

FEWEST = 8  # draws a chain, below which convergence says nothing


@dataclass(frozen=True)
class RunInfo:
    """What is known before the first sweep."""

    model: str  # class name
    model_text: str  # formula / docstring text of the model
    plan_text: str  # the plan, as printed
    settings: Mapping[str, Any]  # JSON-able: chains, warmup, draws, thin, seed, device, dtype, versions...
    names: tuple[str, ...]  # latents in order
    plates: Mapping[str, str | None]
    labels: Mapping[str, pandas.Index]  # plate -> group labels
    event_labels: Mapping[str, tuple[tuple[Hashable, ...], ...]]
    blocks: Mapping[str, str | None]  # block -> plate of its groups (None: per chain)
    sweeps: int  # in the whole run, warm-up included; of one that goes on until a goal is reached, to its first look
    findings: tuple[str, ...] = ()  # what the model asks for and the data lack: "warning: school: only 3 groups ..."
    priors: Mapping[str, str] = field(default_factory=dict)  # latent -> its prior in numbers, where the data chose it
    stored: tuple[str, ...] | None = None  # latents whose draws are kept; None: all
    warmup: int = 0  # sweeps of it, at most
    thin: int = 1  # sweeps for each draw, of which those in `Window.draws` may be every second, fourth, ...
    earlier: int = 0  # sweeps of the runs that this one goes on from
    done: int = 0  # sweeps of this run before it was stopped, if it goes on,
    spent: float = 0.0  # and the seconds that it had been sampling
    alike: bool = True  # all chains have the same data; else they are no draws of one posterior, and nothing mixes
    rhat: float = LIMITS["r_hat"]  # that is good enough, of every parameter,
    ess: float = LIMITS["ess_bulk"]  # as are so many effective draws, of all chains together

    @property
    def shown(self) -> tuple[str, ...]:
        """Latents that can be followed all the way: effects that are not stored can't."""
        return self.names if self.stored is None else tuple(name for name in self.names if name in self.stored)


class Seen(NamedTuple):
    """What a run that goes on until a goal is reached saw when it looked at its draws: the worst of the parameters."""

    draws: int  # made by each chain
    rhat: Worst
    ess: Worst  # in bulk or tails


@dataclass(frozen=True)
class Window:
    """What happened since the last window, some 10 to 100 sweeps or more."""

    phase: str  # "warmup" or "sampling"
    sweep: int  # sweeps done so far, warm-up included; strictly increasing
    values: Mapping[str, Tensor]  # name -> (chains, size, *event): the last sweep's values (device tensors)
    log_density: Tensor  # (chains,)
    acceptance: Mapping[str, Tensor]  # block -> (chains,) or (chains, groups): mean acceptance over the window
    nan: int  # NaN log densities so far
    # name -> (chains, draws so far, size, *event), views of what is stored; empty in warm-up
    draws: Mapping[str, Tensor]
    log_densities: Tensor | None = None  # of these draws, (chains, draws so far), a view
    interval: int = 1  # draws that a stored one stands for; it doubles when there are more than are kept
    tuning: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # block -> what it has learnt
    so_far: Callable[[Mapping[str, Tensor]], Fit] | None = None  # some of the draws with their model and data
    foreseen: int | None = None  # sweeps of the whole run, of one that goes on until a goal is reached
    seen: Seen | None = None  # by the last look of such a run
    warmup: int | None = None  # sweeps of warm-up, once it is over; None: as many as was said before

    def copied(self) -> "Window":
        """The same for a monitor that may write into what it is given: tensors are copied when they are looked at."""
        return replace(
            self,
            values=_Copies(self.values),
            log_density=self.log_density.clone(),
            acceptance=_Copies(self.acceptance),
            draws=_Copies(self.draws),
            log_densities=None if self.log_densities is None else self.log_densities.clone(),
            tuning={block: _Copies(learnt) for block, learnt in self.tuning.items()},
        )

    @property
    def drawn(self) -> int:
        """Draws a chain so far."""
        return next((draws.shape[1] for draws in self.draws.values()), 0)


class _Copies(Mapping[str, Tensor]):
    """Copies of tensors, each made once, when it is looked at."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors, self._made = tensors, dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = self._tensors[name].clone()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Monitor:
    """A side effect of a run: told of its start, of every window and of its end. This one does nothing.

    The contract, from both sides (`tests/contracts/monitors.py` holds what a test can see of it):

    - The run calls `start` once, `window` after every window of sweeps and `stop` once, in this order and from one
      thread. `stop` follows even if there was no window. After "discarded" all begins anew, so that a monitor can be
      used for several runs.
    - A monitor changes no draw. It is given copies of all tensors, made when it looks at them; one that `only_looks`
      promises to write into none, and is given the tensors themselves. It leaves global random numbers alone, and what
      it starts, such as a thread, it ends in `stop`.
    - The sampler waits while a hook runs: what takes long is handed to a thread, or left for `stop`.
    - An error in `start` ends the run before it costs anything, and monitors that had started are stopped. A later one
      ends that monitor alone: it is stopped as "failed" and a warning tells of it. Ctrl-C in a hook stops the run, as
      anywhere else.

    Attributes:
        only_looks: whether it writes into no tensor.
    """

    only_looks = False

    def start(self, run: RunInfo) -> None:
        """Before the first sweep."""

    def window(self, window: Window) -> None:
        """After every window of sweeps."""

    def stop(self, status: str, posterior: Fit | None = None) -> None:
        """At the end.

        Args:
            status: "finished", "interrupted", "failed", or "discarded", after which the run begins again.
            posterior: what came out, of a run that was stopped or failed what it had drawn; None if nothing did.
        """


def parameter_names(run: RunInfo, name: str, shape: Sequence[int], at: Iterable[int] | None = None) -> list[str]:
    """Flat names of a latent's elements, in C order of `shape`: `mu`, `alpha[School 12]`, `beta[SES]`, `Omega[0, 1]`;
    of those at some flat indices, or of all.

    An axis of the shape `(size, *event)` whose labels the run does not know, or not as many as its length, is numbered
    from 0.
    """
    plate = run.plates.get(name)
    events = run.event_labels.get(name, ())
    known: list[Sequence[Hashable] | pandas.Index] = (
        [*events] if len(events) == len(shape) - 1 else [()] * (len(shape) - 1)
    )
    if plate is not None:
        known.insert(0, run.labels.get(plate, ()))
    lengths = shape if plate is not None else shape[1:]  # a population-level latent has no group to name
    axes = [labels if len(labels) == n else range(n) for labels, n in zip(known, lengths, strict=True)]
    flat = np.array(range(prod(lengths)) if at is None else list(at), dtype=np.int64)
    places = zip(*np.unravel_index(flat, (1, *lengths)), strict=True)
    return [parameter_text(name, [axis[k] for axis, k in zip(axes, place, strict=True)]) for _, *place in places]


def safe_tags(names: Iterable[str]) -> list[str]:
    """Names as tags: a slash would open a folder, outer or doubled spaces get lost, and no two are the same."""
    tags: list[str] = []
    for name in names:
        tag = " ".join(name.replace("/", "|").split())
        number = 2
        while tag in tags:
            tag = f"{tag.removesuffix(f' ({number - 1})')} ({number})"
            number += 1
        tags.append(tag)
    return tags


@dataclass(frozen=True)
class Watch:
    """A fixed selection of a run's scalar elements, taken from values or draws in one copy from the device."""

    names: tuple[str, ...]  # one an element
    at: Mapping[str, Tensor]  # latent -> flat indices into (size, *event)
    of: int  # elements there are to watch
    population: int  # how many of the names are population-level; they come first

    def last(self, values: Mapping[str, Tensor]) -> Tensor:
        """`(chains, elements)` of `(chains, size, *event)`, on the values' device."""
        return torch.cat([values[name].flatten(1)[:, at.to(values[name].device)] for name, at in self.at.items()], 1)

    def draws(self, draws: Mapping[str, Tensor], at_most: int) -> Tensor:
        """`(chains, kept, elements)` of `(chains, draws, size, *event)`, on the CPU: thinned to `at_most` draws."""
        return thinned(draws, self.at.items(), at_most).cpu()

    @property
    def text(self) -> str:
        """What is watched, in words."""
        if len(self.names) == self.of:
            return f"all {self.of} parameters"
        groups = len(self.names) - self.population
        return f"{len(self.names)} of {self.of} parameters: {self.population} population-level ones" + (
            f" and {groups} of the groups', evenly spaced" if groups else ""
        )


def thinned(draws: Mapping[str, Tensor], parts: Iterable[tuple[str, Tensor]], at_most: int) -> Tensor:
    """`(chains, kept, elements)` of draws `(chains, draws, size, *event)`: every k-th draw of each chain, the last one
    among them, and of latents those elements whose flat indices into `(size, *event)` are given.
    """
    done = next(iter(draws.values())).shape[1]
    step = max(1, -(-done // at_most))
    kept = [draws[name][:, (done - 1) % step :: step].flatten(2)[:, :, at.to(draws[name].device)] for name, at in parts]
    return torch.cat(kept, 2)


def places(run: RunInfo, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Latent -> flat indices of its elements, of a matrix those that can vary for themselves."""
    return {name: _distinct(values[name]) for name in run.names}


def watch(run: RunInfo, values: Mapping[str, Tensor], at_most: int) -> Watch:
    """At most so many elements: population-level scalars, then population-level vectors, then evenly spaced groups. Of
    values `(chains, size, *event)` only shapes count, and whether a matrix is symmetric or triangular.
    """
    population = [name for name in run.names if run.plates.get(name) is None]
    population.sort(key=lambda name: values[name].shape[1:].numel() > 1)  # stable: scalars first, else as declared
    grouped = [name for name in run.names if name not in population]
    every = places(run, values)
    candidates = {name: every[name] for name in population + grouped}
    names: list[str] = []
    chosen: dict[str, Tensor] = {}
    watched = 0
    for i, name in enumerate(candidates):
        left = 1 if name in population else len(candidates) - i  # the groups' latents share what is left
        at = spread(candidates[name], (at_most - len(names)) // left)
        if len(at):
            names += parameter_names(run, name, values[name].shape[1:], at.tolist())
            chosen[name] = at
        if name in population:
            watched = len(names)
    return Watch(tuple(names), chosen, sum(map(len, candidates.values())), watched)


def _distinct(value: Tensor) -> Tensor:
    """Flat indices into `(size, *event)` without a matrix's mirrored or empty half and the ones on its diagonal."""
    size, event = value.shape[1], value.shape[2:]
    keep = torch.ones(event, dtype=torch.bool)
    if len(event) == 2 and event[0] == event[1] > 1:
        upper = value.triu(1)
        if bool((upper == value.tril(-1).mT).all()) or not bool(upper.any()):
            keep = keep.tril()
        one = (value.diagonal(dim1=-2, dim2=-1) == 1).flatten(0, 1).all(0).cpu()
        keep = keep & ~torch.diag(one)
    inside = keep.flatten().nonzero().squeeze(1)
    return (torch.arange(size)[:, None] * prod(event) + inside).flatten()


def spread(indices: Tensor, at_most: int) -> Tensor:
    """Evenly spaced ones."""
    return indices[evenly(len(indices), max(at_most, 0), indices.device)]
