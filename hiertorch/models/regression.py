"""What all ready structures share: a family, predictors, an offset, and priors that can be replaced."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Family, Gaussian, NegativeBinomial, StudentT, named
from hiertorch.families.portable import column, dotted
from hiertorch.model.latent import Latent, Values
from hiertorch.models.autoscale import autoscaled
from hiertorch.models.design import Design, Designed, Exported, Population
from hiertorch.models.entries import taken_apart, with_own

Prior = Distribution | Callable[..., Distribution]

FEW = 8
"""Columns up to which their products with coefficients are added up one by one."""


class Regression(Designed):
    """y_i ~ family(eta_i),  eta_i = offset_i + what the structure says of predictors and groups.

    A model has the latents that its family reads, such as sigma_y. All that has a
    unit has a prior as wide as the data ask for, see `hiertorch.models.autoscale`. The priors that each structure
    states in its class body are those of `priors="tutorial"`, with sigma_y ~ Gamma(1, 1): fixed, for data whose
    response and columns have an sd of about 1.

    A structure names its latents in the class body, where a subclass replaces a prior in one line, and writes `build`,
    which says what they vary over, and `eta`.

    Args:
        predictors: names of columns x with one coefficient each.
        family: what y is like, by a name in `hiertorch.families.NAMES`, such as "poisson", or an object of
            `hiertorch.families`.
        offset: the column that is added to eta as it is.
        priors: "autoscale", or latent -> prior in place of the one that the data choose, `Normal(0.0, 10.0)` or as text
            "Normal(0, 10)"; or "tutorial". Priors that a subclass declares stay as they are.

    Raises:
        ModelError: for a family or latent that there isn't, a column named twice, or text that is no prior.
    """

    # Here, too, so that a subclass's body replaces one in its place in the order; a model keeps those of its family.
    sigma_y = Gaussian.latents["sigma_y"]
    nu_y = StudentT.latents["nu_y"]
    phi_y = NegativeBinomial.latents["phi_y"]

    takes_priors = True
    eta_text = ""  # for print; `build` says it
    time: str | None = None  # the grouping of times, of structures that have one

    def __init__(
        self,
        predictors: Sequence[str] = (),
        *,
        family: Family | str = "gaussian",
        offset: str | None = None,
        priors: Mapping[str, object] | str | None = "autoscale",
    ) -> None:
        super().__init__()
        self._ready = {name for name in self.latents if self._is_ready(name)}
        self.predictors = column_names("predictors", predictors)
        if offset is not None and not isinstance(offset, str):
            raise ModelError(f"offset is the name of a column, found {offset!r}.")
        self.family: Family = named(family)
        self.offset = offset
        self.texts: dict[str, str] = {}
        self._add_latents_of_rows()
        self.build()
        self._replace(priors)

    def build(self) -> None:
        """Says what every latent varies over (`shape`, `add`, `drop`)."""
        raise ModelError(f"{type(self).__name__} has no structure: write build(self) and eta(self, v, data).")

    def eta(self, v: Values, data: Data) -> Tensor:
        """The linear predictor without its offset, broadcastable to `(chains, rows)`."""
        raise NotImplementedError

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """The family's, `(chains, rows)`."""
        return self.family.distribution(self.linear_predictor(v, data), v, data)

    def linear_predictor(self, v: Values, data: Data) -> Tensor:
        """eta and its offset."""
        eta = self.eta(v, data)
        return eta if self.offset is None else eta + data[self.offset]

    def exported(self, data: Data) -> Exported | None:
        """See `Designed.exported`."""
        if (eta := self.eta_exported()) is None:
            return None
        offset = "" if self.offset is None else f" + {column(self.offset)}"
        return Exported({"eta": eta + offset}, self.populations(data))

    def eta_exported(self) -> str | None:
        """`eta` in the little language; None where it is not said."""
        return None

    def populations(self, data: Data) -> dict[str, Population]:
        """Priors of effects, likewise."""
        return {}

    def shared_exported(self, name: str = "beta", columns: Sequence[str] | None = None) -> str:
        """`shared` likewise, with a plus sign before it if there is anything."""
        return dotted(name, self.predictors if columns is None else columns)

    def design(self) -> Design:
        """Predictors and offset; structures with groups have more."""
        return Design(self.family, self.offset, self.predictors)

    def _add_latents_of_rows(self) -> None:
        """Declares the family's latents behind the structure's own, as a class body has them if it does."""
        if self.family.several:
            instead = (
                f"write a formula, ht.fit('y ~ x + (1 | group)', frame, family={self.family.name!r})"
                if self.family.categories
                else "write a likelihood of your own, in an ht.Model"
            )
            raise ModelError(
                f"{self.family!r} has the predictors {', '.join(self.family.parameters)} for each row, and "
                f"{type(self).__name__} makes one: {instead}."
            )
        if self.family.thresholds:
            raise ModelError(
                f"{self.family!r} has thresholds in place of the intercept of {type(self).__name__}: write a formula, "
                f"ht.fit('y ~ x + (1 | group)', frame, family={self.family.name!r})."
            )
        for name in {"sigma_y", "nu_y", "phi_y"} - set(self.family.latents):
            self.drop(name)
        for name, latent in self.family.latents.items():
            own = None if self._owner(name) is Regression else self.latents.get(name)  # there it holds a place alone
            self.drop(name)
            setattr(self, name, own or latent)
            if own is None:
                self._ready.add(name)

    def shape(self, name: str, labels: Sequence[str | list[str]] | None = None, plate: str | None = None) -> None:
        """Makes a latent of the class body vary over a plate, and a vector with these labels, or a matrix of a list of
        rows' and one of columns' labels. Without labels to give, the model does without the latent.
        """
        axes: list[Sequence[object]] = []
        if labels is not None:
            axes = [part for part in labels if isinstance(part, list)] or [list(labels)]
        if any(len(axis) == 0 for axis in axes):
            return self.drop(name)
        latent = self.latents[name]
        vector = isinstance(latent.prior, Distribution) and len(latent.prior.event_shape)
        event = latent.event or (() if vector else tuple(len(axis) for axis in axes))
        setattr(self, name, Latent(latent.prior, plate, event=event, labels=latent.labels or axes or None))

    def add(
        self,
        name: str,
        prior: Prior,
        plate: str | None = None,
        labels: Sequence[object] | str | None = None,
        text: str = "",
        *,
        scaled: bool = False,
    ) -> None:
        """Declares a latent behind all others, with the prior of a subclass's body if it declares one of that name.

        Args:
            name: of the latent.
            prior: its default.
            plate: what it varies over.
            labels: of its event.
            text: its prior for print.
            scaled: whether the data may choose its prior (`hiertorch.models.autoscale`), by its name.
        """
        own = self.latents.get(name)
        self.drop(name)
        latent = Latent(prior if own is None else own.prior, plate, labels=labels)
        setattr(self, name, latent)
        if text and own is None:
            self.texts[name] = text
        if scaled and own is None:
            self._ready.add(name)

    def drop(self, name: str) -> None:
        """Leaves a latent of the class body out."""
        if name in self.latents:
            delattr(self, name)

    def shared(self, v: Values, data: Data, name: str = "beta", columns: Sequence[str] | None = None) -> Tensor | float:
        """sum_k beta_k x_ik of coefficients that all rows share, `(chains, rows)`."""
        columns = self.predictors if columns is None else columns
        if len(columns) > FEW:
            return v[name][:, 0] @ torch.stack([predictor(data, column).to(v[name].dtype) for column in columns])
        return sum((v[name][..., k] * predictor(data, column) for k, column in enumerate(columns)), start=0.0)

    def _is_ready(self, name: str) -> bool:
        """Whether a latent of the class body is a ready structure's, and no subclass's."""
        return self._owner(name).__module__.startswith("hiertorch.models.")

    def _owner(self, name: str) -> type:
        """The class in whose body a latent stands."""
        return next((kind for kind in type(self).__mro__ if name in vars(kind)), Regression)

    def _replace(self, priors: Mapping[str, object] | str | None) -> None:
        if priors == "tutorial":
            return
        if not (priors is None or priors == "autoscale" or isinstance(priors, Mapping)):
            raise ModelError(
                f'priors is "autoscale", "tutorial", or a mapping from latents to priors; found {priors!r}.'
            )
        own = taken_apart(priors, self.latents, type(self).__name__) if isinstance(priors, Mapping) else {}
        ready = [name for name in self.latents if name in self._ready and None not in own.get(name, ())]
        chosen = autoscaled(self.latents, ready, self.family, self.offset, self.time)
        for name, prior in chosen.items():
            self._set_prior(name, prior, prior.text)
        for name, given in own.items():
            made, text = with_own(name, self.latents[name], given, self.texts.get(name, ""))
            self._set_prior(name, made, text)

    def _set_prior(self, name: str, prior: Distribution | Callable[..., Distribution], text: str = "") -> None:
        old = self.latents[name]
        scalar = not isinstance(prior, Distribution) or len(prior.event_shape) == 0
        event = old.event if scalar and not text else ()
        setattr(self, name, Latent(prior, old.plate, event=event, labels=old.labels))
        self.texts.pop(name, None)
        if text:
            self.texts[name] = text

    def terms(self, *parts: str, **coefficients: Sequence[str]) -> str:
        """A sum for print: parts, then coefficients times their columns, then the offset."""
        products = [f"{name} . ({', '.join(columns)})" for name, columns in coefficients.items() if columns]
        return " + ".join([*parts, *products, *([] if self.offset is None else [self.offset])])

    def formula(self) -> list[str]:
        """The model in lines, for print."""
        return [f"y ~ {self.family.formula}", *([f"eta = {self.eta_text}"] if self.eta_text else [])]

    def extra_repr(self) -> str:
        """Formula, and every latent with its prior and plate, one a line."""
        lines = [*self.formula(), ""]
        width = max(map(len, self.latents), default=0)
        for name, latent in self.latents.items():
            vector = "" if latent.labels is None else f"[{'; '.join(', '.join(map(str, a)) for a in latent.axes)}]"
            prior = self.texts.get(name) or latent.text
            plate = f"  for each {latent.plate}" if latent.plate else ""
            lines.append(f"{name:<{width}} ~ {prior}{plate}{'  ' + vector if vector else ''}")
        return "\n".join(lines)


def column_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """A list of column names, each once."""
    listed = isinstance(names, Iterable) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{what} must be a list of column names, found {names!r}; write {what}=['x'].")
    if len(set(names)) < len(names):
        raise ModelError(f"{what} names a column twice: {list(names)}.")
    return tuple(names)


def predictor(data: Data, name: str) -> Tensor:
    """A column `(rows,)`."""
    x = data[name]
    if x.dim() > 1:
        raise ModelError(
            f"column {name!r} is a matrix, {tuple(x.shape)}, and a predictor is one column: give each of its columns a "
            "name, as in ht.Data(..., x1=X[:, 0], x2=X[:, 1]) with predictors=['x1', 'x2']."
        )
    return x
