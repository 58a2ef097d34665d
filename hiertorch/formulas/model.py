"""The model that a formula says, with the latents that users see everywhere."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LKJCholesky, MultivariateNormal, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.formulas.design import COMMON, OFFSET, Effects, Encoding
from hiertorch.formulas.encoding import INTERCEPT
from hiertorch.formulas.priors import Following, entry, read, stacked, taken_apart
from hiertorch.model.latent import Derived, Latent, Values
from hiertorch.models.autoscale import Autoscaled
from hiertorch.models.design import Design, Designed

CONCENTRATION = 2.0
"""Of the LKJ prior: 2 keeps a little away from correlations of -1 and 1 (Stan user's guide, section 1.13)."""


class FormulaModel(Designed):
    """y_i ~ family(eta_i),  eta_i = offset_i + mu + x_i' beta + sum_g z_gi' e_g[j(i)],
    e_gj ~ MultivariateNormal(0, D_g L_g L_g' D_g),  D_g = diag(sigma_g).

    Its latents: `mu`, the intercept; `beta`, with the terms' labels; for each grouping g `sigma_g`, `L_g` where effects
    are correlated (and `rho_g`, their correlations, in the posterior) and `effects_g`; and those of the family. Effects
    of one block of a grouping are correlated, those of two blocks are not: L_g_2 is the second block's.

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
        offset = OFFSET if encoding.has_offset else None
        if encoding.intercept:
            self._follow("mu", "intercept", COMMON if encoding.labels else None, [], offset)
        if encoding.labels:
            self._follow("beta", "coefficient", COMMON, encoding.labels, offset)
        for effects in encoding.effects:
            self._add_effects(effects, offset)
        for name, latent in family.latents.items():
            own = Autoscaled(name, "noise", family, offset, None, [()], [()], ()) if name in family.scales else None
            setattr(self, name, Latent(own) if own else latent)
            if own:
                self.texts[name] = own.text
        self._replace(priors or {})

    def _follow(self, name: str, role: str, column: str | None, labels: list[str], offset: str | None) -> None:
        prior = Following(role, column, tuple(labels), self.encoding.intercept, self.family, offset, {})
        setattr(self, name, Latent(prior, labels=labels or None))
        self.texts[name] = prior.text

    def _add_effects(self, effects: Effects, offset: str | None) -> None:
        plate, labels = effects.plate, effects.labels
        self._follow(f"sigma_{plate}", "scale", effects.column, labels, offset)
        for k, part in enumerate(effects.roots):
            root = f"L_{plate}" if k == 0 else f"L_{plate}_{k + 1}"
            size = part.stop - part.start
            setattr(self, root, Latent(LKJCholesky(size, CONCENTRATION)))
            pairs = [f"{a}~{b}" for a, b in combinations(labels[part], 2)]
            setattr(self, root.replace("L_", "rho_", 1), Derived(_Correlations(root), labels=pairs))
        setattr(self, f"effects_{plate}", Latent(_Prior(effects), plate, labels=[labels]))
        many = f" L_{plate} L_{plate}' D" if effects.roots else ""
        self.texts[f"effects_{plate}"] = (
            f"MultivariateNormal(0, D{many}), D = diag(sigma_{plate})" if many else f"Normal(0, sigma_{plate})"
        )

    def _replace(self, priors: Mapping[str, object]) -> None:
        entries = {
            name: [str(x) for x in latent.axes[0]] if latent.axes else None for name, latent in self.latents.items()
        }
        for name, given in taken_apart(priors, entries).items():
            latent = self.latents[name]
            if latent.plate is not None:
                raise ModelError(f"the prior of {name!r} is what the formula says: give one of its scales, sigma_....")
            if None in given:
                prior = read(name, given.pop(None))
                if given:  # the rest of the entries
                    labels = entries[name] or []
                    each = [entry(name, given[k]) if k in given else entry(name, prior) for k in range(len(labels))]
                    prior = stacked(each, torch.zeros((), dtype=torch.float64, device="cpu"))
                self.texts.pop(name, None)
                scalar = not isinstance(prior, Distribution) or not prior.event_shape
                event = tuple(len(axis) for axis in latent.axes) if scalar else ()
                setattr(self, name, Latent(prior, labels=latent.labels, event=event))
            else:
                ready = latent.prior
                if not isinstance(ready, Following):
                    raise ModelError(f"{name!r} has one prior for all of its entries: give priors={{{name!r}: ...}}.")
                own = {int(k or 0): entry(f"{name}[{(entries[name] or [])[int(k or 0)]}]", x) for k, x in given.items()}
                prior = Following(
                    ready.role, ready.column, ready.labels, ready.intercept, ready.family, ready.offset, own
                )
                setattr(self, name, Latent(prior, labels=latent.labels))
                said = ", ".join(f"{x} for {(entries[name] or [])[int(k or 0)]}" for k, x in given.items())
                self.texts[name] = f"{prior.text}; {said}"

    def linear_predictor(self, v: Values, data: Data) -> Tensor:
        """eta, `(chains, rows)`."""
        eta: Tensor | float = v.mu if self.encoding.intercept else 0.0
        if self.encoding.labels:
            eta = eta + v.beta[:, 0] @ data[COMMON].mT
        for effects in self.encoding.effects:
            own, design = v[f"effects_{effects.plate}"][:, data[effects.plate]], data[effects.column]
            for k, label in enumerate(effects.labels):
                eta = eta + (own[..., k] if label == INTERCEPT else own[..., k] * design[:, k])
        if self.encoding.has_offset:
            eta = eta + data[OFFSET]
        return eta if isinstance(eta, Tensor) else data.y.new_full((1, data.n_rows), eta)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """The family's, `(chains, rows)`."""
        return self.family.distribution(self.linear_predictor(v, data), v, data)

    def design(self) -> Design:
        """The family and its offset; predictors are columns of designs."""
        return Design(self.family, OFFSET if self.encoding.has_offset else None)

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


class _Prior:
    """Of a grouping's effects, `(chains, groups)` of vectors `(K,)`: blocks are independent of one another."""

    def __init__(self, effects: Effects) -> None:
        self.plate, self.roots, self.size = effects.plate, effects.roots, len(effects.labels)

    def __call__(self, v: Values) -> Distribution:
        scale = v[f"sigma_{self.plate}"]
        if not self.roots:
            return Independent(Normal(torch.zeros_like(scale), scale), 1)
        roots = [v[f"L_{self.plate}" if k == 0 else f"L_{self.plate}_{k + 1}"] for k in range(len(self.roots))]
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
