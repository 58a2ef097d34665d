"""The model that a formula says, with the latents that users see everywhere."""

from collections.abc import Callable, Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LKJCholesky, MultivariateNormal, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.formulas.coefficients import Shrunk, own_entries
from hiertorch.formulas.design import Encoding
from hiertorch.formulas.encoding import INTERCEPT
from hiertorch.formulas.exporting import exported
from hiertorch.formulas.predictors import Effects, Predictor, latent_of, root_of
from hiertorch.formulas.priors import Following, Unit
from hiertorch.formulas.shrinkage import Scope, Shrinkage, shrinkage_of
from hiertorch.formulas.source import source
from hiertorch.formulas.thresholds import Thresholds
from hiertorch.model.intervals import bounds
from hiertorch.model.latent import Derived, Latent, Values
from hiertorch.model.ordering import Ordered
from hiertorch.models.autoscale import Autoscaled
from hiertorch.models.design import Design, Designed, Exported
from hiertorch.models.entries import taken_apart, with_own
from hiertorch.wording import listed

CONCENTRATION = 2.0
"""Of the LKJ prior: 2 keeps a little away from correlations of -1 and 1 (Stan user's guide, section 1.13)."""


INVERSES: dict[Callable[..., Tensor], str] = {torch.exp: "exp({})", torch.sigmoid: "expit({})", torch.positive: "{}"}
"""Of a parameter's predictor, in the little language of exported models."""


