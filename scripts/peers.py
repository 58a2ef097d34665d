"""The benchmark's models in NumPyro and Pyro, and how each is sampled: NUTS with its defaults, in float64.

One model serves both libraries, since their primitives and distributions share names:

    centred      alpha_j ~ Normal(mu_alpha, sigma_alpha)
    noncentred   z_j ~ Normal(0, 1),  alpha_j = mu_alpha + sigma_alpha z_j

Each runner returns a `Sampled`; its draws of alpha are those of the effects themselves in either form.
"""

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmark import Case

__all__ = ["Sampled", "joint_model", "sample_with_numpyro", "sample_with_pyro"]


@dataclass
class Sampled:
    """What a runner hands back."""

    draws: dict[str, np.ndarray]  # name -> (chains, draws, size)
    seconds: float  # wall time with warm-up, without compilation
    compile_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def joint_model(case: "Case", ppl: Any, dist: Any, *, centred: bool) -> Callable[..., None]:
    """The case's model in terms of a module `ppl` (numpyro or pyro) and its distributions; called with the arrays."""

    def model(y: Any, group: Any, x: Any = None, se: Any = None) -> None:
        mu = ppl.sample("mu_alpha", dist.Normal(0.0, 5.0))
        sigma = ppl.sample("sigma_alpha", dist.HalfCauchy(5.0) if case.likelihood == "known" else dist.Gamma(1.0, 1.0))
        slope = 0.0 if x is None else ppl.sample("beta", dist.Normal(0.0, 2.0)) * x
        scale = ppl.sample("sigma_y", dist.Gamma(1.0, 1.0)) if case.likelihood == "normal" else se
        with ppl.plate("groups", case.n_groups):
            if centred:
                alpha = ppl.sample("alpha", dist.Normal(mu, sigma))
            else:
                alpha = mu + sigma * ppl.sample("z", dist.Normal(0.0, 1.0))
        location = alpha[group] + slope
        with ppl.plate("rows", len(case.y)):
            if case.likelihood == "bernoulli":
                ppl.sample("y", dist.Bernoulli(logits=location), obs=y)
            else:
                ppl.sample("y", dist.Normal(location, scale), obs=y)

    return model


def sample_with_numpyro(
    case: "Case", *, seed: int, chains: int, warmup: int, draws: int, centred: bool, method: str
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
    model = joint_model(case, numpyro, importlib.import_module("numpyro.distributions"), centred=centred)
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

    arrays = {name: jax.numpy.asarray(array) for name, array in case.arrays.items()}
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
        _with_effects(values),
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
    case: "Case", *, seed: int, chains: int, warmup: int, draws: int, centred: bool, jit: bool, cap: float
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
    model = joint_model(case, pyro, importlib.import_module("pyro.distributions"), centred=centred)
    arrays = {name: torch.as_tensor(array) for name, array in case.arrays.items()}
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
        _with_effects(values),
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


def _with_effects(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The draws with alpha = mu_alpha + sigma_alpha z in place of z, all `(chains, draws, size)`."""
    if "z" in values:
        values = {**values, "alpha": values["mu_alpha"] + values["sigma_alpha"] * values["z"]}
        del values["z"]
    return values
