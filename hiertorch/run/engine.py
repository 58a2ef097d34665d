"""The contract of an engine: chains with all that a run changes, moved by some sweeps at a time.

docs/decisions.md: The state of an engine is named tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError, SamplingError
from hiertorch.gaussian.audit import Audit
from hiertorch.moves.metropolis import Tuning
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.store import Store
from hiertorch.run.warmstart import WarmStart
from hiertorch.runtime.ranks import Share


class UnsuitedError(SamplingError):
    """What `Engine.check` raises where an engine moves too seldom to serve: ordinary moves run instead."""


class Block(NamedTuple):
    """What an engine decides together: its name, and the plate whose groups decide apart (None: the chain decides)."""

    name: str
    plate: str | None


class Engine(ABC):
    """theta_1 -> theta_2 -> ..., Markov chains that leave p(latents | data) invariant once warm-up is over.

    `ht.sample(model, data, plan=MyEngine)` runs a class of your own, and `plan=partial(MyEngine, width=0.1)` one with
    options. It is made as `MyEngine(structure, chains, generator)`; then the one loop of the package asks in turn:

    1. `begin`, or `restore` for a run that goes on, so that the chains stand somewhere;
    2. `prepare`, whose time is told apart from that of sampling;
    3. again and again: `window`, how many sweeps it would like to run; `advance`, which runs so many or fewer, all in
       warm-up or all after it; `settled`, after a window of warm-up; `check`, when warm-up and run end; `look`; then
       `values`, `height` and `learnt`, for monitors, which change nothing.

    Chains do not depend on what is stored of them or looked at. Tensors are made on the device of the data, and nothing
    waits for the device but at the end of a window.

    Args:
        structure: of the model on its data.
        chains: how many run side by side.
        generator: of all random numbers of the draws; or its seed names the streams of chains, as
            `hiertorch.randomness.ChainStreams(generator, chains)`, so that a chain does not depend on the others.

    Attributes:
        target: the density, which knows model, data and space.
        blocks: what is decided together; if not said otherwise all latents, by chain.
        order: the block of each decision of a sweep, one that is repeated as often as it is; `Acceptance.add` takes the
            infos of a sweep in this order.
        audit: what `check` has found so far, if it audits.
        by_chain: beginning of names in `state` -> the axis that has the chains, the first that fits; names that it does
            not have are of what all chains share. Empty, unless said otherwise: chains can't be dealt out to processes.
        share: the chains that these are of a whole run. What warm-up learns, an engine that can be dealt out learns
            from all of them, by `share.every`.
    """

    order: tuple[int, ...] = (0,)
    audit: Audit | None = None
    by_chain: ClassVar[Mapping[str, int]] = MappingProxyType({})

    def __init__(self, structure: Structure, chains: int, generator: torch.Generator) -> None:
        self.target, self.chains, self.generator = structure.target, chains, generator
        self.share = Share(chains)
        self.blocks: tuple[Block, ...] = (Block(type(self).__name__, None),)

    @abstractmethod
    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        """Finds where chains start, and what else there is to know beforehand.

        Args:
            init: latent -> value that broadcasts to `(chains, size, *event)`, where chains are to start (see
                `hiertorch.density.initial`); of `earlier` too.
            earlier: what an earlier run has learnt.

        Raises:
            SamplingError: if chains can start nowhere, or for an `init` that does not fit.
        """

    def prepare(self, *, compiled: bool) -> None:  # noqa: B027
        """Gets ready for the sweeps, as by compiling what is asked for often, if that is wanted."""

    def window(self, *, warming: bool) -> int:
        """Sweeps to run at once, in warm-up or after it."""
        return 50

    @abstractmethod
    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        """Runs sweeps `done` + 1 .. `done` + `sweeps`, all in warm-up or all after it.

        Args:
            done: sweeps before these.
            sweeps: how many to run.
            warmup: sweeps that learn, of the whole run; what was learnt is frozen from then on.
            thin: every so many sweeps after warm-up give a draw, which `store.keep` is told of.
            store: draws so far.
            acceptance: is told of every sweep.
        """

    def check(self, store: Store) -> None:  # noqa: B027
        """Holds the draws against the model, at the end of warm-up, when there are none yet, and of the run.

        Raises:
            AuditError: if they are not of this model: they are discarded, and ordinary moves run instead.
            UnsuitedError: if the engine moves too seldom, likewise.
        """

    def settled(self) -> bool:
        """Whether what warm-up learns has settled. Asked after each window of a warm-up whose length was left open,
        which ends there if so; what was learnt has to be frozen then.
        """
        return False

    def look(self, acceptance: Acceptance) -> None:  # noqa: B027
        """May look for an example of a NaN density in the last window, if some were met."""

    def learnt(self) -> dict[str, Tuning]:
        """Block -> what warm-up has learnt for it, which a posterior keeps for runs that start from it."""
        return {}

    def stays(self) -> dict[str, Tensor]:
        """Block -> the longest time, in sweeps after warm-up, for which each chain, or group of a chain, was refused
        everything: `(chains,)` or `(groups, chains)`; of an engine that watches it.
        """
        return {}

    @abstractmethod
    def values(self) -> Mapping[str, Tensor]:
        """The last sweep's values of all latents, in order: `(chains, size, *event)`."""

    @abstractmethod
    def height(self) -> Tensor:
        """Their log density, `(chains,)`."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that differs from one window to the next, by name, with the state of generators: what a file can hold.
        Nothing writes into these tensors later.
        """

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """In place of `begin`: goes on, bit for bit, from the `state` of an engine of the same class, model and data
        on the same device.
        """


EngineMaker: TypeAlias = type[Engine] | partial[Engine]
"""A class of engines, or one with options."""


def check_engine(maker: EngineMaker) -> None:
    """Raises a ModelError for a class that is no engine."""
    made = maker.func if isinstance(maker, partial) else maker
    if not (isinstance(made, type) and issubclass(made, Engine)):
        raise ModelError(
            f"a plan is a list of moves, or a class of engines; {made!r} is no hiertorch.run.engine.Engine. A move "
            "stands in a list, plan=[MyMove(['mu'])]."
        )


def named(maker: EngineMaker) -> str:
    """Class and options of an engine, and what its docstring begins with, for a plan in print."""
    made, options = (maker.func, maker.keywords) if isinstance(maker, partial) else (maker, {})
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    about = (made.__doc__ or "").strip().partition("\n")[0]
    return f"{getattr(made, '__name__', made)}({given})" + (f": {about}" if about else "")


def filed(folder: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under names that begin with a folder's."""
    return {f"{folder}/{name}": x for name, x in tensors.items()}


def inside(folder: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors that `filed` has put into a folder, under their own names."""
    return {name.removeprefix(f"{folder}/"): x for name, x in tensors.items() if name.startswith(f"{folder}/")}
