"""What warm-up learns: for each move, the triangular root of its proposal's covariance, one for each group.

Robust adaptive Metropolis (Vihola 2012, eq. 2), pooled over chains:

    root root' <- root ( I + step_t  mean_c[ (accept_c - target) z_c z_c' / |z_c|^2 ] ) root',    step_t = min(1, width t^-0.6)

It moves the covariance to the shape of the target *given everything that the move holds fixed* (an empirical covariance of the draws would learn
the marginal one), and its size to the acceptance rate wanted. For width 1 it is Robbins-Monro on the log scale. The steps diminish, and
after warm-up the tuning is frozen: sampling is one fixed kernel.
"""

import torch
from torch import Tensor

__all__ = ["acceptance_target", "adapt", "initial_root"]

TARGETS = (0.44, 0.35, 0.32, 0.28, 0.26, 0.25)
"""Best acceptance rates of a random walk on a normal target of 1 to 6 dimensions (Gelman, Roberts & Gilks 1996, table 1); 0.234 above."""

DECAY = 0.6


def acceptance_target(width: int) -> float:
    """The acceptance rate to aim for with a random walk in `width` dimensions."""
    return TARGETS[width - 1] if width <= len(TARGETS) else 0.234


def initial_root(size: int, width: int, device: torch.device, dtype: torch.dtype, scale: float = 0.5) -> Tensor:
    """scale / sqrt(width) times the identity, `(size, width, width)`."""
    return torch.eye(width, device=device, dtype=dtype).mul(scale / width**0.5).repeat(size, 1, 1)


def adapt(root: Tensor, normal: Tensor, accept: Tensor, t: int) -> Tensor:
    """The root after one warm-up step.

    Args:
        root: `(size, width, width)`, lower triangular.
        normal: the step's standard normal numbers `(chains, size, width)`.
        accept: its acceptance probabilities `(chains, size)`.
        t: number of the step, from 1.
    """
    width = root.shape[-1]
    step = min(1.0, width * t**-DECAY)
    excess = accept - acceptance_target(width)
    if width == 1:
        return root * (1.0 + step * excess.mean(0)).sqrt()[:, None, None]
    direction = normal / normal.norm(dim=-1, keepdim=True)
    weighted = (excess.unsqueeze(-1) * direction).permute(1, 2, 0)
    inner = (
        torch.eye(width, device=root.device, dtype=root.dtype)
        + step * (weighted @ direction.transpose(0, 1)) / accept.shape[0]
    )
    return root @ torch.linalg.cholesky_ex((inner + inner.mT) / 2)[0]
