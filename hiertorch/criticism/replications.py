"""y_rep^(s) ~ p(y | theta^(s)), s = 1..S: responses that a fitted model, or its prior, makes of the rows at hand."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.draws.pointwise import Pointwise
from hiertorch.model.censoring import Censored
from hiertorch.model.declared import overrides, refuse_own_likelihood, refuse_own_priors
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.randomness import derived, seeded, stream
from hiertorch.runtime.validating import validation

NUMBERS = 2_000_000
"""Draws x rows, or draws x groups, that are held at once."""

COUNTABLE = 1e15
"""Larger counts leave the range of whole numbers."""

Source = Callable[[int, int, torch.Generator], Mapping[str, Tensor]]


class Replications:
    """Simulated responses of the rows of some data, so many `draws`, block by block, the same ones each time that they
    are asked for; `source` has the latents from `start` to `stop` - 1, each `(stop - start, size, *event)`.

    Rows that are censored are replicated as they would be seen without. So the response that they are held against,
    `y`, is completed: where it was cut off it is drawn, given what is known of it, by latents of one draw from `fitted`
    (Gelman et al. 2005, "Multiple imputation for model checking"). Without `fitted` it is left as it is.
    """

    def __init__(
        self, model: Model, data: Data, source: Source, draws: int, seed: int, fitted: Source | None = None
    ) -> None:
        self.model, self.data, self.draws = model, data, draws
        self._source, self._seed, self._fitted = source, seed, fitted
        with torch.no_grad(), validation(False):
            _, v = next(self._blocks(1))
            if not overrides(model, "simulate"):
                refuse_own_likelihood(model, v, data, "simulated responses")
            self.likelihood = model.likelihood(v, data)
        numbers = max(self.likelihood.batch_shape[-1], data.n_rows, *(math.prod(x.shape[1:]) for x in v.values()))
        self.block = max(1, NUMBERS // numbers)

    @property
    def discrete(self) -> bool:
        """Whether the response is a count, or yes and no."""
        try:
            return bool(getattr(self.likelihood.support, "is_discrete", False))
        except NotImplementedError:  # it tells no support
            return False

    def __iter__(self) -> Iterator[Tensor]:
        """Responses `(n, rows)`, in the data's row order. Those that can't be simulated, since a mean is beyond all
        numbers, are NaN.
        """
        with torch.no_grad(), validation(False):
            for generator, v in self._blocks(self.block):
                try:
                    y = self.model.simulate(v, self.data, generator)
                except RuntimeError:  # torch refuses to draw counts whose mean is not finite
                    y = self._one_by_one(v, generator)
                yield y.masked_fill(y.abs() > COUNTABLE, torch.nan) if self.discrete else y

    def first(self, number: int, rows: Tensor) -> Tensor:
        """Some rows of the first replications that could be simulated: `(number, rows)`, fewer if there are."""
        found: list[Tensor] = []
        for y in self:
            found.append(y[torch.isfinite(y).all(1)][: number - sum(map(len, found))][:, rows])
            if sum(map(len, found)) >= number:
                break
        return torch.cat(found)

    @cached_property
    def y(self) -> Tensor:
        """The response that replications are like, `(rows,)`, see the class."""
        if self._fitted is None or not isinstance(self.likelihood, Censored):
            return self.data.y
        generator = stream(self._seed, "completed", device=self.data.device)
        at = int(torch.randint(self.draws, (), generator=generator, device=generator.device))
        with torch.no_grad(), validation(False):
            likelihood = self.model.likelihood(self.model.values(self._fitted(at, at + 1, generator)), self.data)
            with seeded(generator, self.data.device):
                return likelihood.expand(torch.Size((1, self.data.n_rows))).completed(self.data.y)[0]

    def mean(self) -> Tensor:
        """E[y_i], averaged over the latents of all replications: `(rows,)`."""
        total = torch.zeros(self.data.n_rows, dtype=torch.float64, device=self.data.device)
        with torch.no_grad(), validation(False):
            for _, v in self._blocks(self.block):
                mean = self.model.likelihood(v, self.data).mean.double()
                total += mean.expand(len(next(iter(v.values()))), self.data.n_rows).sum(0)
        return total / self.draws

    def _blocks(self, size: int) -> Iterator[tuple[torch.Generator, Values]]:
        generator = stream(self._seed, "replications", device=self.data.device)
        for start in range(0, self.draws, size):
            v = self._source(start, min(start + size, self.draws), generator)
            yield generator, self.model.values(v)

    def _one_by_one(self, v: Values, generator: torch.Generator) -> Tensor:
        """Each replication for itself, so that one that can't be simulated takes no other with it."""
        found = []
        for s in range(len(next(iter(v.values())))):
            one = self.model.values({name: x[s : s + 1] for name, x in v.items()})
            try:
                found.append(self.model.simulate(one, self.data, generator))
            except RuntimeError:
                found.append(self.data.y.new_full((1, self.data.n_rows), torch.nan))
        return torch.cat(found)


def from_posterior(posterior: Fit, draws: int, groups: str, seed: int) -> Replications:
    """Of the fitted rows, by draws of the posterior that are spread evenly over all chains; more than there are, and
    some are taken twice. With "known" groups, effects are those that were fitted; those of "new" ones are drawn again
    from their population, given the population-level latents of each draw.

    Raises:
        DataError: if the posterior does not know its model and data.
    """
    thinned = Pointwise(posterior, draws)
    held, model, data = thinned.flat, thinned.model, thinned.data
    at = torch.arange(draws, device=data.device) * thinned.number // draws

    def known(start: int, stop: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        which = at[start:stop]
        values = {name: x[which] for name, x in held.items()}
        if thinned.redraw is not None:
            drawn = thinned.redraw.at(which, derived(seed, "effects", start)).draws(thinned.together)
            values |= {name: x.squeeze(0) for name, x in drawn.items()}
        return values

    def new(start: int, stop: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        population = {name: x[at[start:stop]] for name, x in held.items() if model.latents[name].plate is None}
        v = model.sample_prior(data, stop - start, generator, population)
        names = [name for name, latent in model.latents.items() if latent.plate is not None]
        refuse_own_priors(model, v, data, "effects of new groups", names)
        return v

    return Replications(model, data, new if groups == "new" else known, draws, seed, known)


def from_prior(model: Model, data: Data, draws: int, seed: int) -> Replications:
    """Of the rows of some data, by draws of all latents from their priors."""

    def source(start: int, stop: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        v = model.sample_prior(data, stop - start, generator)
        refuse_own_priors(model, v, data, "draws from the prior")
        return v

    return Replications(model, data, source, draws, seed)
