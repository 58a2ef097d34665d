"""Where the chains begin: dispersed, with a finite log density, or an error that names the latent to blame."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.density.space import chain_last
from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.errors import SamplingError
from hiertorch.model.reads import mended

SPREAD = 8
"""Draws from the prior for each chain, of which it takes one of the middle half."""

TRIES = 200
"""Times that chains without a finite density are drawn, in turns nearer and nearer to the origin of unconstrained space
(exp(x beta) overflows far from it) and from the whole prior (a bounded likelihood may rule the origin out)."""

SHRINK = 0.97
"""How much nearer, from one time to the next."""

MENDED = (1, 4, 16, 64)
"""Times at which only groups are drawn again whose rows have no density: with many groups some always do."""


def initial_state(
    target: Target, chains: int, generator: torch.Generator | None, init: Mapping[str, object] | None = None
) -> State:
    """Draws from the prior, one a chain, drawn again until the log density is finite; values in `init` are kept.

    Args:
        target: the density.
        chains: how many.
        generator: source of the draws.
        init: latent -> value that broadcasts to `(chains, size, *event)`.

    Raises:
        SamplingError: after a bounded number of tries, naming the latent to blame; or for an `init` that does not fit.
    """
    fixed = read_init(target, chains, {} if init is None else init)
    free = _draw(target, chains, generator, fixed, 1.0)
    for attempt in range(1, TRIES + 1):
        state = target.state(free)
        by_rows = attempt in MENDED and not target.prior_only and not target.opaque
        if by_rows and not bool(torch.isfinite(state.log_density()).all()):
            data, values = target.data, target.space.constrain(free)
            free = target.space.unconstrain(mended(target.model, data, data, values, generator, tuple(fixed)))
            state = target.state(free)
        bad = ~torch.isfinite(state.log_density())
        if not bool(bad.any()):
            free, values, prior = ({name: chain_last(x) for name, x in part.items()} for part in state[:3])
            return State(free, values, prior, chain_last(state.cells))
        if attempt % 2:
            again = _draw(target, chains, generator, fixed, SHRINK**attempt)
        else:
            drawn = target.model.sample_prior(target.data, chains, generator, given=target.space.constrain(fixed))
            again = {**target.space.unconstrain(drawn), **fixed}
        free = {name: torch.where(bad.reshape(-1, *(1,) * (u.dim() - 1)), again[name], u) for name, u in free.items()}
    raise SamplingError(_blame(target, state, bad))


def _draw(
    target: Target, chains: int, generator: torch.Generator | None, fixed: Mapping[str, Tensor], reach: float
) -> dict[str, Tensor]:
    """Unconstrained draws: population-level latents from the middle of their prior, effects given these.

    Note [The middle of the prior]: of SPREAD draws each chain takes one of the middle half. Chains start dispersed, as
    R-hat needs, but none starts in a far tail (a scale of 0.001), from where a walk may take longer than the whole
    warm-up to return.
    """
    space, model = target.space, target.model
    many = space.unconstrain(model.sample_prior(target.data, SPREAD * chains, generator))
    given = {}
    for name, c in space.coordinates.items():
        if name in fixed:
            given[name] = fixed[name]
        elif c.plate is None:
            ordered = many[name].unflatten(0, (SPREAD, chains)).sort(0).values
            pick = torch.randint(
                SPREAD // 4, SPREAD - SPREAD // 4, ordered.shape[1:], generator=generator, device=ordered.device
            )
            given[name] = reach * ordered.gather(0, pick.unsqueeze(0)).squeeze(0)
    drawn = model.sample_prior(target.data, chains, generator, given=space.constrain(given))
    free = space.unconstrain({name: value for name, value in drawn.items() if name not in given})
    return {name: given[name] if name in given else reach * free[name] for name in target.names}


def read_init(target: Target, chains: int, init: Mapping[str, object]) -> dict[str, Tensor]:
    """The unconstrained parts of what a user wants chains to start at, or a SamplingError that says what is wrong."""
    if not isinstance(init, Mapping):
        raise SamplingError(f"init must be a mapping of latents to starting values, found {type(init).__name__}.")
    fixed = {}
    for name, value in init.items():
        if name not in target.names:
            raise SamplingError(f"init names {name!r}; the model's latents are {', '.join(target.names)}.")
        c = target.space.coordinates[name]
        shape = (chains, c.size, *c.event)
        try:
            full = torch.as_tensor(value, dtype=target.data.dtype, device=target.data.device).expand(shape)
        except (RuntimeError, TypeError, ValueError) as error:
            raise SamplingError(
                f"init[{name!r}] must broadcast to (chains, size, *event) = {shape}: {error}."
            ) from error
        fixed[name] = c.bijection.inv(full)
        inside = torch.isclose(c.bijection(fixed[name]), full, rtol=1e-4, atol=1e-6)  # else it was moved to the edge
        if not bool(inside.all()) or not bool(torch.isfinite(fixed[name]).all()):
            raise SamplingError(f"init[{name!r}] is not inside the support of its prior, or not finite.")
    return fixed


def _blame(target: Target, state: State, bad: Tensor) -> str:
    """Which latent makes the density of the chains that failed not finite."""
    intro = f"no finite log density for {int(bad.sum())} of {len(bad)} chains after {TRIES} tries from the prior: "
    for name, term in state.prior.items():
        if not bool(torch.isfinite(term[bad]).all()):
            return (
                f"{intro}the log prior of {name!r} is {_worst(term[bad])} at values such as "
                f"{_some(state.values[name][bad])}. Check the parameters of its prior."
            )
    read = sorted(target.likelihood_reads)
    moved = {name: target.update(state, {name: torch.zeros_like(state.free[name])}) for name in read}
    culprits = [name for name in read if bool(torch.isfinite(moved[name].cells[bad]).all())] or read
    blamed = ", ".join(map(repr, culprits))
    values = "; ".join(f"{name} = {_some(state.values[name][bad])}" for name in culprits)
    return (
        f"{intro}the log likelihood is {_worst(state.cells[bad])} because of {blamed} ({values}). Give a prior that "
        "keeps to values at which the likelihood can be computed, rescale the predictors, or pass init=."
    )


def _worst(term: Tensor) -> str:
    if bool(torch.isnan(term).any()):
        return "NaN"
    return "-inf" if bool((term == -torch.inf).any()) else "inf"


def _some(values: Tensor) -> str:
    return f"{float(values.flatten()[0]):.4g}"