class FormulaModel(Designed):
    """y_i ~ family(eta_i),  eta_i = offset_i + mu + x_i' beta + sum_g z_gi' e_g[j(i)],
    e_gj ~ MultivariateNormal(0, D_g L_g L_g' D_g),  D_g = diag(sigma_g).

    A parameter of the rows such as sigma may have a predictor of its own, log(sigma_i) = mu_sigma + ..., whose latents
    end in its name, as those of the predictor of a category end in the category.

    Its latents: `mu`, the intercept; `beta`, with the terms' labels; for each grouping g `sigma_g`, `L_g` where effects
    are correlated (and `rho_g`, their correlations, in the posterior) and `effects_g`; and those of the family. Effects
    of one block of a grouping are correlated, those of two blocks are not: L_g_2 is the second block's. Of ordered
    categories `centred_cuts_y` are thresholds for a row at the means of columns, which have the prior, and `cuts_y`, in
    the posterior, those at columns of 0; with a prior for `cuts_y` there are none but these.

    Args:
        encoding: of the formula on the fitted rows.
        family: of the rows.
        priors: latent, or latent[entry] -> prior in place of the one that the data choose
            (`hiertorch.formulas.priors`).

    Raises:
        ModelError: for a latent or an entry that there isn't, or what is no prior.
    """

    takes_priors = True

    def __init__(self, encoding: Encoding, family: Family, priors: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.encoding, self.family = encoding, family
        self.formula = encoding.parts.text
        self.texts: dict[str, str] = {}
        self._own = encoding.predictors if family.several else encoding.predictors[:1]  # that make eta
        self._others = encoding.predictors[len(self._own) :]
        self.inverses = {one.parameter: _inverse(family, one.parameter) for one in self._others}
        self._units = {
            one.parameter: Unit(family.of_parameter(one.parameter), one.offset, None, one.intercept, one.column)
            for one in self._own
        } | {
            one.parameter: Unit(family, one.offset, latent_of(one.parameter), one.intercept, one.column)
            for one in self._others
        }
        self._thresholds: Thresholds | None = None
        given = dict(priors or {})
        named = [one.called("beta") for one in encoding.predictors if one.labels]
        self._shrinkage = {name: found for name in named if (found := shrinkage_of(name, given.get(name)))}
        for one in encoding.predictors:
            self._add_common(one, given)
        for effects in encoding.effects:
            self._add_effects(effects)
        for name in family.latents:
            self._add_of_family(name)
        self._replace(given)

    def _add_of_family(self, name: str) -> None:
        """A latent of the family, once, unless it has a predictor or is told elsewhere."""
        family = self.family
        if name in self.latents or name in map(latent_of, self.inverses) or name == family.thresholds:
            return
        own = name in family.scales or name in family.sizes
        role = "noise" if name in family.scales else "size"
        prior = Autoscaled(name, role, family, self.encoding.predictors[0].offset, None, [()], [()], ())
        setattr(self, name, Latent(prior) if own else family.latents[name])
        if own:
            self.texts[name] = prior.text

    def _add_common(self, one: Predictor, given: dict[str, object]) -> None:
        unit = self._units[one.parameter]
        if one is self.encoding.predictors[0] and self.family.thresholds:
            return self._add_thresholds(one, unit, given)
        if one.intercept:
            self._follow(one.called("mu"), Following("intercept", one.column, (), (unit,)))
        self._add_coefficients(one, unit, given)

    def _add_thresholds(self, one: Predictor, unit: Unit, given: dict[str, object]) -> None:
        """In place of the intercept."""
        if not one.intercept:
            raise ModelError(
                f"thresholds take the place of the intercept in {self.family!r}, and the formula leaves it out: write "
                f"{self.encoding.response} ~ 1 + ..., without 0."
            )
        name = self.family.thresholds
        ready = self.family.latents[name]
        labels, ascending = tuple(map(str, ready.axes[0])), isinstance(ready.prior, Ordered)
        if name not in given and (found := Thresholds.of(name, one)):
            setattr(self, name, Derived(found, labels=labels))
            self._thresholds, name = found, found.latent
        self._follow(name, Following("ordered thresholds" if ascending else "thresholds", None, labels, (unit,)))
        self._add_coefficients(one, unit, given)

    def _add_coefficients(self, one: Predictor, unit: Unit, given: dict[str, object]) -> None:
        if one.labels:
            name, units = one.called("beta"), (unit,) * len(one.labels)
            following = Following("coefficient", one.column, tuple(one.labels), units)
            if shrinkage := self._shrinkage.get(name):
                self._add_shrunk(name, shrinkage, following, given)
            else:
                self._follow(name, following)

    def _add_shrunk(self, name: str, shrinkage: Shrinkage, following: Following, given: dict[str, object]) -> None:
        """Coefficients with one prior for all; what is given of them is taken out."""
        own = own_entries(name, following.labels, given)
        for key in [name, *(f"{name}[{following.labels[k]}]" for k in own)]:
            given.pop(key)
        of_mean = following.units[0].latent is None and self.family.link.name == "identity"
        noise = next((one for one in self.family.scales if of_mean and one not in map(latent_of, self.inverses)), None)
        if noise:
            self._add_of_family(noise)
        prior = Shrunk(name, shrinkage, Scope(following, noise), own)
        for other, (latent, text) in prior.latents().items():
            if other in self.latents:
                raise ModelError(f"a latent of the prior of {name!r} would be called {other!r} as another: rename one.")
            setattr(self, other, latent)
            self.texts[other] = text
        setattr(self, name, Latent(prior, labels=list(following.labels)))
        self.texts[name] = prior.text

    def _follow(self, name: str, prior: Following) -> None:
        setattr(self, name, Latent(prior, labels=list(prior.labels) or None))
        self.texts[name] = prior.text

    def _add_effects(self, effects: Effects) -> None:
        name, labels = effects.name, effects.labels
        units = tuple(self._units[block.parameter] for block in effects.blocks for _ in block.labels)
        self._follow(f"sigma_{name}", Following("scale", effects.column, tuple(labels), units))
        for k, part in enumerate(effects.roots):
            root = root_of(name, k)
            setattr(self, root, Latent(LKJCholesky(part.stop - part.start, CONCENTRATION)))
            pairs = [f"{a}~{b}" for a, b in combinations(labels[part], 2)]
            setattr(self, root.replace("L_", "rho_", 1), Derived(_Correlations(root), labels=pairs))
        setattr(self, f"effects_{name}", Latent(_Prior(effects), effects.plate, labels=[labels]))
        self.texts[f"effects_{name}"] = (
            f"MultivariateNormal(0, D L_{name} L_{name}' D), D = diag(sigma_{name})"
            if effects.roots
            else f"Normal(0, sigma_{name})"
        )

    def _replace(self, priors: Mapping[str, object]) -> None:
        for name, given in taken_apart(priors, self.latents, "the model").items():
            latent = self.latents[name]
            if latent.plate is not None:
                raise ModelError(f"the prior of {name!r} is what the formula says: give one of its scales, sigma_....")
            ascending = getattr(latent.prior, "role", "") == "ordered thresholds"
            if ascending and given.keys() != {None}:
                raise ModelError(f"{name!r} has one prior for all of its entries, which are in order: give that alone.")
            prior, text = with_own(name, latent, given, self.texts.get(name, ""))
            event: tuple[int, ...] = ()
            if isinstance(prior, Distribution) and not prior.event_shape:
                event = tuple(len(axis) for axis in latent.axes)
                if ascending:
                    prior, event = Ordered(prior, event[0]), ()
            setattr(self, name, Latent(prior, labels=latent.labels, event=event))
            self.texts.pop(name, None)
            if text:
                self.texts[name] = text

    def linear_predictor(self, v: Values, data: Data) -> Tensor:
        """eta of the mean, `(chains, rows)`; of several predictors `(chains, rows, predictors)`."""
        each = [self._predictor(one, v, data) for one in self._own]
        return torch.stack(torch.broadcast_tensors(*each), -1) if self.family.several else each[0]

    def _predictor(self, one: Predictor, v: Values, data: Data) -> Tensor:
        leveled = one.intercept and not (self.family.thresholds and one is self.encoding.predictors[0])
        eta: Tensor | float = v[one.called("mu")] if leveled else 0.0
        if one.column is not None:
            eta = eta + v[one.called("beta")][:, 0] @ data[one.column].mT
        for effects in self.encoding.effects:
            for k, intercept in effects.of(one.parameter):
                own = v[f"effects_{effects.name}"][:, data[effects.plate], k]
                eta = eta + (own if intercept else own * data[effects.column][:, k])
        if one.offset is not None:
            eta = eta + data[one.offset]
        return eta if isinstance(eta, Tensor) else data.y.new_full((1, data.n_rows), eta)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """The family's, `(chains, rows)`."""
        return self.family.distribution(self.linear_predictor(v, data), self.row_parameters(v, data), data)

    def row_parameters(self, v: Values, data: Data) -> Values:
        """With those that have a predictor of their own, `(chains, rows)`, and thresholds as they meet eta."""
        made = {
            latent_of(one.parameter): self.inverses[one.parameter](self._predictor(one, v, data))
            for one in self._others
        }
        if self._thresholds:
            made[self._thresholds.name] = self._thresholds(v, data)
        return _Rows(v, made) if made else v

    def exported(self, data: Data) -> Exported:
        """See `Designed.exported`."""
        return exported(self.encoding, self.family, {name: INVERSES[one] for name, one in self.inverses.items()})

    def design(self) -> Design:
        """The family and the offset of its predictor, if it has one alone; predictors are columns of designs."""
        offset = None if self.family.several else self.encoding.predictors[0].offset
        return Design(self.family, offset, encoded=True)

    def coefficients(self) -> dict[str, list[str]]:
        """The intercept, or thresholds, and slopes of every predictor; those of another parameter than the mean begin
        with its name.
        """
        found = {}
        if cuts := self.family.thresholds:
            found[cuts] = [str(label) for label in self.family.latents[cuts].axes[0]]
        for one in self.encoding.predictors:
            prefix = f"{one.parameter}_" if one.parameter else ""
            if one.intercept:
                found[one.called("mu")] = [prefix + INTERCEPT]
            if one.labels:
                found[one.called("beta")] = [prefix + label for label in one.labels]
        return found

    def source(self, data: Data) -> str:
        """The same model as a class that one can read, run and change; priors are in numbers, for these data."""
        return source(self, self.encoding, self.family, self.inverses, self._thresholds, data)

    def extra_repr(self) -> str:
        """The formula, the family, and every latent with its prior and entries, one a line."""
        success = self.encoding.success
        counts = "" if success is None else f"; {self.encoding.response} counts as 1 where it is {success!r}"
        lines = [self.formula, f"{self.encoding.response} ~ {self.family.formula}{counts}", ""]
        width = max(map(len, self.latents), default=0)
        for name, latent in self.latents.items():
            entries = "" if latent.labels is None else f"[{'; '.join(', '.join(map(str, a)) for a in latent.axes)}]"
            plate = f"  for each {latent.plate}" if latent.plate else ""
            lines.append(
                f"{name:<{width}} ~ {self.texts.get(name) or latent.text}{plate}{'  ' + entries if entries else ''}"
            )
        return "\n".join(lines)


def _inverse(family: Family, parameter: str) -> Callable[[Tensor], Tensor]:
    """From a predictor to the parameter: exp of positive ones, the logistic function of probabilities.

    Raises:
        ModelError: if the family has no such parameter.
    """
    latent = family.latents.get(latent_of(parameter))
    support = latent.prior.support if latent is not None and isinstance(latent.prior, Distribution) else None
    if support is None or latent is None or latent.axes:
        known = [name.removesuffix("_y") for name, one in family.latents.items() if not one.axes]
        raise ModelError(
            f"family {family.name!r} has no parameter {parameter!r} that a formula could predict; it has "
            f"{listed(known) if known else 'none'}."
        )
    between = bounds(support)
    if between == (0.0, 1.0):
        return torch.sigmoid
    return torch.exp if between is not None and between[0] == 0.0 else torch.positive


class _Rows(Values):
    """Values of latents, some of which are those of each row."""

    __slots__ = ("_made", "_others")

    def __init__(self, others: Values, made: Mapping[str, Tensor]) -> None:
        super().__init__({})
        self._others, self._made = others, made

    def __getitem__(self, name: str) -> Tensor:
        return self._made[name] if name in self._made else self._others[name]


class _Prior:
    """Of a grouping's effects, `(chains, groups)` of vectors `(K,)`: blocks are independent of one another."""

    def __init__(self, effects: Effects) -> None:
        self.name, self.roots, self.size = effects.name, effects.roots, len(effects.labels)

    def __call__(self, v: Values) -> Distribution:
        scale = v[f"sigma_{self.name}"]
        if not self.roots:
            return Independent(Normal(torch.zeros_like(scale), scale), 1)
        roots = [v[root_of(self.name, k)] for k in range(len(self.roots))]
        if self.roots[0] == slice(0, self.size):
            root = roots[0]
        else:  # block-diagonal
            root = torch.diag_embed(torch.ones_like(scale))
            for part, block in zip(self.roots, roots, strict=True):
                root = root.clone()
                root[..., part, part] = block
        return MultivariateNormal(torch.zeros_like(scale), scale_tril=scale.unsqueeze(-1) * root)


class _Correlations:
    """Those below the diagonal of L L', column by column: `(chains, 1, pairs)`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __call__(self, v: Values) -> Tensor:
        matrix = v[self.root] @ v[self.root].mT
        a, b = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1, device=matrix.device)
        return matrix[..., b, a]
