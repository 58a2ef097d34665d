"""What the pieces of a model read, and whether they are affine in it. See Note [Tracing] in
`hiertorch.gaussian.tracing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Normal

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine, normal_root
from hiertorch.gaussian.operations import Powers, Value
from hiertorch.gaussian.terms import Sum, reads
from hiertorch.gaussian.tracing import Trace
from hiertorch.model.latent import Values
from hiertorch.model.model import Model


@dataclass(frozen=True)
class Pieces:
    """What the pieces of a model are made of, in the rest and in innovations that bear the names of their latents."""

    mean: Sum  # of the likelihood
    scale: Value  # of the likelihood
    roots: dict[str, Sum]  # latent to be integrated out -> the root of its prior's covariance
    powers: dict[str, Powers | None]  # the same -> see `Value`, of that root
    still: frozenset[str]  # those of which the prior's mean reads nothing


def trace(model: Model, data: Data, rows: Data, values: Mapping[str, Tensor], linear: Sequence[str]) -> Pieces:
    """Runs a model's priors, and its likelihood at some rows, once.

    Args:
        model: must compute with what it is given alone.
        data: what priors may read.
        rows: of the data.
        values: of all latents, `(chains, size, *event)`.
        linear: latents with a normal prior, of which each is followed as the mean of its prior plus an innovation.

    Raises:
        NotAffine: if the model can't be run in this way, or its likelihood is not normal.
    """
    latents, made, still = tuple(model.latents), list[tuple[str, Tensor]](), set[str]()
    tensors = {name: x.clone() for name, x in values.items()}
    run = Trace(next(iter(values.values())).shape[0], tensors)
    try:
        for i, name in enumerate(latents):
            if name not in linear:
                continue
            with run:
                prior = model.prior(name, Values({key: tensors[key] for key in latents[:i]}, latents), data)
                location, root = prior.mean, normal_root(prior)
            if root is None:
                raise NotAffine(f"the prior of {name!r} is not always normal")
            made.append((name, root))
            if not reads(run.result(location).terms) and model.latents[name].turns == 1:
                still.add(name)
            run.shift(name, tensors[name], location)
        with run:
            response = model.likelihood(Values(tensors, latents), rows)
            mean, scale = response.mean, response.stddev
    except NotAffine:
        raise
    except Exception as error:
        raise NotAffine(f"its operations can't be followed ({_first_line(error)})") from error
    if type(response) is not Normal:
        raise NotAffine(f"the likelihood is {type(response).__name__}, not Normal")
    roots = {name: run.result(root) for name, root in made}  # now, since all that has left torch may be in them
    terms, powers = {name: x.terms for name, x in roots.items()}, {name: x.powers for name, x in roots.items()}
    still = still if not run.escaped else set()
    return Pieces(run.result(mean).terms, run.result(scale), terms, powers, frozenset(still))


def prior_reads(model: Model, data: Data, values: Mapping[str, Tensor], name: str) -> frozenset[str]:
    """The other latents that the density of the prior of a latent reads."""
    tensors = {key: x.clone() for key, x in values.items()}
    run = Trace(next(iter(values.values())).shape[0], tensors)
    try:
        with run:
            term = model.log_prior_term(name, Values(tensors, tuple(model.latents)), data)
    except Exception as error:
        raise NotAffine(f"the prior of {name!r} can't be followed ({_first_line(error)})") from error
    return (reads(run.result(term).terms) | run.escaped) - {name}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
