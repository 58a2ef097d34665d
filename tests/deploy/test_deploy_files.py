"""Files of exported models: damaged, of later versions, with text that is no arithmetic; and the module by itself."""

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import from_prior, refused

import hiertorch as ht
from hiertorch import deploy

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=30), "f": rng.choice(["a", "b"], 30), "g": rng.choice(list("uvw"), 30)})
    file = tmp_path_factory.mktemp("exported") / "m.ht"
    from_prior(*ht.formula("y ~ bs(x, df=4) + f + (x | g)", frame.assign(y=1.0 * frame.x)), 2, 10).export(file)
    return file


ROWS = {"x": [0.1, -0.5], "f": ["a", "b"], "g": ["u", "new"]}


def changed(path: Path, target: Path, change) -> Path:
    """The file with other metadata, whose checksum is right."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    parts = json.loads(content[8 : 8 + size])
    told = parts["__metadata__"]
    change(told)
    del told["crc32"]
    told["crc32"] = str(zlib.crc32(json.dumps(sorted(told.items())).encode()))
    head = json.dumps(parts).encode()
    target.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + size :])
    return target


def test_a_flipped_bit_is_refused_in_a_sentence(path, tmp_path):
    content, rng, target = path.read_bytes(), np.random.default_rng(1), tmp_path / "m.ht"
    size = int.from_bytes(content[:8], "little")
    places = [*range(16), *rng.integers(16, 8 + size, 80), *rng.integers(8 + size, len(content), 80)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        target.write_bytes(damaged)
        with refused(deploy.DeployError, str(target)):
            deploy.load(target)


@pytest.mark.parametrize("part", [0, 7, 8, 400, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_a_sentence(path, tmp_path, part):
    content, target = path.read_bytes(), tmp_path / "m.ht"
    target.write_bytes(content[: part if isinstance(part, int) else int(len(content) * part)])
    with refused(deploy.DeployError, str(target), "it is damaged", "export it again, or copy it again"):
        deploy.load(target)


def test_a_file_of_a_later_format_is_refused_in_a_sentence(path, tmp_path):
    later = changed(path, tmp_path / "m.ht", lambda told: told.update(version="2"))
    with refused(deploy.DeployError, "has format 2, and this reader knows up to 1: take a newer hiertorch/deploy.py"):
        deploy.load(later)


def test_other_files_are_refused_in_a_sentence(path, tmp_path):
    (tmp_path / "text").write_text("y ~ x, and much more of it")
    fit = from_prior(*ht.formula("y ~ x", {"y": [1.0, 2.0, 4.0], "x": [0.0, 1.0, 3.0]}), 2, 4)
    fit.save(tmp_path / "posterior")
    for name, sentence in (("text", "no model that hiertorch exported"), ("posterior", "'hiertorch posterior'")):
        with refused(deploy.DeployError, name, sentence):
            deploy.load(tmp_path / name)
    with refused(deploy.DeployError, "can't read", "No such file"):
        deploy.load(tmp_path / "nothing")


def with_text(path: Path, target: Path, text: str) -> Path:
    def change(told):
        header = json.loads(told["header"])
        header["outputs"]["mean"] = text
        told["header"] = json.dumps(header)

    return changed(path, target, change)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()", "open('x')", "v['mu'].shape", "(lambda: eta)()", "[x for x in v]",
        "eta if 1 else 0",
        "exp(*v)", "exp(x=1)", "f'{eta}'", "v['mu'][0]", "v[0:1]", "rng", "print(1)", "1 < 2 < 3", "[0] * 1000000000",
        "'a' * 1000000000", "eta; eta", "", "median(eta)",
    ],
)  # fmt: skip
def test_text_that_is_no_arithmetic_is_refused(path, tmp_path, text):
    with refused(deploy.DeployError, "the file computes"):
        deploy.load(with_text(path, tmp_path / "m.ht", text)).predict(ROWS, new_groups="sample")


def test_text_is_what_is_computed(path, tmp_path):
    model = deploy.load(with_text(path, tmp_path / "m.ht", "2.0 * loc + 10.0"))
    expected = 2.0 * deploy.load(path).predict(ROWS, new_groups="sample", seed=1).draws + 10.0
    np.testing.assert_allclose(model.predict(ROWS, new_groups="sample", seed=1).draws, expected)


ALONE = """
import json, sys
for name in ("hiertorch", "pandas", "safetensors", "scipy", "torch"):
    sys.modules[name] = None  # which makes an import of it an error
import deploy
model = deploy.load(sys.argv[1])
print(json.dumps(model.predict(json.loads(sys.argv[2]), new_groups="sample", seed=3).summary["mean"].tolist()))
"""


def test_the_module_works_copied_alone(path, tmp_path):
    shutil.copy(deploy.__file__, tmp_path / "deploy.py")
    arguments = [sys.executable, "-c", ALONE, str(path), json.dumps(ROWS)]
    run = subprocess.run(arguments, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = deploy.load(path).predict(ROWS, new_groups="sample", seed=3).summary["mean"]
    assert json.loads(run.stdout) == expected.tolist()


def test_in_the_package_it_loads_nothing_heavy():
    code = "import sys, hiertorch.deploy; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "scipy", "formulae", "matplotlib", "safetensors"} & {*run.stdout.split()}
