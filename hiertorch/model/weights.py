"""Weights that a model reads and that are no latents: nobody would learn them.

A tensor that requires a gradient is one that somebody means to be learnt, and sampling would take it as a known
constant at the value that it happens to have.
"""

import inspect
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.distributions import Distribution

from hiertorch.errors import ModelError
from hiertorch.model.densities import Densities
from hiertorch.model.latent import Derived, Latent

DEPTH = 4
"""Containers, modules and functions within one another that are searched for the names of weights."""

SHOWN = 4
"""Weights that a message names."""


def check_registered(model: Densities) -> None:
    """Raises a ModelError if the model holds parameters that require gradients."""
    if found := [(name, x) for name, x in model.named_parameters() if x.requires_grad]:
        raise ModelError(_sentence(f"{type(model).__name__} holds", dict(found)))


def refuse_weights(model: Densities, what: str, found: object) -> None:
    """Raises a ModelError if a tensor that the model computed from latents and data alone, such as "the likelihood" or
    "the prior of 'mu'", requires a gradient.
    """
    if isinstance(found, Tensor) and found.requires_grad:
        raise ModelError(_sentence(f"{what} of {type(model).__name__} reads", dict(_weights(model))))


def _sentence(what: str, weights: Mapping[str, Tensor]) -> str:
    names = [f"{name} {tuple(x.shape)}" for name, x in list(weights.items())[:SHOWN]]
    more = f" and {len(weights) - SHOWN} more" if len(weights) > SHOWN else ""
    shown = f" ({', '.join(names)}{more})" if names else ""
    first = next(iter(weights.values()), None)
    event = f"event={tuple(first.shape)}" if first is not None and first.dim() else "event=(16, 1)"
    return (
        f"{what} weights that require gradients{shown} and are no latents: sampling would take them as known, at the "
        "values that they have now. If that is meant, freeze them, by net.requires_grad_(False) or x.detach(); if they "
        f"are to be learnt, make latents of them, such as w = ht.Latent(Normal(0.0, 1.0), {event})."
    )


def _weights(model: Densities) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that require gradients, wherever the model's code can reach them."""
    seen: dict[int, object] = {}
    yield from _within("model", dict(vars(model)), DEPTH, seen)
    for name, latent in model.latents.items():
        yield from _within(f"the prior of {name}", latent.prior, DEPTH, seen)
    bodies = reversed([kind for kind in type(model).__mro__ if issubclass(kind, Densities) and kind is not Densities])
    for name, value in {name: value for kind in bodies for name, value in vars(kind).items()}.items():
        yield from _within(name, value, DEPTH, seen)


def _within(name: str, thing: object, depth: int, seen: dict[int, object]) -> Iterator[tuple[str, Tensor]]:
    if id(thing) in seen or depth < 0:
        return
    seen[id(thing)] = thing  # kept alive, so that nothing else has its id
    if isinstance(thing, Tensor):
        if thing.requires_grad:
            yield name, thing
    elif isinstance(thing, nn.Module) and not isinstance(thing, Densities):
        yield from ((f"{name}.{key}", x) for key, x in thing.named_parameters() if x.requires_grad)
    elif isinstance(thing, Mapping):
        for key, part in thing.items():
            yield from _within(str(key), part, depth - 1, seen)
    elif isinstance(thing, list | tuple):
        for i, part in enumerate(thing):
            yield from _within(f"{name}[{i}]", part, depth - 1, seen)
    elif isinstance(thing, Latent | Derived):
        yield from _within(name, thing.prior if isinstance(thing, Latent) else thing.function, depth, seen)
    elif isinstance(thing, Distribution):
        yield from _within(name, vars(thing), depth - 1, seen)
    elif inspect.isfunction(thing) or inspect.ismethod(thing):
        reached = inspect.getclosurevars(thing)
        yield from _within(name, {**reached.nonlocals, **reached.globals}, depth - 1, seen)
