"""A posterior with its data as ArviZ's tree: what `arviz_stats.loo`, `compare` and `arviz_plots.plot_ppc_dist` read.

The groups are those of ArviZ's schema: `observed_data` has the response by its name, `constant_data` the other columns,
those of the user's frame where they are known; both, `log_likelihood` and `posterior_predictive` have the dimension
`row`, with the index of the frame. Row weights are in the log likelihood, as in `Posterior.criterion`.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from hiertorch.criticism.replications import from_posterior
from hiertorch.data.table import Data
from hiertorch.draws import storage
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.pointwise import Pointwise
from hiertorch.effects.means import thinned
from hiertorch.effects.rows import Columns
from hiertorch.errors import DataError
from hiertorch.model.counting import LARGEST

if TYPE_CHECKING:
    from xarray import DataTree

ROW = "row"
"""The dimension of rows."""


def to_arviz(
    fit: Fit,
    *,
    log_likelihood: bool = False,
    posterior_predictive: bool = False,
    draws: int | None = None,
    seed: int | None = None,
) -> "DataTree":
    """See `hiertorch.posterior.Posterior.to_arviz`."""
    few = thinned(fit.drawn(), draws)
    tree = storage.to_arviz(few)
    if fit.origin is None and not (log_likelihood or posterior_predictive):
        return tree
    data = fit.fitted.data
    name, every = _name(data.name), torch.arange(data.n_rows, device=data.device)
    kind = _kind(fit.fitted)
    y = data.y.cpu().numpy().astype(kind)
    _add(tree, "observed_data", {name: y}, data, ("chain",) if data.by_chain else ())
    _add(tree, "constant_data", _columns(fit.fitted), data, ())
    if log_likelihood:
        look = Pointwise(few, None)
        parts = [look.log_likelihood(rows).cpu().numpy() for rows in every.split(_most(few))]
        _add(tree, "log_likelihood", {name: np.concatenate(parts, -1)}, data, ("chain", "draw"))
    if posterior_predictive:
        number = few.chains * few.n_draws
        made = torch.cat(list(from_posterior(few, number, "known", fit.derived("arviz", seed))))
        simulated = made.unflatten(0, (few.chains, few.n_draws)).cpu().numpy()
        if np.abs(simulated).max(initial=0.0) < LARGEST:  # else some were too large to be told
            simulated = simulated.astype(kind)
        _add(tree, "posterior_predictive", {name: simulated}, data, ("chain", "draw"))
    return tree


def _kind(fitted: Fitted) -> np.dtype:
    """Of responses: whole numbers where they are counts or categories, by which ArviZ's figures know these."""
    y, response = fitted.data.y, fitted.response
    with suppress(NotImplementedError):  # of distributions that do not tell their support
        support = None if response is None else response.support
        if support is not None and support.is_discrete and bool((y == y.round()).all()):
            return np.dtype(np.int64)
    return y.cpu().numpy().dtype


def _most(fit: Fit) -> int:
    """Rows that are looked at at once."""
    return max(1, 20_000_000 // (fit.chains * fit.n_draws))


def _columns(fitted: Fitted) -> dict[str, np.ndarray]:
    """All columns but the response: the user's own where they are known, or as the model reads them."""
    data = fitted.data
    try:
        frame = Columns.of(fitted).rows()
    except DataError:
        groups = {plate: data.labels[plate].take(code.cpu().numpy()) for plate, code in data.codes.items()}
        found = {_name(name): x.cpu().numpy() for name, x in data.columns.items()}
        return found | {_name(plate): storage.coordinates(labels) for plate, labels in groups.items()}
    columns = {str(name): column for name, column in frame.items() if str(name) != data.name}
    return {_name(name): storage.coordinates(_plain(column)) for name, column in columns.items()}


def _plain(column: pd.Series) -> pd.Index:
    """Categories as what they are of."""
    kind = column.dtype
    return pd.Index(column.astype(kind.categories.dtype) if isinstance(kind, pd.CategoricalDtype) else column)


def _name(name: str) -> str:
    """A variable's name, in which "/" would be a path."""
    return name.replace("/", "_")


def _add(
    tree: "DataTree", group: str, variables: Mapping[str, np.ndarray], data: Data, before: tuple[str, ...]
) -> None:
    """A group of variables whose rows stand behind some other axes."""
    import arviz_base
    from xarray import DataTree

    if not variables:
        return
    coords: dict[Any, Any] = {ROW: storage.coordinates(data.index)}
    dims, named = dict[Any, Any](), dict[str, np.ndarray]()
    for name, x in variables.items():
        key = f"{name}_" if name == ROW else name  # a variable can't have the name of a dimension
        named[key] = x
        dims[key] = [ROW, *(f"{key}_dim_{k}" for k in range(x.ndim - len(before) - 1))]
    sample_dims = list(before)
    tree[group] = DataTree(arviz_base.dict_to_dataset(named, sample_dims=sample_dims, dims=dims, coords=coords))
