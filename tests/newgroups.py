"""What torch says of rows, with the normal numbers by which it has made the effects of new groups."""

import numpy as np
import pandas as pd
import torch

from hiertorch.data.newrows import FrameRows
from hiertorch.posterior import Posterior
from hiertorch.predict.rehearsal import population_draws
from hiertorch.predict.scene import Setting
from hiertorch.runtime.validating import validation


def by_torch(fit: Posterior, rows: pd.DataFrame, kind: str = "mean") -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Standard normal numbers, latent -> `(draws, new groups, *event)`, and predictions `(draws, rows, ...)`."""
    with torch.no_grad(), validation(False):
        setting = Setting(fit.fitted, fit, FrameRows.read(fit.data, rows))
        at = torch.arange(fit.chains * fit.n_draws)
        normals, given = population_draws(setting, at)
        return normals, setting.predicted(at, kind, torch.Generator().manual_seed(1), given=given).numpy()
