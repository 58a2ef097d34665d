"""Ready structures, one a file. Each is a short subclass of `ht.Model`; replace a prior in a one-line subclass."""

from hiertorch.models.complete_pooling import CompletePooling
from hiertorch.models.eight_schools import EightSchools
from hiertorch.models.varying_intercepts import VaryingIntercepts

__all__ = ["CompletePooling", "EightSchools", "VaryingIntercepts"]
