"""Bayesian hierarchical models in PyTorch, fitted by adaptive Metropolis-Hastings batched over chains and groups.

The package stands in districts. Each knows those on its left, and none on its right or beside it:

    errors wording arguments palette randomness runtime | data | model | families | models density | advice gaussian
    moves | draws | predict comparison criticism pooling monitors | effects | run dashboard report | fitting | refits |
    posterior | sampling | priorgrid formulas | commands

`Data` and a `Model` of `Latent`s become a log density in pieces (density/), the moves that fit it are planned and run
(run/, fitting.py), and what comes out is a `Fit` (draws/), which everything that judges takes. `Posterior` is its face.
docs/design.md says more. Names arrive when they are asked for, so that importing the package loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiertorch import deploy, families, models, monitors
    from hiertorch.advice.priortable import priors
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
    from hiertorch.formulas.fit import design, fit, formula
    from hiertorch.formulas.shrinkage import R2D2, Horseshoe
    from hiertorch.model.censoring import censored, truncated
    from hiertorch.model.distributions import HalfStudentT
    from hiertorch.model.latent import Derived, Latent
    from hiertorch.model.model import Model
    from hiertorch.model.ordering import ordered
    from hiertorch.model.simplexes import simplex
    from hiertorch.models.simulation import simulate_grouped
    from hiertorch.posterior import Posterior, concat
    from hiertorch.priorgrid import prior_grid
    from hiertorch.refits.monitoring import Monitoring, monitor
    from hiertorch.run.until import Until
    from hiertorch.sampling import plan, resume, sample

__version__ = "0.1.0"

__all__ = [
    "R2D2",
    "Comparison",
    "ConfigError",
    "Criterion",
    "Data",
    "DataError",
    "Derived",
    "HalfStudentT",
    "HiertorchError",
    "Horseshoe",
    "Latent",
    "Model",
    "ModelError",
    "Monitoring",
    "OptionError",
    "Posterior",
    "RunFolderError",
    "SamplingError",
    "SamplingWarning",
    "Until",
    "censored",
    "compare",
    "concat",
    "deploy",
    "design",
    "families",
    "fit",
    "formula",
    "models",
    "monitor",
    "monitors",
    "ordered",
    "plan",
    "prior_check",
    "prior_grid",
    "priors",
    "resume",
    "sample",
    "simplex",
    "simulate_grouped",
    "truncated",
]

PLACES = {
    "advice.priortable": ("priors",),
    "comparison.compare": ("Comparison", "compare"),
    "comparison.criteria": ("Criterion",),
    "criticism.predictive": ("prior_check",),
    "data.table": ("Data",),
    "errors": (
        "ConfigError",
        "DataError",
        "HiertorchError",
        "ModelError",
        "OptionError",
        "RunFolderError",
        "SamplingError",
        "SamplingWarning",
    ),
    "formulas.fit": ("design", "fit", "formula"),
    "formulas.shrinkage": ("R2D2", "Horseshoe"),
    "model.censoring": ("censored", "truncated"),
    "model.distributions": ("HalfStudentT",),
    "model.latent": ("Derived", "Latent"),
    "model.model": ("Model",),
    "model.ordering": ("ordered",),
    "model.simplexes": ("simplex",),
    "models.simulation": ("simulate_grouped",),
    "posterior": ("Posterior", "concat"),
    "priorgrid": ("prior_grid",),
    "refits.monitoring": ("Monitoring", "monitor"),
    "run.until": ("Until",),
    "sampling": ("plan", "resume", "sample"),
}
"""Module -> the public names in it, as above for type checkers."""

HOME = {name: module for module, names in PLACES.items() for name in names}


INSTEAD = {"load": "hiertorch.Posterior.load(path)", "save": "posterior.save(path)", "Normal": "torch.distributions"}
"""What people look for here -> where it is."""


def __getattr__(name: str) -> object:
    """A public name, or a part of the package, which is imported when it is first asked for."""
    if name in HOME:
        found = getattr(import_module(f"{__name__}.{HOME[name]}"), name)
    elif name in ("deploy", "families", "models", "monitors"):
        found = import_module(f"{__name__}.{name}")
    else:
        hint = f": {INSTEAD[name]}" if name in INSTEAD else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
