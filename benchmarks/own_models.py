"""The benchmark's models as a user of hiertorch writes them, centred, and how they are sampled.

torch, pandas and hiertorch are imported when a function is called, see Note [Light parent] in `benchmark`.
"""

import time
from typing import Any

import numpy as np
from cases import Case
from measures import Sampled, memory_peak, memory_used, restart_memory_peak

__all__ = ["hiertorch_data", "hiertorch_model", "sample_with_hiertorch"]


def hiertorch_data(case: Case) -> Any:
    """The case's arrays as `ht.Data`."""
    import hiertorch as ht

    columns: dict[str, Any] = dict(case.columns)
    return ht.Data(y=case.y, groups=case.groups, **columns)


def hiertorch_model(case: Case) -> Any:
    """The case's form as a class, see `cases`."""
    import torch
    from torch.distributions import (
        Bernoulli,
        Distribution,
        Gamma,
        HalfCauchy,
        Independent,
        LKJCholesky,
        MultivariateNormal,
        Normal,
    )

    import hiertorch as ht

    class VaryingLogits(ht.Model):
        mu_alpha = ht.Latent(Normal(0.0, 5.0))
        sigma_alpha = ht.Latent(Gamma(1.0, 1.0))
        beta = ht.Latent(Normal(0.0, 2.0))
        alpha = ht.Latent(lambda v: Normal(v.mu_alpha, v.sigma_alpha), plate="group")

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Bernoulli(logits=v.alpha[:, data.group] + v.beta * data.x)

    class VaryingIntercepts(VaryingLogits):
        sigma_y = ht.Latent(Gamma(1.0, 1.0))

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Normal(v.alpha[:, data.group] + v.beta * data.x, v.sigma_y)

    class KnownErrors(ht.Model):
        mu_alpha = ht.Latent(Normal(0.0, 5.0))
        sigma_alpha = ht.Latent(HalfCauchy(5.0))
        alpha = ht.Latent(lambda v: Normal(v.mu_alpha, v.sigma_alpha), plate="group")

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Normal(v.alpha[:, data.group], data.se)

    class Correlated(ht.Model):
        mu = ht.Latent(Independent(Normal(torch.zeros(2), torch.tensor([5.0, 2.0])), 1))
        sigma = ht.Latent(Gamma(1.0, 1.0), event=2)
        L = ht.Latent(LKJCholesky(2, 2.0))
        sigma_y = ht.Latent(Gamma(1.0, 1.0))
        effects = ht.Latent(
            lambda v: MultivariateNormal(v.mu, scale_tril=v.sigma.unsqueeze(-1) * v.L),
            plate="group",
            labels=["intercept", "slope"],
        )

        def likelihood(self, v: Any, data: Any) -> Distribution:
            effects = v.effects[:, data.group]  # (chains, rows, 2)
            return Normal(effects[..., 0] + effects[..., 1] * data.x, v.sigma_y)

    class Nested(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))
        sigma_school = ht.Latent(Gamma(1.0, 1.0))
        sigma_classroom = ht.Latent(Gamma(1.0, 1.0))
        sigma_y = ht.Latent(Gamma(1.0, 1.0))
        school = ht.Latent(lambda v: Normal(v.mu, v.sigma_school), plate="school")
        classroom = ht.Latent(
            lambda v, data: Normal(v.school[:, data.parents("classroom", "school")], v.sigma_classroom),
            plate="classroom",
        )

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Normal(v.classroom[:, data.classroom], v.sigma_y)

    class Crossed(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))
        sigma_student = ht.Latent(Gamma(1.0, 1.0))
        sigma_lecturer = ht.Latent(Gamma(1.0, 1.0))
        sigma_y = ht.Latent(Gamma(1.0, 1.0))
        student = ht.Latent(lambda v: Normal(0.0, v.sigma_student), plate="student")
        lecturer = ht.Latent(lambda v: Normal(0.0, v.sigma_lecturer), plate="lecturer")

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Normal(v.mu + v.student[:, data.student] + v.lecturer[:, data.lecturer], v.sigma_y)

    forms: dict[str, type[ht.Model]] = {
        "intercepts": VaryingIntercepts,
        "logits": VaryingLogits,
        "known": KnownErrors,
        "correlated": Correlated,
        "nested": Nested,
        "crossed": Crossed,
    }
    return forms[case.form]()


def sample_with_hiertorch(case: Case, *, seed: int, **settings: Any) -> Sampled:
    """`ht.sample` with its defaults, apart from what `settings` name, and all draws kept, as the peers keep theirs.
    All latents are stored, or those that the case keeps: what is measured has been drawn within the time that is
    counted.

    Seconds are those of the whole call less compilation and less R-hat and ESS at its end, which the peers compute when
    they are asked; `details` has its parts. Those before sampling (checking the model, planning, a pass for sufficient
    statistics) are what the parts leave of the whole.
    """
    import torch

    import hiertorch as ht

    torch.broadcast_shapes((1,), (1,))  # imports sympy, as MultivariateNormal would; nobody's imports are counted
    start = time.perf_counter()
    data = hiertorch_data(case)
    data_seconds = time.perf_counter() - start
    model = hiertorch_model(case)
    earlier_peak = memory_peak()
    restart_memory_peak()
    before = memory_used()
    start = time.perf_counter()
    kept = case.keep or tuple(model.latents)
    posterior = ht.sample(model, data, seed=seed, progress=False, keep=kept, keep_all=True, **settings)
    seconds = time.perf_counter() - start - posterior.run["seconds"].get("judging", 0.0)
    megabytes = memory_peak() - before
    draws = named_draws({name: x.numpy() for name, x in posterior.draws.items()})
    parts = {name: posterior.run["seconds"].get(name, 0.0) for name in ("compile", "warmup", "sampling")}
    details: dict[str, Any] = {
        name: posterior.run[name] for name in ("warmup", "thin", "compiled") if name in posterior.run
    }
    stored = posterior.chains * posterior.n_draws
    details |= {
        "data_seconds": data_seconds,
        "setup_seconds": seconds - sum(parts.values()),
        "warmup_seconds": parts["warmup"],
        "sampling_seconds": parts["sampling"],
        "seconds_per_draw": parts["sampling"] / stored,
        "total_seconds": seconds,
        "sweeps_per_second": posterior.n_draws * posterior.interval * (details.get("thin") or 1) / parts["sampling"],
        "sampler_megabytes": megabytes,
        "earlier_peak_megabytes": earlier_peak,
    }
    return Sampled(draws, seconds - parts["compile"], parts["compile"], details)


def named_draws(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws by the names that all runners share, `(chains, draws, size)`: rho = L_21 in place of the factor L."""
    if "L" in draws:
        draws = {"rho" if name == "L" else name: x[..., 1, 0] if name == "L" else x for name, x in draws.items()}
    return {name: x.reshape(*x.shape[:2], -1) for name, x in draws.items()}
