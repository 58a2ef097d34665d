"""`ht.priors`: which priors a model has, and by what names others are given."""

import pandas as pd
from torch.distributions import Distribution

from hiertorch.advice.requirements import chosen_priors
from hiertorch.data.table import Data
from hiertorch.model.checks import inspect
from hiertorch.model.model import Model
from hiertorch.runtime.surroundings import at_home


@at_home
def priors(model: Model, data: Data | None = None) -> pd.DataFrame:
    """What may be set by `priors={...}` of a formula or of a ready structure, and what is.

    Args:
        model: of any kind; of your own class a prior is replaced by declaring the latent again.
        data: with which priors that follow the data are given in numbers.

    Returns:
        One row a latent that has a prior of its own, and one an entry of it, `beta[SES]`. Columns: `prior`, in words
        or, with data, in numbers; `follows`, whether it follows the data.

    Example:
        >>> import hiertorch as ht
        >>> model, data = ht.formula("y ~ x + (1 | g)", {"y": [1, 2, 3, 4], "x": [0, 1, 1, 0], "g": [1, 1, 2, 2]})
        >>> ht.priors(model, data)["prior"]["beta"]
        'Normal(0, 5.59)'
    """
    texts = getattr(model, "texts", {})
    numbers = {} if data is None else chosen_priors(model, inspect(model, data, prior_only=True)[0])
    rows = {}
    for name, latent in model.latents.items():
        if latent.plate is not None:
            continue  # what the model says of groups
        follows = not isinstance(latent.prior, Distribution)
        rows[name] = (numbers.get(name) or texts.get(name) or latent.text, follows)
        if len(latent.axes) == 1:
            rows |= {f"{name}[{label}]": (f"as {name}", follows) for label in latent.axes[0]}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["prior", "follows"])
