"""Compiled loops that other processes have kept on disk."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("numba")

SCRIPT = """
import sys
import numpy as np
from numba import njit
from hiertorch.density.rowkernel import loop

def caller(add_rows):
    @njit
    def call(*given):
        add_rows(*given)

    return call

nothing, places, values = np.zeros((1, 0)), np.zeros((1, 0), np.int64), np.full((1, 2, 8), 0.7)
rows = np.array([0, 1]), np.array([[0.3, 0.5, 0.2, 1.0, 1.5]]), nothing, places, places, nothing, values, values
codes = [int(code) for code in sys.argv[1:]]
for made in (lambda add_rows: add_rows, caller):
    for code in codes:
        out = np.empty((1, 1, 8))
        made(loop(code, 8))(0, 1, *rows, out)
        print(code, out[0, 0, 0])
"""
"""Sums over one row, then those by compiled functions that call the loops."""


def sums(folder: Path, *codes: int) -> list[str]:
    """What a new process prints, whose compiled functions are kept in a folder."""
    command = [sys.executable, "-c", SCRIPT, *map(str, codes)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_loops_that_several_processes_have_kept_are_told_apart(tmp_path):
    """Each form is compiled as the first one of its process, where Numba gives all of them the same number: of forms
    that had the same name as well, some took the place of others when a compiled function called them.
    """
    with ThreadPoolExecutor(2) as side_by_side:
        alone = list(side_by_side.map(lambda code: sums(tmp_path, code), range(4)))
    assert all(direct == called for direct, called in alone)
    direct, called = [list(x) for x in zip(*alone, strict=True)]
    assert sums(tmp_path, *range(4)) == direct + called
