"""Posteriors of formulas predict when they are loaded, in a process that knows nothing else."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Normal

import hiertorch as ht


@pytest.fixture(scope="module")
def frame():
    n, r = 60, np.random.default_rng(1)
    size = pd.Categorical(r.choice(["small", "mid", "large"], n), categories=["small", "mid", "large"])
    return pd.DataFrame(
        {
            "count": r.poisson(3, n),
            "x": r.normal(1.0, 2.0, n),
            "size": size,
            "flag": r.random(n) < 0.5,
            "g": np.repeat(np.arange(6) + 10, 10),
            "h": np.repeat([*"pqr"], 20),
            "unread": 1.0,
        }
    )


FIT = {"seed": 1, "progress": False, "chains": 8, "draws": 60}
NEW = """
import sys, pandas as pd, torch, hiertorch as ht
posterior = ht.Posterior.load(sys.argv[1])
new = {"x": [0.3, 2.0], "size": ["large", "small"], "flag": [True, False], "g": [12, 99], "h": ["q", "new"]}
new = pd.DataFrame(new)
print(posterior.predict(new, new_groups="sample", seed=3).draws.double().sum().item())
"""


def test_a_loaded_posterior_predicts_in_a_new_process(frame, tmp_path):
    text = "count ~ scale(x) * size + flag + (x | g) + (1 | h)"
    priors = {"beta[flag]": Normal(0.0, 0.5), "sigma_h": "HalfNormal(1)"}
    posterior = ht.fit(text, frame, family="poisson", priors=priors, **FIT)
    posterior.save(tmp_path / "p")
    new = pd.DataFrame(
        {"x": [0.3, 2.0], "size": ["large", "small"], "flag": [True, False], "g": [12, 99], "h": ["q", "new"]}
    )
    expected = posterior.predict(new, new_groups="sample", seed=3).draws.double().sum().item()
    command = [sys.executable, "-W", "ignore", "-c", NEW, str(tmp_path / "p")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(said) == pytest.approx(expected, rel=1e-12)


def test_without_data_there_is_nothing_to_predict_from(frame, tmp_path):
    posterior = ht.fit("x ~ size + (1 | g)", frame, **FIT)
    posterior.save(tmp_path / "p", data=False)
    loaded = ht.Posterior.load(tmp_path / "p")
    torch.testing.assert_close(loaded.draws["mu"], posterior.draws["mu"], rtol=0, atol=0)
    with pytest.raises(ht.DataError, match="model"):
        loaded.predict(frame.head(2))
    whole = tmp_path / "q"
    posterior.save(whole)
    assert whole.stat().st_size > (tmp_path / "p").stat().st_size
    assert ht.Posterior.load(whole).data.fingerprint == posterior.data.fingerprint


def test_an_update_is_saved_without_what_it_was_updated_from(frame, tmp_path):
    posterior = ht.fit("x ~ size + (1 | g)", frame, **FIT)
    updated = posterior.update(frame.head(10), seed=2)
    updated.save(tmp_path / "p")
    assert ht.Posterior.load(tmp_path / "p").origin is None


def test_a_file_can_t_name_code_of_its_own(frame, tmp_path):
    from hiertorch.data.remake import Remake

    with pytest.raises(ht.DataError, match="is none of"):
        Remake("os", "os.x", {}, frame).again()
