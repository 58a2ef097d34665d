"""How much each parameter would move with a stronger or weaker prior or likelihood.

    p_a(theta | y)  ~  p(theta)^a p(y | theta)     or     p(theta) p(y | theta)^a,      a = 0.99 and 1.01

Sensitivity is d CJS / d log2(a), the cumulative Jensen-Shannon distance of the parameter's marginal posterior from the
one that is power-scaled, which is found by importance weights (Kallioinen, Paananen, Buerkner & Vehtari 2023, Detecting
and diagnosing prior and likelihood sensitivity with power-scaling; computed by arviz-stats). Above 0.05 a parameter is
sensitive: to the prior alone, where it is strong or the likelihood weak; to both, where they may be in conflict.

Note [Which priors]
    Power-scaled are the priors that no other latent appears in. p(effects | population) belongs to the model: raised to
    a power it would change how strongly groups are pooled, for which nobody has chosen a prior. For hierarchical models
    the paper advises the same, to scale priors at the top level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import names_of
from hiertorch.draws.fit import Fit
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.runtime.silence import quiet
from hiertorch.runtime.validating import validation

THRESHOLD = 0.05
CONFLICT, STRONG, FINE = "prior-data conflict", "strong prior or weak likelihood", "-"
ALPHAS = (0.99, 1.01)


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of each parameter to power-scaling.

    Attributes:
        table: one row a parameter: `prior` (all priors of Note [Which priors] scaled together), `likelihood`, and
            `diagnosis`.
        by_latent: one row a parameter, one column a latent: to that latent's prior alone.
        sentences: what to make of it.
        threshold: from which a parameter is sensitive.
    """

    table: pd.DataFrame
    by_latent: pd.DataFrame
    sentences: list[str]
    threshold: float

    def __repr__(self) -> str:
        shown = self.table[:30].to_string(float_format=lambda x: f"{x:.3f}", line_width=118)
        more = f"\n... and {len(self.table) - 30} more" if len(self.table) > 30 else ""
        return "\n".join(["Sensitivity to power-scaling:", shown + more, *(f"- {text}" for text in self.sentences)])


def sensitivity(posterior: Fit, names: Sequence[str] | None = None) -> Sensitivity:
    """See `hiertorch.posterior.Posterior.sensitivity`.

    Raises:
        UnknownNameError: if there is no such latent.
        DataError: if the posterior does not know its model and data, no prior can be scaled, or nothing varies.
    """
    point = Pointwise(posterior)
    if names is None:
        names = [name for name in posterior.names if name in point.model.latents and posterior.plates[name] is None]
    wanted = names_of("names", names)
    parameters = _columns(posterior, [posterior.known(name) for name in wanted], point.draw)
    if parameters.empty:
        raise DataError("no parameter of these varies, so that none can be sensitive: name others in names=.")
    top = [name for name in point.model.latents if not posterior.fitted.reads.priors[name]]
    if missing := [name for name in top if name not in point.stored]:
        raise DataError(
            f"the draws of {missing[0]!r} are needed, whose prior is scaled, and the posterior does not hold them: "
            "name it in keep= of ht.sample."
        )
    priors = _log_priors(point, top)
    shape = (point.chains, len(point.draw))
    likelihood = torch.zeros(shape, dtype=torch.float64)
    for _, terms in point.chunks():
        likelihood += terms.sum(-1).double().cpu()
    every = torch.stack(list(priors.values())).sum(0)
    table = pd.DataFrame(
        {"prior": _sensed(parameters, every, shape), "likelihood": _sensed(parameters, likelihood, shape)},
        index=parameters.columns,
    )
    strong, heard = table["prior"] >= THRESHOLD, table["likelihood"] >= THRESHOLD
    table["diagnosis"] = np.select(
        [strong & heard, strong & (table["likelihood"] < THRESHOLD)], [CONFLICT, STRONG], FINE
    )
    by_latent = pd.DataFrame({name: _sensed(parameters, x, shape) for name, x in priors.items()}, index=table.index)
    return Sensitivity(table, by_latent, _sentences(posterior, table, by_latent), THRESHOLD)


