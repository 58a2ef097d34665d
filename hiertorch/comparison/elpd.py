"""The estimators of `hiertorch.comparison.criteria`, of log densities of rows or groups that come in chunks.

One pass each: a chunk holds all draws of some units, and its columns `(n,)` are kept.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.comparison.bygroup import by_group
from hiertorch.draws import diagnostics
from hiertorch.draws.pareto import good_k, leave_one_out
from hiertorch.draws.pointwise import Pointwise
from hiertorch.model.densities import weighted
from hiertorch.model.latent import Values
from hiertorch.runtime import workers
from hiertorch.runtime.validating import validation

EFFICIENCY_PARAMETERS = 2_000
"""Over about which the relative efficiency of the draws is averaged."""

INTEGRAL_LIMIT = 0.05
"""Error of a log marginal likelihood that is worth telling."""

Found = dict[str, np.ndarray]


def total(elpd: np.ndarray, p: np.ndarray) -> tuple[float, float, float]:
    """elpd, the sum of n pointwise values; its standard error sqrt(n Var elpd_i), Var with 1 / n as in ArviZ; and p."""
    with np.errstate(invalid="ignore"):
        return float(elpd.sum()), float(math.sqrt(len(elpd)) * elpd.std()), float(p.sum())


SILENT = "have a weight of 0 or say nothing of the latents, as without trials"


class Rows:
    """Rows, whose densities are conditional on the effects of their groups; `index` has their labels."""

    what = "row"

    def __init__(self, pointwise: Pointwise) -> None:
        told, data = pointwise.told, pointwise.data
        self.pointwise = pointwise
        self.index = data.index if len(told) == data.n_rows else data.index[told.cpu().numpy()]
        self.details: dict[str, float] = {}

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of some units `(n,)`, all of them in turn, with their log densities `(chains, draws, n)`."""
        return self.pointwise.chunks()

    def at(self, values: Mapping[str, Tensor], units: Tensor) -> Tensor:
        """Log densities of some units at values `(1, size, *event)` of all latents, `(n,)`."""
        model, part = self.pointwise.model, self.pointwise.data.take(units)
        with torch.no_grad(), validation(False):
            v = Values(values, tuple(model.latents))
            return weighted(model.log_likelihood(v, part), part.weights)[0]

    def notes(self) -> list[str]:
        """How many rows were left out."""
        missing = self.pointwise.data.n_rows - len(self.index)
        return [f"{missing} of {missing + len(self.index)} rows {SILENT}, and are left out."] if missing else []


