"""From a cold process to 1,000 effective draws: seconds of `python script.py`, imports and compilation included.

    python benchmarks/cold.py RUNNER FOLDER SETTINGS

is the script that is timed: it reads the arrays from the folder, imports what a user of that library would, samples
with settings given as JSON and saves its draws there. `run_cold` starts it, first with a trial number of draws, then
with the number that the trial says is needed, until every parameter has the effective draws; the last run counts. Those
are measured outside. On-disk compilation caches start empty and are then kept, which favours libraries that have them:
`first_seconds` are the trial's. Installed files are as they are.
"""

import importlib
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from measures import Sampled, measure
from own_models import hiertorch_data, hiertorch_model, named_draws
from peers import joint_model, peer_arrays, sample_with_pyro, shared_names
from pymc_peer import imported, nutpie_draws, pymc_model

__all__ = ["run_cold"]

ESS, MARGIN, FEWEST, TRIES = 1_000, 1.1, 20, 5
SECONDS = 900


def run_cold(case: Case, runner: str, settings: dict[str, Any], *, seed: int) -> Sampled:
    """The run of the timed script that reached the effective draws.

    Raises:
        RuntimeError: if the script fails, takes too long, or has too few effective draws whatever their number.
    """
    settings = {"draws": 100, **settings}
    first_seconds = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(folder / "arrays.npz", case.arrays)
        facts = {"name": case.name, "form": case.form, "groups": [*case.groups], "columns": [*case.columns]}
        (folder / "case.json").write_text(json.dumps(facts))
        for attempt in range(TRIES):
            seconds, draws = _timed(folder, runner, {"seed": seed, **settings})
            ess = measure(draws, seconds)["min_ess"]
            if attempt > 0 and ess >= ESS:
                break
            first_seconds = first_seconds or seconds
            settings["draws"] = max(FEWEST, math.ceil(settings["draws"] * MARGIN * ESS / max(ess, 1.0)))
        else:
            raise RuntimeError(f"{ess:.0f} effective draws after {TRIES} runs, the last of {draws} draws a chain.")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Sampled(draws, seconds, 0.0, {"first_seconds": first_seconds, "peak_megabytes": peak})


def _timed(folder: Path, runner: str, settings: dict[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds of one run of the script, and its draws."""
    caches = {name: str(folder / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR")}
    environment = {**os.environ, **caches, "PYTENSOR_FLAGS": f"base_compiledir={folder / 'pytensor'}"}
    command = [sys.executable, __file__, runner, str(folder), json.dumps(settings)]
    start = time.perf_counter()
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{runner} took more than {SECONDS} s for {settings['draws']} draws a chain.") from None
    seconds = time.perf_counter() - start
    if child.returncode:
        raise RuntimeError(f"{runner} failed: {(child.stderr.strip().splitlines() or ['no message'])[-1]}")
    with np.load(folder / "draws.npz") as file:
        return seconds, dict(file)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def _hiertorch(case: Case, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    import hiertorch as ht

    model = hiertorch_model(case)
    posterior = ht.sample(model, hiertorch_data(case), progress=False, keep=tuple(model.latents), **settings)
    return named_draws({name: x.numpy() for name, x in posterior.draws.items()})


def _numpyro(case: Case, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    jax, numpyro, infer = (importlib.import_module(name) for name in ("jax", "numpyro", "numpyro.infer"))
    numpyro.enable_x64()
    numpyro.set_host_device_count(settings["chains"])
    model = joint_model(case, numpyro, numpyro.distributions, form=settings["form"])
    mcmc = infer.MCMC(
        infer.NUTS(model),
        num_warmup=settings["warmup"],
        num_samples=settings["draws"],
        num_chains=settings["chains"],
        chain_method=settings["method"],
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(settings["seed"]), **peer_arrays(case))
    values = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    return shared_names(case, {name: x.reshape(*x.shape[:2], -1) for name, x in values.items()})


def _nutpie(case: Case, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    nutpie = imported("nutpie")
    compiled = nutpie.compile_pymc_model(pymc_model(case, form=settings["form"]))
    named = {name: settings[name] for name in ("draws", "chains", "cores", "seed")}
    return nutpie_draws(case, nutpie.sample(compiled, tune=settings["warmup"], progress_bar=False, **named))


def _pyro(case: Case, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    return sample_with_pyro(case, **{**settings, "cap": float(SECONDS)}).draws


def main(runner: str, folder: Path, settings: dict[str, Any]) -> None:
    facts = json.loads((folder / "case.json").read_text())
    with np.load(folder / "arrays.npz") as arrays:
        groups, columns = ({name: arrays[name] for name in facts[part]} for part in ("groups", "columns"))
        case = Case(facts["name"], facts["form"], arrays["y"], groups, columns)
    sample = {"hiertorch": _hiertorch, "numpyro": _numpyro, "nutpie": _nutpie, "pyro": _pyro}[runner]
    _save(folder / "draws.npz", sample(case, settings))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
