"""The benchmark's models in NumPyro and Pyro, and how each is sampled: NUTS with its defaults, in float64.

One model serves both libraries, since their primitives and distributions share names. An effect with mean m and scale s
(for two correlated effects a Cholesky factor) is written as

    centred       effect_j ~ Normal(m, s)
    non-centred   z_j ~ Normal(0, 1),  effect_j = m + s z_j
    mixed         of two effects or levels the first (intercepts, schools) centred, the second (slopes, classrooms) not

Each runner returns a `Sampled`; its draws are those of the effects themselves in either form.
"""

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import Case
from measures import Sampled

__all__ = [
    "FORMS",
    "is_centred",
    "joint_model",
    "peer_arrays",
    "sample_with_numpyro",
    "sample_with_pyro",
    "shared_names",
]

FORMS = ("centred", "non-centred", "mixed")
MIXED = ("correlated", "nested")
"""The forms of model that can be mixed."""


def is_centred(form: str, effect: str) -> bool:
    """Whether an effect is centred: in the form "mixed" that of schools alone is."""
    return form == "centred" or (form == "mixed" and effect == "school")


def peer_arrays(case: Case) -> dict[str, np.ndarray]:
    """What a peer's model reads: the case's arrays, but of nested groupings the finest alone."""
    return {name: array for name, array in case.arrays.items() if not (case.form == "nested" and name == "school")}


def joint_model(case: Case, ppl: Any, dist: Any, *, form: str) -> Callable[..., None]:
    """The case's model in terms of a module `ppl` (numpyro or pyro) and its distributions; called with the arrays."""
    locations = {"correlated": _correlated, "nested": _nested, "crossed": _crossed}
    location_of = locations.get(case.form, _intercepts)
    sites = _Sites(case, ppl, dist, form)

    def model(y: Any, **arrays: Any) -> None:
        location = location_of(sites, arrays)
        if case.form == "logits":
            outcome = dist.Bernoulli(logits=location)
        else:
            outcome = dist.Normal(location, arrays["se"] if case.form == "known" else sites.scale("sigma_y"))
        with ppl.plate("rows", len(case.y)):
            ppl.sample("y", outcome, obs=y)

    return model


@dataclass
class _Sites:
    """Statements that the models share."""

    case: Case
    ppl: Any
    dist: Any
    form: str

    def normal(self, name: str, sd: float) -> Any:
        return self.ppl.sample(name, self.dist.Normal(0.0, sd))

    def scale(self, name: str) -> Any:
        return self.ppl.sample(name, self.dist.Gamma(1.0, 1.0))

    def effect(self, name: str, grouping: str, mean: Any, scale: Any) -> Any:
        with self.ppl.plate(f"{grouping}_plate", self.case.size(grouping)):
            if is_centred(self.form, name):
                return self.ppl.sample(name, self.dist.Normal(mean, scale))
            return mean + scale * self.ppl.sample(f"z_{name}", self.dist.Normal(0.0, 1.0))


def _intercepts(sites: _Sites, arrays: dict[str, Any]) -> Any:
    mu = sites.normal("mu_alpha", 5.0)
    known = sites.case.form == "known"
    sigma = sites.ppl.sample("sigma_alpha", sites.dist.HalfCauchy(5.0)) if known else sites.scale("sigma_alpha")
    location = sites.effect("alpha", "group", mu, sigma)[arrays["group"]]
    return location + sites.normal("beta", 2.0) * arrays["x"] if "x" in arrays else location


def _correlated(sites: _Sites, arrays: dict[str, Any]) -> Any:
    xp = importlib.import_module("torch" if sites.ppl.__name__ == "pyro" else "jax.numpy")
    mu = sites.ppl.sample("mu", sites.dist.Normal(xp.zeros(2), xp.asarray([5.0, 2.0])).to_event(1))
    sigma = sites.ppl.sample("sigma", sites.dist.Gamma(xp.ones(2), xp.ones(2)).to_event(1))
    factor = sigma[:, None] * sites.ppl.sample("L", sites.dist.LKJCholesky(2, 2.0))  # (2, 2)
    with sites.ppl.plate("group_plate", sites.case.size("group")):
        if sites.form == "centred":
            effects = sites.ppl.sample("effects", sites.dist.MultivariateNormal(mu, scale_tril=factor))
        elif sites.form == "non-centred":
            effects = mu + sites.ppl.sample("z_effects", sites.dist.Normal(xp.zeros(2), 1.0).to_event(1)) @ factor.T
        else:
            first = sites.ppl.sample("first", sites.dist.Normal(mu[0], factor[0, 0]))
            z = (first - mu[0]) / factor[0, 0], sites.ppl.sample("z_second", sites.dist.Normal(0.0, 1.0))
            effects = xp.stack([first, mu[1] + factor[1, 0] * z[0] + factor[1, 1] * z[1]], -1)
    return effects[arrays["group"], 0] + effects[arrays["group"], 1] * arrays["x"]


