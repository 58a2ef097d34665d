"""The likelihood at the rows of data, before sampling starts: its shape, its parameters, and whether y is possible.

Note [Rows without a likelihood]
    Where only some latents make a parameter impossible, the density is 0 there (`hiertorch.model.support`), and chains
    keep away. But a row with a standard error of 0, or trials of 2.5, has a likelihood nowhere, and an error that names
    a latent names the wrong one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from hiertorch.data.reading import spread_rows
from hiertorch.data.table import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.model.declared import overrides
from hiertorch.model.densities import Densities
from hiertorch.model.drawing import broadcasts
from hiertorch.model.latent import chains_of
from hiertorch.model.reads import Reads
from hiertorch.model.support import Condition, conditions, has_one_support, violated
from hiertorch.model.weights import refuse_weights
from hiertorch.runtime.validating import validation

ROWS = 50_000
"""The likelihood is looked at for so many rows, spread evenly over all; but every response is."""

TRIES = 200
"""Draws of the prior in which rows that had no likelihood in a few draws are looked at again."""

SUSPECTS = 16
"""Such rows that are looked at again."""

NUMBERS = 2_000_000
"""Numbers of such draws at most."""

ADVICE = "Correct the columns of the row, or leave it out."
"""The end of a sentence on a row."""


def spread(data: Data) -> Data:
    """All rows, or at most ROWS of them, at which the likelihood is looked at."""
    return data if data.n_rows <= ROWS else data.take(spread_rows(data.n_rows, ROWS, data.device))


def check_likelihood(model: Densities, reads: Reads, rows: Data, data: Data) -> Tensor:
    """Returns log p(y_i | values) of the rows, `(chains, rows)`."""
    v = model.values(reads.values)
    wanted = (chains_of(v), rows.n_rows)
    try:
        if not overrides(model, "log_likelihood"):
            _check_shape(reads.response, wanted)
            _check_parameters(model, reads, rows, data)
            _check_responses(model, reads, rows, data)
        with validation(False):
            terms = model.log_likelihood(v, rows)
    except (ModelError, DataError):
        raise
    except Exception as error:
        raise ModelError(
            f"the log density of the likelihood can't be computed: {type(error).__name__}: {error}"
        ) from error
    refuse_weights(model, "the likelihood", terms)
    if not isinstance(terms, Tensor) or terms.shape != wanted:
        found = f"shape {tuple(terms.shape)}" if isinstance(terms, Tensor) else type(terms).__name__
        raise ModelError(f"log_likelihood gives {found}; expected a tensor (chains, rows) = {wanted}.")
    if terms.dtype != data.dtype or terms.device != data.device:
        raise ModelError(
            f"likelihood gives {terms.dtype} on {terms.device}; the data are {data.dtype} on {data.device}. Make its "
            "tensors from latents and columns, or register them as buffers of the model."
        )
    if not reads.likelihood:
        raise ModelError(
            f"the likelihood of {type(model).__name__} reads no latent, so the data say nothing about any: read one, "
            "as in v.mu, or sample with prior_only=True."
        )
    return terms


def _check_parameters(model: Densities, reads: Reads, rows: Data, data: Data) -> None:
    """That no row's own columns make a parameter of its likelihood impossible."""

    def where(numbers: Sequence[int]) -> Callable[[int], str]:
        return lambda row: data.row_text(numbers[row])

    v, response = model.values(reads.values), reads.response
    assert response is not None
    chains = chains_of(v)
    shape = (chains, rows.n_rows)
    numbers = spread_rows(data.n_rows, rows.n_rows, torch.device("cpu")).tolist()
    with validation(False):
        refuse_fixed(response, shape, where(numbers))
        if len(at := _suspects(response, shape)[:SUSPECTS]):
            draws = max(chains, min(TRIES, NUMBERS // sum(x[0].numel() for x in v.values())))
            more = model.sample_prior(data, draws, torch.Generator(data.device).manual_seed(1))
            again, some = model.likelihood(model.values(more), rows.take(at)), [numbers[i] for i in at.tolist()]
            of = f"{draws} draws from the prior"
            refuse_shares(again, (draws, len(at)), where(some), of, least=1.0)
        if rows is data or not _reads_rows(response, shape):
            return
        for start in range(0, data.n_rows, ROWS):
            block = data.rows(start, min(start + ROWS, data.n_rows))
            one = model.likelihood(v, block)
            refuse_fixed(one, (chains, block.n_rows), where(range(start, start + block.n_rows)))


def _check_shape(response: object, wanted: tuple[int, int]) -> None:
    if not isinstance(response, Distribution):
        raise ModelError(
            f"likelihood returned {type(response).__name__}; expected a torch.distributions object of batch shape "
            "(chains, rows)."
        )
    if response.event_shape:
        raise ModelError(
            f"likelihood returned a distribution with event shape {tuple(response.event_shape)}; expected one "
            "response a row: batch shape (chains, rows) and no event."
        )
    if not broadcasts(response.batch_shape, wanted):
        raise ModelError(
            f"likelihood returned batch shape {tuple(response.batch_shape)}; expected (chains, rows) = {wanted}. "
            "Group effects are read row by row as v.alpha[:, data.school], and columns as data.x."
        )


def _check_responses(model: Densities, reads: Reads, rows: Data, data: Data) -> None:
    """A response outside the support in every chain is the data's fault; in some, perhaps the latents'."""
    response: Any = reads.response
    try:
        support = response.support
    except NotImplementedError:  # a distribution of the user's that tells none
        return
    one_support = rows is data or has_one_support(response)
    inside = []
    for start in range(0, data.n_rows, data.n_rows if rows is data else ROWS):
        block = data if rows is data else data.rows(start, min(start + ROWS, data.n_rows))
        if not one_support:
            with validation(False):
                support = model.likelihood(model.values(reads.values), block).support
        inside.append(support.check(block.y.unsqueeze(-2)).any(-2).expand(block.y.shape))
    everywhere = torch.cat(inside, -1)
    if bool(everywhere.all()):
        return
    if not one_support:
        raise ModelError("some responses are outside the support of their block of rows.")  # all are looked at again
    *_, row = where = (~everywhere).nonzero()[0].tolist()
    kind = f"{type(response).__name__} ({_support_text(support, row)})"
    raise DataError(
        f"the response of row {row} (from 0) is {float(data.y[tuple(where)]):g}, outside the support of the "
        f"likelihood {kind}; {int((~everywhere).sum())} of {everywhere.numel()} responses are. Change the likelihood "
        "or the data."
    )


def _support_text(support: Constraint, row: int) -> str:
    """A support in words, of an interval that differs by row that of the row."""
    ends = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    if not any(isinstance(x, Tensor) for x in ends):
        return str(support)
    numbers = [x.reshape(-1)[0] if x.numel() == 1 else x[..., row].reshape(-1)[0] for x in map(torch.as_tensor, ends)]
    return f"{type(support).__name__} from {float(numbers[0]):g} to {float(numbers[1]):g}"


def refuse_fixed(response: Distribution, shape: tuple[int, int], where: Callable[[int], str]) -> None:
    """Raises a DataError for a row with an impossible parameter that no latent changes, of a likelihood `(draws, rows)`
    given some draws of the latents, which differ; `where` a row is, in words.
    """
    for condition, bad in _violations(response, shape):
        fixed = bad.all(0) & _fixed(condition, shape) & _by_row(condition, shape)[0].isfinite().all(-1)
        if bool(fixed.any()):
            row = int(fixed.nonzero()[0])
            raise DataError(f"{where(row)} has no likelihood: {_said(condition, shape, 0, row)}. {ADVICE}")


def _reads_rows(response: Distribution, shape: tuple[int, int]) -> bool:
    """Whether a parameter that could be impossible is another one in some rows, whatever the latents."""
    for condition in conditions(response):
        x = _by_row(condition, shape)
        if bool(_fixed(condition, shape).all()) and bool((x != x[:, :1]).any()):
            return True
    return False


def _suspects(response: Distribution, shape: tuple[int, int]) -> Tensor:
    """Numbers of the rows that have no likelihood in any of the draws, unless none has, which is no row's fault."""
    bad = [bad for _, bad in _violations(response, shape)]
    every = violated(bad).all(0) if bad else torch.zeros(shape[1:], dtype=torch.bool)
    return every.nonzero()[: 0 if bool(every.all()) else len(every), 0]


def refuse_shares(
    response: Distribution, shape: tuple[int, int], where: Callable[[int], str], of: str, least: float = 0.0
) -> None:
    """Raises a DataError for a row that has no likelihood in some of the draws, which are `of` what, and in so large a
    share of them at least.
    """
    for condition, bad in _violations(response, shape):
        shares = bad.double().mean(0)
        if bool((found := (shares > 0) & (shares >= least)).any()):
            row = int(found.nonzero()[0])
            draw = int(bad[:, row].nonzero()[0])
            raise DataError(
                f"{where(row)} has no likelihood in {float(shares[row]):.0%} of {of}: "
                f"{_said(condition, shape, draw, row)}. {ADVICE}"
            )


def _violations(response: Distribution, shape: tuple[int, int]) -> Iterator[tuple[Condition, Tensor]]:
    for condition in conditions(response):
        yield condition, violated(condition.violated()).expand(shape)


def _fixed(condition: Condition, shape: tuple[int, int]) -> Tensor:
    """Which rows have the same parameter in all draws, `(rows,)`."""
    x = _by_row(condition, shape)
    return ((x == x[:1]) | (x.isnan() & x[:1].isnan())).all(-1).all(0)


def _by_row(condition: Condition, shape: tuple[int, int]) -> Tensor:
    """The parameter of each row, `(draws, rows, numbers)`."""
    x = condition.value
    more = condition.events if condition.found is None else max(0, x.dim() - condition.found.dim())
    event = x.shape[x.dim() - more :]
    return x.expand(*shape, *event).reshape(*shape, -1)


def _said(condition: Condition, shape: tuple[int, int], draw: int, row: int) -> str:
    x = _by_row(condition, shape)[draw, row]
    value = f"{float(x[0]):.6g}" if len(x) == 1 else f"{[float(f'{float(v):.4g}') for v in x[:6]]}"
    return f"the {condition.name} is {value} there, and must be {condition.wanted()}"
