"""What a row's own density says beyond its site, summed by group of the finest plate.

    lw_g = sum over rows i of g of  log f(y_i | latents) + w_i (z_i - eta_i)^2 / 2

All ratios of the whitened moves are differences of these. Of joint sites the second term is a sum over cells of g and
their directions.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hiertorch.density.recording import record
from hiertorch.density.rows import Rows
from hiertorch.density.structure import Structure, agrees, probe
from hiertorch.gaussian.surrogate import Sites, Surrogate, column_of
from hiertorch.model.latent import Values


class RowWeights:
    """By the user's own density, whatever it is. Of data sets with row weights of their own each row counts, with its
    site, as its weight says.

    Args:
        structure: of the model on its data.
        surrogate: knows eta.
        plate: the finest one; None if there is none, and all rows are one group.
    """

    def __init__(self, structure: Structure, surrogate: Surrogate, plate: str | None) -> None:
        self.target, self.model, self.surrogate = structure.target, surrogate.model, surrogate
        self.plate, self.cells = plate, surrogate.cells
        plates = () if plate is None else (plate,)
        data = surrogate.data if self.cells is None else self.target.data
        blocked = Rows(data, plates)
        if not agrees(self.target, blocked, structure.probed or probe(self.target, structure.reads)):
            blocked = Rows(data, plates, blocked=False)
        self.rows, self.size = blocked, 1 if plate is None else surrogate.data.size(plate)
        cells = None if plate is None else blocked.cell_groups[plate]
        whole = cells is None or (blocked.n_cells == self.size and bool((cells.diff() == 1).all()))
        self.of_cell = None if whole else cells
        self.names = tuple(
            name for name in self.target.names
            if name in self.target.likelihood_reads or name in surrogate.predictor.linear
        )  # fmt: skip
        self.learnt = surrogate.predictor.learnt
        # z, w, and shifts, in the order of the rows that are held; of joint sites the roots of w times z and columns.
        self.given: tuple[Tensor, ...] = ()
        self._recorded: Callable[..., Tensor] | None = None
        self.recording = self.compiled = False

    def set_sites(self, sites: Sites) -> None:
        """Takes sites, in the order of the data."""
        if self.cells is not None:
            root = sites.w.sqrt()
            columns = torch.cat([sites.shifts[name] for name in self.learnt], 1)
            both = (root * sites.z, root.unsqueeze(1) * columns)
            self.given = tuple(x.unflatten(0, (-1, self.cells.directions)) for x in both)
            return
        weights, chains = self.surrogate.weights, self.target.data.by_chain
        own = (sites.z, sites.w if weights is None else weights * sites.w)
        each = [x if x.dim() == 1 else x.repeat(chains // len(x), 1) for x in own]
        self.given = (
            *(x[..., self.rows.source] for x in each),
            *(sites.shifts[name][self.rows.source] for name in self.learnt),
        )

    def terms(self, values: Mapping[str, Tensor]) -> Tensor:
        """Weighted log densities in the order of the data, `(chains, rows)`; of some chains for each data set."""
        data, chains = self.target.data, len(next(iter(values.values())))
        if data.by_chain not in (0, chains):
            data = data.of_chains(torch.arange(chains, device=data.device) % self.surrogate.sets)
        return self.target.row_terms(values, data)

    def record(self, *, compiled: bool) -> None:
        """From now on the pass over the rows is recorded at its first call and replayed, compiled if asked."""
        self.recording, self.compiled, self._recorded = True, compiled, None

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """`(groups, chains)`, of values `(chains, size, *event)` of all latents."""
        args = (*(self.given if self.cells is None else ()), *(values[name] for name in self.names))
        if not self.recording:
            blocks = self._blocks(*args)
        else:
            if self._recorded is None:
                self._recorded = record(self._blocks, args, compiled=self.compiled)
            blocks = self._recorded(*args)
        cells = self.rows.sum_cells(blocks)
        if self.of_cell is None:
            found = cells.mT
        else:
            found = cells.new_zeros(self.size, len(cells)).index_copy(0, self.of_cell, cells.mT)
        return found if self.cells is None else found + self._of_sites(values)

    def _of_sites(self, values: Mapping[str, Tensor]) -> Tensor:
        """sum over cells and directions of w (z - eta)^2 / 2, `(groups, chains)`."""
        assert self.cells is not None
        (z, columns), rows = self.given, self.cells.rows
        x = self.model.numbers(Values(dict(values), self.target.names), rows).movedim(0, 2)  # (cells, numbers, chains)
        terms = 0.5 * (z.unsqueeze(2) - columns @ x).square().sum(1)
        if self.plate is None:
            return terms.sum(0, keepdim=True)
        return terms.new_zeros(self.size, terms.shape[1]).index_add_(0, rows[self.plate], terms)

    def _blocks(self, *tensors: Tensor) -> Tensor:
        given, latents = tensors[: -len(self.names)], tensors[-len(self.names) :]
        v, data = Values(dict(zip(self.names, latents, strict=True)), self.target.names), self.rows.data
        terms = self.target.row_terms(v, data)
        if self.cells is None:
            z, w, *columns = given
            moved = {column_of(name): x for name, x in zip(self.learnt, columns, strict=True)}
            eta = self.model.eta(v, data.with_columns(moved) if moved else data)
            terms = terms + 0.5 * w * (z - eta).square()
        return self.rows.sum_blocks(terms, fused=self.compiled)