def _nested(sites: _Sites, arrays: dict[str, Any]) -> Any:
    mu = sites.normal("mu", 5.0)
    school = sites.effect("school", "school", mu, sites.scale("sigma_school"))
    mean = school[sites.case.parents("classroom", "school")]
    return sites.effect("classroom", "classroom", mean, sites.scale("sigma_classroom"))[arrays["classroom"]]


def _crossed(sites: _Sites, arrays: dict[str, Any]) -> Any:
    mu = sites.normal("mu", 5.0)
    student = sites.effect("student", "student", 0.0, sites.scale("sigma_student"))
    lecturer = sites.effect("lecturer", "lecturer", 0.0, sites.scale("sigma_lecturer"))
    return mu + student[arrays["student"]] + lecturer[arrays["lecturer"]]


def shared_names(case: Case, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws `(chains, draws, size)` by the names that all runners share: effects in place of z, rho in place of L."""
    values = dict(values)
    if case.form == "correlated":
        return _shared_by_correlated(values)
    standardised = [name.removeprefix("z_") for name in values if name.startswith("z_")]
    for name in sorted(standardised, key=lambda name: name == "classroom"):
        mean: Any = 0.0
        if name == "classroom":  # the last, so by now there are schools
            mean = values["school"][..., case.parents("classroom", "school")]
        elif name in _MEANS:
            mean = values[_MEANS[name]]
        values[name] = mean + values[f"sigma_{name}"] * values.pop(f"z_{name}")
    return values


_MEANS = {"alpha": "mu_alpha", "school": "mu"}


def _shared_by_correlated(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    mu, outer = values["mu"], values["mu"].shape[:2]
    root = values.pop("L").reshape(*outer, 2, 2)
    factor = values["sigma"][..., None] * root
    values["rho"] = root[..., 1, :1]
    if "z_second" in values:
        first = (values.pop("first") - mu[..., :1]) / factor[..., 0, :1]
        values["z_effects"] = np.stack([first, values.pop("z_second")], -1).reshape(*outer, -1)
    if "z_effects" in values:
        z = values.pop("z_effects").reshape(*outer, -1, 2)
        values["effects"] = (mu[..., None, :] + z @ np.swapaxes(factor, -1, -2)).reshape(*outer, -1)
    return values


def sample_with_numpyro(
    case: Case, *, seed: int, chains: int, warmup: int, draws: int, form: str, method: str
) -> Sampled:
    """NUTS compiled ahead of time for the very shapes of the run, so that the timed call compiles nothing.

    `MCMC.run` compiles anew at every call, even the second one on the same object, and would be charged for it.

    Args:
        method: how chains run: "parallel" (one device a chain), "vectorized" (all in lockstep) or "sequential".
    """
    jax, numpyro, infer = (importlib.import_module(name) for name in ("jax", "numpyro", "numpyro.infer"))
    numpyro.enable_x64()
    if method == "parallel":
        numpyro.set_host_device_count(chains)
    model = joint_model(case, numpyro, importlib.import_module("numpyro.distributions"), form=form)
    lockstep = chains if method == "vectorized" else 1

    def sample(key: Any, arrays: Any) -> Any:
        mcmc = infer.MCMC(
            infer.NUTS(model),
            num_warmup=warmup,
            num_samples=draws,
            num_chains=lockstep,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(key, **arrays, extra_fields=("num_steps",))
        return mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)

    def one_by_one(keys: Any, arrays: Any) -> Any:
        return jax.lax.map(lambda key: sample(key, arrays), keys)

    arrays = {name: jax.numpy.asarray(array) for name, array in peer_arrays(case).items()}
    keys = jax.random.split(jax.random.PRNGKey(seed), chains)
    compiler = {
        "parallel": lambda: jax.pmap(sample, in_axes=(0, None)),
        "vectorized": lambda: jax.jit(sample),
        "sequential": lambda: jax.jit(one_by_one),
    }[method]()
    start = time.perf_counter()
    compiled = compiler.lower(keys, arrays).compile()
    compile_seconds = time.perf_counter() - start
    keys, arrays = jax.device_put((keys, arrays), compiled.input_shardings[0])  # placing them compiles, too

    # Listening proves it: a compilation inside the timed call would be counted here.
    compilations: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compilations.append(event) if event.endswith("backend_compile_duration") else None
    )
    start = time.perf_counter()
    samples, fields = jax.block_until_ready(compiled(keys, arrays))
    seconds = time.perf_counter() - start
    values = {name: np.asarray(value).reshape(chains, draws, -1) for name, value in samples.items()}
    return Sampled(
        shared_names(case, values),
        seconds,
        compile_seconds,
        {
            "compilations_in_timed_call": len(compilations),
            "leapfrog_steps_per_draw": float(np.mean(np.asarray(fields["num_steps"]))),
            "divergences": int(np.sum(np.asarray(fields["diverging"]))),
        },
    )


class OutOfTime(Exception):  # noqa: N818 - no error: the chain is cut and its draws are kept
    pass


def sample_with_pyro(
    case: Case, *, seed: int, chains: int, warmup: int, draws: int, form: str, jit: bool, cap: float
) -> Sampled:
    """NUTS, one chain after the other; a chain that has used `cap / chains` seconds is cut and its draws are kept.

    On one thread: a second gains nothing on ten thousand rows, and loses much where cores are shared.
    Setting a chain up (the trace, and the first evaluations) counts as compilation.

    Raises:
        RuntimeError: if a chain was cut before its first draw.
    """
    import torch

    pyro: Any = importlib.import_module("pyro")
    infer: Any = importlib.import_module("pyro.infer")
    logging.getLogger("pyro").setLevel(logging.ERROR)
    model = joint_model(case, pyro, importlib.import_module("pyro.distributions"), form=form)
    arrays = {name: torch.as_tensor(array) for name, array in peer_arrays(case).items()}
    setup_seconds: list[float] = []
    seconds: list[float] = []
    kept: list[dict[str, Any]] = []

    class TimedNUTS(infer.NUTS):
        def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            super().setup(warmup_steps, *args, **kwargs)
            setup_seconds.append(time.perf_counter() - start)

    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)  # the type of the priors' parameters, which are plain numbers
    torch.set_num_threads(1)
    try:
        for chain in range(chains):
            pyro.set_rng_seed(seed + chain)
            kernel = TimedNUTS(model, jit_compile=jit, ignore_jit_warnings=True)
            positions: list[dict[str, Any]] = []
            start = time.perf_counter()
            keep = _recorder(positions, deadline=start + cap / chains)
            mcmc = infer.MCMC(kernel, draws, warmup_steps=warmup, hook_fn=keep, disable_progbar=True)
            try:
                mcmc.run(**arrays)
            except OutOfTime:
                if not positions:
                    raise RuntimeError(
                        f"Pyro spent {cap / chains:.0f} s on chain {chain + 1} without a draw after {warmup} warm-up "
                        "steps; raise --pyro-cap or lower --pyro-warmup."
                    ) from None
            seconds.append(time.perf_counter() - start - setup_seconds[-1])
            stacked = {name: torch.stack([p[name] for p in positions]) for name in positions[0]}
            kept.append({n: kernel.transforms[n].inv(v) if n in kernel.transforms else v for n, v in stacked.items()})
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
    length = min(len(next(iter(chain.values()))) for chain in kept)
    values = {n: np.stack([chain[n][:length].numpy().reshape(length, -1) for chain in kept]) for n in kept[0]}
    return Sampled(
        shared_names(case, values),
        sum(seconds),
        sum(setup_seconds),
        {"seconds_by_chain": seconds, "cut_short": length < draws, "jit_compile": jit, "threads": 1},
    )


def _recorder(positions: list[dict[str, Any]], deadline: float) -> Callable[..., None]:
    """A Pyro hook that keeps every unconstrained draw after warm-up, until the deadline."""

    def keep(kernel: Any, position: dict[str, Any], stage: str, i: int) -> None:
        if stage.startswith("Sample"):
            positions.append({name: value.detach().clone() for name, value in position.items()})
        if time.perf_counter() > deadline:
            raise OutOfTime

    return keep
