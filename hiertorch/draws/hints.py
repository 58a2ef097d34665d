"""What users of other packages ask a fit for, and what does it here."""

from typing import TYPE_CHECKING

INSTEAD = {
    "coef": "posterior.fixef(), posterior.ranef()",
    "params": "posterior.fixef()",
    "fixed_effects": "posterior.fixef()",
    "random_effects": "posterior.ranef()",
    "VarCorr": "posterior.varcorr()",
    "loo": 'posterior.criterion("loo")',
    "waic": 'posterior.criterion("waic")',
    "dic": 'posterior.criterion("dic")',
    "plot": "arviz_plots with posterior.to_arviz(), or posterior.report(path)",
    "plot_trace": "arviz_plots.plot_trace(posterior.to_arviz())",
    "pp_check": "posterior.predictive_check().plot()",
    "posterior_predict": 'posterior.predict(frame, "response")',
    "posterior_epred": "posterior.predict(frame)",
    "marginal_effects": "posterior.conditional_effects(effect)",
    "plot_conditional_effects": "posterior.conditional_effects(effect).plot()",
    "to_netcdf": "posterior.to_arviz().to_netcdf(path)",
    "to_inferencedata": "posterior.to_arviz()",
    "to_frame": "posterior.summary(), or posterior.to_arviz()",
    "to_csv": "posterior.summary().to_csv(path)",
    "posterior": "posterior[name], or posterior.to_arviz()",
}
"""What other packages call an attribute of a fit -> what does it here."""


class Hints:
    """An attribute that there is not is an AttributeError that says what does here what it does elsewhere."""

    if not TYPE_CHECKING:  # to which every attribute would be there

        def __getattr__(self, name: str) -> object:
            if hasattr(type(self), name):  # a property of ours has raised one
                return object.__getattribute__(self, name)
            hint = f": {INSTEAD[name]}" if name in INSTEAD else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}.")