class Groups:
    """Groups of a plate, whose densities are those of all their rows with the groups' effects integrated out.

    Groups without rows, or with none that says anything, are left out.
    """

    what = "group"

    def __init__(self, pointwise: Pointwise, plate: str) -> None:
        self.pointwise, self.plate, data = pointwise, plate, pointwise.data
        self._kept = data[plate][pointwise.told].unique()
        self.index = data.labels[plate][self._kept.cpu().numpy()]
        self._integral = by_group(pointwise, plate)
        error = self._integral.error()
        self._error = None if error is None else error[self._kept].cpu().numpy()
        self.details = {} if self._error is None else {"integration_error": float(self._error.max())}

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of `Rows`; all groups at once."""
        density = self._integral.log_density()
        yield (
            torch.arange(len(self._kept), device=density.device),
            density if len(self._kept) == density.shape[-1] else density[..., self._kept],
        )

    def at(self, values: Mapping[str, Tensor], units: Tensor) -> Tensor:
        """As that of `Rows`."""
        return self._integral.at(values)[0, self._kept][units]

    def notes(self) -> list[str]:
        """Which groups were left out, and how uncertain the integrals are."""
        found, number = [], len(self.pointwise.data.labels[self.plate])
        if missing := number - len(self.index):
            found.append(f"{missing} of {number} groups have no rows that say anything, and are left out.")
        if self._error is not None and (bad := np.flatnonzero(~(self._error <= INTEGRAL_LIMIT))).size:
            found.append(
                f"The integrals over the effects of {named(self.index, bad)} are uncertain, by up to "
                f"{np.max(self._error):.2g} in the log marginal likelihood of a draw: take posterior.kfold(by="
                f"{self.plate!r})."
            )
        return found


Source = Rows | Groups
"""What draws of a posterior say about each unit: `what` is "row" or "group"."""


def _mean(pointwise: Pointwise) -> dict[str, Tensor]:
    """Posterior mean of every latent, `(1, size, *event)`."""
    effects = pointwise.posterior.unstored
    found = {name: x.mean((0, 1)).unsqueeze(0) for name, x in pointwise.stored.items()}
    if effects is not None:
        for name in pointwise.unstored:
            found[name] = effects.moments(name)[0].unsqueeze(0).to(pointwise.data.dtype)
    return found


def _gathered(source: Source, function: Callable[[Tensor], dict[str, Tensor]]) -> Found:
    """Columns over all units, from a function of log densities `(n, draws of all chains)` that chunks share out."""
    chunks = (x for _, x in source.chunks())
    return _joined(list(workers.each(lambda x: function(_by_unit(x)), chunks, source.pointwise.data.device)))


def _by_unit(log_density: Tensor) -> Tensor:
    """Log densities `(chains, draws, n)` as `(n, draws of all chains)`, in float64."""
    return log_density.flatten(0, 1).mT.double().contiguous()


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> Found:
    """Columns of all chunks."""
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def loo(source: Source, efficiency: float | None = None) -> tuple[Found, dict[str, float]]:
    """Columns of PSIS-LOO (Vehtari, Gelman & Gabry 2017, section 2.1), and further numbers."""
    number = source.pointwise.number
    efficiency = relative_efficiency(source.pointwise) if efficiency is None else efficiency

    def chunk(x: Tensor) -> dict[str, Tensor]:
        elpd, k = leave_one_out(x, efficiency)
        k = k.where(k != -torch.inf, torch.nan)  # the largest weights are all the same, so that there is no tail
        lppd = x.logsumexp(1) - math.log(number)
        finite = torch.isfinite(elpd) & torch.isfinite(lppd)
        return {"elpd": elpd, "p": lppd - elpd, "pareto_k": k, "lppd": lppd, "finite": finite}

    found = _gathered(source, chunk)
    lppd, worst = float(found["lppd"].sum()), float(np.fmax.reduce(found["pareto_k"]))
    return found, {"lppd": lppd, "r_eff": efficiency, "good_k": good_k(number), "worst_k": worst}


def relative_efficiency(pointwise: Pointwise, most: int = EFFICIENCY_PARAMETERS) -> float:
    """Effective draws over draws, averaged over the parameters (their means), as `arviz_stats.loo` has it, or over
    every so many-th if there are more than `most`.
    """
    if pointwise.chains == 1:
        return 1.0
    parameters = torch.cat(
        [x[:, pointwise.draw.to(x.device)].flatten(2) for x in pointwise.posterior.draws.values()], 2
    )
    step = max(1, parameters.shape[2] // most)
    ess = diagnostics.ess_mean(parameters[..., ::step])
    return float(ess.nan_to_num(nan=float(pointwise.number)).mean()) / pointwise.number


def waic(source: Source) -> tuple[Found, dict[str, float]]:
    """Columns of WAIC (Gelman, Hwang & Vehtari 2014, eqs 11 to 13), and further numbers."""
    number = source.pointwise.number

    def chunk(x: Tensor) -> dict[str, Tensor]:
        lppd, mean, variance = x.logsumexp(1) - math.log(number), x.mean(1), x.var(1)
        columns = {"elpd": lppd - variance, "p": variance, "p1": 2.0 * (lppd - mean), "lppd": lppd}
        return {**columns, "finite": torch.isfinite(x).all(1)}

    found = _gathered(source, chunk)
    p1 = float(found["p1"].sum())
    lppd = float(found["lppd"].sum())
    return found, {"lppd": lppd, "p_waic1": p1, "p_waic2": float(found["p"].sum()), "elpd_waic1": lppd - p1}


def dic(source: Source) -> tuple[Found, dict[str, float]]:
    """Columns of DIC (Gelman, Hwang & Vehtari 2014, eqs 8 to 10), and further numbers."""
    whole = torch.zeros(source.pointwise.number, dtype=torch.float64, device=source.pointwise.data.device)
    values, parts = _mean(source.pointwise), list[int]()

    def chunk(units: Tensor, x: Tensor) -> dict[str, Tensor]:
        parts.append(len(units))
        whole.add_(x.sum(0))
        centre = source.at(values, units).double()
        p = 2.0 * (centre - x.mean(1))
        return {"elpd": centre - p, "p": p, "centre": centre, "finite": torch.isfinite(x).all(1)}

    found = _joined([chunk(units, _by_unit(x)) for units, x in source.chunks()])  # in order: they are summed up
    centre, p_v = float(found["centre"].sum()), 2.0 * float(whole.var())
    if source.what == "row" and source.pointwise.redraw is not None and len(parts) > 1:
        p_v = math.nan  # effects are drawn anew for each chunk: a group's rows in two chunks have different ones
    return found, {
        "p_D": float(found["p"].sum()),
        "p_V": p_v,
        "elpd_V": centre - p_v,
        "deviance_of_mean": -2.0 * centre,
        "mean_deviance": -2.0 * float(whole.mean()),
    }


def named(index: pd.Index, at: np.ndarray, what: str = "group", most: int = 5) -> str:
    """Rows or groups in a sentence: how many of how many, and the first by name."""
    names = ", ".join(wording.show(index[int(i)]) for i in at[:most]) + (", ..." if len(at) > most else "")
    return f"{len(at)} of {len(index)} {what}s ({names})"
