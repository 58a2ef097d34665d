"""Ready structures for any family (`hiertorch.families`). Each is a short subclass of `ht.Model`; the
data choose its priors (`hiertorch.models.autoscale`) but for those that a one-line subclass, or `priors=`,
replaces.
"""

from hiertorch.models.complete_pooling import CompletePooling
from hiertorch.models.eight_schools import EightSchools
from hiertorch.models.mixed_effects import CorrelatedEffects, MixedEffects, VaryingSlopes
from hiertorch.models.nested import Crossed, Nested
from hiertorch.models.no_pooling import NoPooling
from hiertorch.models.regression import Regression
from hiertorch.models.time_varying import TimeVarying
from hiertorch.models.varying_intercepts import HierarchicalPriors, VaryingIntercepts

__all__ = [
    "CompletePooling",
    "CorrelatedEffects",
    "Crossed",
    "EightSchools",
    "HierarchicalPriors",
    "MixedEffects",
    "Nested",
    "NoPooling",
    "Regression",
    "TimeVarying",
    "VaryingIntercepts",
    "VaryingSlopes",
]
