"""Metropolis-Hastings moves with one contract, `Move`: `step(state, tuning, noise) -> (state, info)`, pure and batched
over chains.
"""

from hiertorch.kernels.base import Info, Move, Noise, Tuning
from hiertorch.kernels.collapsed import CollapsedMove
from hiertorch.kernels.groupwise import Groupwise
from hiertorch.kernels.joint import Joint
from hiertorch.kernels.noncentred import NonCentred

__all__ = ["CollapsedMove", "Groupwise", "Info", "Joint", "Move", "Noise", "NonCentred", "Tuning"]