def _columns(posterior: Fit, names: Sequence[str], draw: Tensor) -> pd.DataFrame:
    """Thinned draws of parameters that vary, `(chains x draws, parameters)`."""
    tables = [pd.DataFrame()]
    for name in names:
        texts, x = posterior.parameters(name), posterior.draws[name]
        x = x[:, draw.to(x.device)].double().cpu().reshape(-1, len(texts))
        tables.append(pd.DataFrame(x.numpy(), columns=texts))
    every = pd.concat(tables, axis=1)
    return every.loc[:, every.std() > 1e-12]


def _log_priors(point: Pointwise, names: Sequence[str]) -> dict[str, Tensor]:
    """log p(latent) of each draw, `(chains, draws)`."""
    found = {}
    with torch.no_grad(), validation(False):
        for name in names:
            v = point.model.values({name: point.stored[name].flatten(0, 1)})
            term = point.model.log_prior_term(name, v, point.data).sum(-1)
            found[name] = term.unflatten(0, (point.chains, len(point.draw))).double().cpu()
    return found


def _sensed(parameters: pd.DataFrame, log_density: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Sensitivity of each parameter to a part of the log density, `(parameters,)`."""
    if float(log_density.std()) < 1e-12:  # a flat prior has nothing to scale
        return np.zeros(parameters.shape[1])
    from arviz_base import from_dict  # take long to import
    from arviz_stats import psense

    theta = parameters.to_numpy().reshape(*shape, parameters.shape[1])
    with quiet("Found chain dimension to be longer"):  # there are many chains here
        tree = from_dict({"posterior": {"theta": theta}, "log_prior": {"part": log_density.numpy()}})
        return np.asarray(psense(tree, group="prior", alphas=ALPHAS)["theta"]).reshape(-1)


def _sentences(posterior: Fit, table: pd.DataFrame, by_latent: pd.DataFrame) -> list[str]:
    flagged = table[table["diagnosis"] != FINE].sort_values("prior", ascending=False)
    found, scores = [], by_latent.to_dict("index")
    for parameter, row in flagged[:8].iterrows():
        each = scores[parameter]
        worst = max(each, key=lambda name: each[name])
        whose = f"most with that of {worst} ({each[worst]:.2f})"
        moved = f"{parameter} moves with the priors ({row['prior']:.2f}, {whose})"
        if row["diagnosis"] == STRONG:
            who = wording.listed(_groups(posterior, parameter) or ["the rows"])
            text = f"{moved} and hardly with the data ({row['likelihood']:.2f}): {who} say little about it. "
            text += f"Say what its prior knows, and what others give: ht.prior_grid(model, data, {worst!r})."
        else:
            text = (
                f"{moved} and with the data ({row['likelihood']:.2f}), which may be in conflict: hold what the prior "
                f"of {worst} expects against what was found."
            )
        found.append(text)
    if len(flagged) > 8:
        found.append(f"So do {len(flagged) - 8} more; see the table.")
    if not found:
        found.append(
            f"No parameter moves with the priors by {THRESHOLD} or more: priors somewhat wider or narrower would give "
            "the same answer."
        )
    still = table.index[(table["likelihood"] < THRESHOLD) & (table["diagnosis"] == FINE)]
    above = {str(name): groups for name in still if (groups := _groups(posterior, name))}
    if above:
        speaking = ", ".join(dict.fromkeys(x for each in above.values() for x in each))
        found.append(
            f"More rows of the same groups would hardly move {wording.listed(above)}: what is known of it rests on the "
            f"number of groups ({speaking})."
        )
    if deaf := [str(name) for name in still if str(name) not in above]:
        found.append(f"The data hardly move {wording.listed(deaf)}, and neither do the priors: both are weak.")
    return found


def _groups(posterior: Fit, parameter: object) -> list[str]:
    """The groups whose effects speak of a parameter."""
    latent, fitted, labels = str(parameter).split("[")[0], posterior.fitted, posterior.labels
    readers = [fitted.model.latents[name].plate for name, read in fitted.reads.priors.items() if latent in read]
    return [f"{len(labels[plate])} groups of {plate!r}" for plate in dict.fromkeys(readers) if plate in labels]
