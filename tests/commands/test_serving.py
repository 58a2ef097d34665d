"""The web service of examples/serve, started and asked."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import from_prior

import hiertorch as ht

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
HERE = Path(__file__).parents[2] / "examples" / "serve"
ROWS = [{"x": 0.5, "school": "A"}, {"x": -1, "school": "B"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A posterior, and the address at which its exported model is asked."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("served") / "m.ht"
    frame = pd.DataFrame({"x": rng.normal(size=20), "school": rng.choice(list("ABC"), 20), "y": rng.normal(size=20)})
    fit = from_prior(*ht.formula("y ~ x + (1 | school)", frame), 2, 10)
    fit.export(path)
    command = [sys.executable, "-m", "uvicorn", "app:create", "--factory", "--port", "0", "--app-dir", str(HERE)]
    with subprocess.Popen(command, env={**os.environ, "MODEL": str(path)}, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = []
            for line in server.stderr:
                lines.append(line)
                if found := re.search(r"running on (http://[\d.:]+)", line):
                    yield fit, found[1]
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            server.terminate()


def asked(address: str, question: dict[str, Any]) -> tuple[int, Any]:
    """Status and answer."""
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/predict", json.dumps(question).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_service_answers_what_the_posterior_says(served):
    fit, address = served
    with urllib.request.urlopen(f"{address}/model", timeout=60) as answer:
        told = json.load(answer)
    assert told["formula"] == "y ~ x + (1 | school)" and told["needs"] == ["school", "x"]
    status, found = asked(address, {"rows": ROWS, "ci_prob": 0.8})
    expected = fit.predict(pd.DataFrame(ROWS), ci_prob=0.8).summary
    assert status == 200
    np.testing.assert_allclose(pd.DataFrame(found["summary"]), expected, rtol=1e-12)


def test_a_service_refuses_in_a_sentence(served):
    _, address = served
    status, found = asked(address, {"rows": [{"x": 0.5, "school": "new"}]})
    assert status == 422 and found["detail"] == "new_groups='error', and the rows have new groups: school 'new'."
    assert asked(address, {"rows": [{"x": 0.5, "school": "new"}], "new_groups": "sample"})[1]["new"] == {
        "school": ["new"]
    }
    status, found = asked(address, {"rows": [{"x": "much", "school": "A"}]})
    assert status == 422 and found["detail"].startswith("column 'x' holds numbers")
    assert asked(address, {"rows": []})[0] == 422
