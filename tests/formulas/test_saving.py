"""Posteriors of formulas predict when they are loaded, in a process that knows nothing else."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from builders import from_prior
from safetensors.numpy import load_file
from torch.distributions import LogNormal, Normal

import hiertorch as ht
from hiertorch.draws import archive, storage


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
            "z": r.random(n),
            "w": r.gamma(3.0, 1.0, n),
            "use": np.where(r.random(n) < 0.5, "Y", "N"),
            "grade": r.integers(2, 6, n),
            "total": 40,
            "limit": np.where(r.random(n) < 0.3, "right", "none"),
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


@pytest.mark.slow  # a process takes long to begin, and tests/test_newcomer.py has one
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


OTHERS = [
    ("count ~ scale(x) * size + flag + (x | g) + (1 | h)", {"family": "poisson"}),
    ("x ~ poly(z, 2) + bs(w, df=5) + center(count) + (1 | h/g)", {}),
    ("log(w) ~ size:z + log(w + z) + I(z**2) + C(count) + offset(w) + (size | g)", {}),
    ("use['Y'] ~ T(size, ref='mid') + S(size) + (0 + x | g)", {"family": "bernoulli"}),
    ("grade ~ x + (1 | g)", {"family": "cumulative"}),
    ("size ~ x + (1 | g)", {"family": "cumulative"}),
    ("count | trials(total) ~ scale(x) + (1 | g)", {"family": "binomial"}),
    ("count | rate(w) ~ scale(log(w)) + (1 | g)", {"family": ht.families.NegativeBinomial()}),
    ("x ~ z + (1 |i| g)", {"sigma": "~ scale(w) + (1 |i| g)"}),
    ("size ~ scale(x) + (1 | g)", {"family": "categorical", "mu_large": "~ w"}),
]


OTHERS += [
    ("w | cens(limit) ~ x + (1 | g)", {"family": "weibull"}),
    ("w | trunc(lb=0, ub=20) ~ x + (1 | g)", {}),
    ("x ~ cut(z, 3) * count + interaction(size, flag) + C(size, Poly) + (cut(w, 4) | g)", {}),
    ("x ~ ns(z, df=3) + relevel(size, ref='large') + cut(w, c(0, 2, 4, 99)) + log1p(w) + (1 | g)", {}),
]


@pytest.mark.parametrize(
    ("text", "options"),
    [pytest.param(*one, id=one[0], marks=[pytest.mark.slow] * (k % 2)) for k, one in enumerate(OTHERS)],
)
def test_without_rows_predictions_are_the_same(text, options, frame, tmp_path):
    """To the bit, of known groups and of new ones; and no column of numbers is in the file."""
    posterior = from_prior(*ht.formula(text, frame, **options), 2, 5)
    posterior.save(tmp_path / "p", data=False)
    loaded = ht.Posterior.load(tmp_path / "p")
    new = frame.sample(9, random_state=1)
    new = new.assign(g=[*new["g"][:6], 99, 98, 98], h=[*new["h"][:8], "new"], count=new["count"].max())
    new = new.drop(columns="unread")[sorted(new.columns.drop("unread"), reverse=True)]
    for kind in ("mean", "response"):
        expected, found = (one.predict(new, kind, new_groups="sample", seed=3) for one in (posterior, loaded))
        assert torch.equal(found.draws, expected.draws)
        pd.testing.assert_frame_equal(found.summary, expected.summary)
    held = [x for name, x in load_file(tmp_path / "p").items() if name.startswith("source/") and x.dtype == np.float64]
    assert not any(np.isin(np.sort(frame[name])[1:-1], x).any() for name in ("x", "z", "w") for x in held)


def test_without_rows_unknown_levels_and_columns_are_refused_as_with_them(frame, tmp_path):
    posterior = from_prior(*ht.formula("x ~ size + w + (1 | g)", frame), 2, 5)
    posterior.save(tmp_path / "p", data=False)
    loaded = ht.Posterior.load(tmp_path / "p")
    torch.testing.assert_close(loaded.draws["mu"], posterior.draws["mu"], rtol=0, atol=0)
    for new, sentence in (
        (frame.assign(size="huge"), "their levels: small, mid, large"),
        (frame[["g", "w"]], "'size'"),
    ):
        for one in (posterior, loaded):
            with pytest.raises(ht.DataError, match=sentence):
                one.predict(new.head(2))
    with pytest.raises(ht.DataError, match=r"saved without its rows \(data=False\)"):
        loaded.fixef()
    whole = tmp_path / "q"
    posterior.save(whole)
    assert ht.Posterior.load(whole).data.fingerprint == posterior.data.fingerprint


def test_files_of_format_2_are_read(frame, tmp_path):
    """In which formulas had no kind, and columns no folder of their own."""
    posterior = from_prior(*ht.formula("x ~ size + (1 | g)", frame), 2, 5)
    posterior.save(tmp_path / "p")
    header, tensors = archive.read(tmp_path / "p", storage.KIND)
    del header["source"]["by"], tensors["source/index"]
    tensors = {name.replace("source/frame/", "source/"): x for name, x in tensors.items()}
    archive.write(tmp_path / "q", storage.KIND._replace(version=2), header, tensors)
    loaded = ht.Posterior.load(tmp_path / "q")
    assert torch.equal(loaded.predict(frame.head(3)).draws, posterior.predict(frame.head(3)).draws)


def test_rows_keep_their_labels(frame, tmp_path):
    dated = frame.set_index(pd.date_range("2026-01-01", periods=len(frame), name="day"))
    from_prior(*ht.formula("x ~ size + (1 | g)", dated), 2, 5).save(tmp_path / "p")
    pd.testing.assert_index_equal(ht.Posterior.load(tmp_path / "p").data.index, dated.index, check_exact=True)


@pytest.mark.parametrize(
    ("text", "functions", "sentence"),
    [
        ("x ~ cr(z, df=4) + (1 | g)", None, "a transform of the formula"),
        ("x ~ where(z > 0.5, w, z) + double(w) + (1 | g)", {"double": lambda x: 2 * x}, "functions= of the formula"),
    ],
)
def test_terms_that_are_not_kept_without_rows(text, functions, sentence, frame, tmp_path):
    posterior = from_prior(*ht.formula(text, frame, functions=functions), 2, 5)
    with pytest.warns(ht.SamplingWarning, match=f"predicts nothing without model and data: {sentence}"):
        posterior.save(tmp_path / "p", data=False)
    with pytest.raises(ht.DataError, match=sentence):
        ht.Posterior.load(tmp_path / "p").predict(frame.head(2))


def test_priors_and_families_that_are_objects_are_kept(frame, tmp_path):
    family = ht.families.Binomial("trials", link="probit")
    priors = {"beta[x]": LogNormal(0.0, 0.25), "sigma_g": "HalfNormal(1)"}
    model, data = ht.formula("count | trials(total) ~ x + (1 | g)", frame, family=family, priors=priors)
    posterior = from_prior(model, data, 2, 5)
    posterior.save(tmp_path / "p")
    loaded = ht.Posterior.load(tmp_path / "p")
    assert str(loaded.model) == str(posterior.model)
    assert torch.equal(loaded.predict(frame.head(3)).draws, posterior.predict(frame.head(3)).draws)


def test_an_update_is_saved_without_what_it_was_updated_from(frame, tmp_path):
    posterior = ht.fit("x ~ size + (1 | g)", frame, **FIT)
    updated = posterior.update(frame.head(10), seed=2)
    updated.save(tmp_path / "p")
    assert ht.Posterior.load(tmp_path / "p").origin is None


def test_a_file_can_t_name_code_of_its_own(frame, tmp_path):
    from hiertorch.data.remake import Remake

    with pytest.raises(ht.DataError, match="is none of"):
        Remake("os", "os.x", {}, frame).again()


@pytest.mark.parametrize("own", [False, True], ids=["formula", "class"])
def test_an_updated_posterior_predicts_new_rows_when_it_is_loaded(own, frame, tmp_path):
    """Rows of an update are not in the file; what new ones are read by is, with the groups that came later."""
    if own:
        rows = ht.Data.from_frame(frame[["x", "z", "g"]], "x", "g", ["z"])
        posterior = ht.sample(ht.models.VaryingIntercepts("g", ["z"]), rows, **FIT)
    else:
        posterior = ht.fit("x ~ scale(z) + (1 | g)", frame, **FIT)
    later = frame.head(3)[["x", "z", "g"]].assign(g=[10, 99, 99], z=[5.0, 6.0, 7.0])
    updated = posterior.update(later, new_groups="sample", seed=2)
    updated.save(tmp_path / "p")
    loaded = ht.Posterior.load(tmp_path / "p")
    new = frame[["z", "g"]].tail(4).assign(g=[10, 99, 15, 98])
    expected, found = (one.predict(new, new_groups="sample", seed=3).draws for one in (updated, loaded))
    assert torch.equal(found, expected)
    with pytest.raises(ht.DataError, match=r"it predicts new ones and nothing else|does not know its rows"):
        loaded.predict()
