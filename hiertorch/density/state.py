"""Where the chains are: the value that the target fills and the kernels move."""

from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """Latents of every chain, and the pieces of the log density there that the next move needs."""

    free: dict[str, Tensor]  # name -> u (chains, size, *free_event)
    values: dict[str, Tensor]  # name -> theta (chains, size, *event)
    prior: dict[str, Tensor]  # name -> log prior + log Jacobian (chains, size)
    cells: Tensor  # weighted log likelihood by cell (chains, cells)

    def log_density(self) -> Tensor:
        """The sum of the pieces, `(chains,)`."""
        return torch.stack([term.sum(-1) for term in self.prior.values()]).sum(0) + self.cells.sum(-1)
