"""The collapsed model of a fit: the one that was sampled, or one that is found now and audited at the fit's draws."""

from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.gaussian.audit import audited
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.model.reads import Reads


def collapsed_of(posterior: Fit, data: Data | None = None, reads: Reads | None = None) -> Collapsed | str:
    """The model of a fit with effects and coefficients integrated out, or the reason why it can't be; for other data,
    whose groups may be others, with what the model reads of these.
    """
    if data is None and posterior.unstored is not None:
        return posterior.unstored.collapsed
    if posterior.run.get("audit", {"sound": True})["sound"] is False:
        return "the run's own draws have shown that it can't be integrated out"
    fitted = posterior.fitted
    held = {**posterior.more, **posterior.draws}
    return audited(fitted.model, fitted.data if data is None else data, reads or fitted.reads, held)
