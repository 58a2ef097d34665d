"""Bayesian hierarchical models in PyTorch, fitted by adaptive Metropolis-Hastings batched over chains and groups.

The map, in the order in which data become a posterior:
`Data` (data.py) and a `Model` of `Latent`s (model.py, latent.py) -> unconstrained space (space.py), rows sorted by
group (rows.py) and the log density in pieces (target.py), 0 at impossible parameters (support.py) -> what reads what
(structure.py) -> the moves that fit
(plan.py, kernels/) -> `sample` (sampling.py), which tunes them in warm-up (adaptation.py) and tells monitors
(monitors/; what TensorBoard shows: dashboard/) -> `Posterior` (posterior.py, diagnostics.py).

Ready models: structures (models/) and what y is like (families.py, distributions.py); data for them (simulation.py) and
what they ask of data (findings.py, requirements.py, expectations.py). New rows: newrows.py, setting.py, predict.py, and
new groups from a few rows, conditioning.py.

What a posterior is worth: log densities of rows in chunks (pointwise.py, pareto.py), criteria and comparison
(comparison/), predictive checks (criticism/), pooling and variance (pooling/), sensitivity to priors (sensitivity.py),
all of it on a page (report/). Fitting again: from where another run ended (warmstart.py), by folds
(crossvalidation.py), with later rows (monitoring/), with other priors (priorgrid.py).

A model that is Gaussian in its effects and coefficients goes another way from what reads what: found by probing
(affine.py, probing.py), its rows summed up once (grams.py), effects and coefficients integrated out (cholesky.py,
finest.py, elimination.py, collapse.py, marginals.py), of several data sets at once (several.py), the rest sampled
(mode.py, proposals.py, independence.py, workers.py), unstored effects drawn again (redraw.py).
"""

from hiertorch import families, models
from hiertorch.comparison.compare import Comparison, compare
from hiertorch.comparison.criteria import Criterion
from hiertorch.criticism.predictive import prior_check
from hiertorch.data.table import Data
from hiertorch.errors import (
    ConfigError,
    DataError,
    HiertorchError,
    ModelError,
    OptionError,
    RunFolderError,
    SamplingError,
    SamplingWarning,
)
from hiertorch.model.distributions import HalfStudentT
from hiertorch.model.latent import Derived, Latent
from hiertorch.model.model import Model
from hiertorch.models.simulation import simulate_grouped
from hiertorch.posterior import Posterior, concat
from hiertorch.priorgrid import prior_grid
from hiertorch.refits.monitoring import Monitoring, monitor
from hiertorch.sampling import plan, sample

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "ConfigError",
    "Criterion",
    "Data",
    "DataError",
    "Derived",
    "HalfStudentT",
    "HiertorchError",
    "Latent",
    "Model",
    "ModelError",
    "Monitoring",
    "OptionError",
    "Posterior",
    "RunFolderError",
    "SamplingError",
    "SamplingWarning",
    "compare",
    "concat",
    "families",
    "models",
    "monitor",
    "plan",
    "prior_check",
    "prior_grid",
    "sample",
    "simulate_grouped",
]
