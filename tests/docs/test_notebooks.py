"""What a run does in a notebook, in a kernel of its own: the bar, the interrupt, figures."""

import asyncio
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'hiertorch[docs]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'hiertorch[docs]'")
pytest.importorskip("ipykernel", reason="pip install 'hiertorch[docs]'")

pytestmark = pytest.mark.slow

BEFORE = """
import warnings

import hiertorch as ht

warnings.simplefilter("ignore")
frame = {"y": [float(k * k % 17) for k in range(60)], "x": [k / 10 for k in range(60)], "g": [k % 6 for k in range(60)]}


class Tells(ht.monitors.Monitor):
    told = False

    def window(self, window):
        if window.drawn and not self.told:
            self.told = True
            print("drawn", flush=True)
"""
LONG = 'posterior = ht.fit("y ~ x + (1 | g)", frame, seed=1, chains=2, draws=500_000, monitors=[Tells()])'
AFTER = "print(posterior.n_draws > 0, posterior.interrupted, len(posterior.fixef()))"
SHORT = 'posterior = ht.fit("y ~ x + (1 | g)", frame, seed=1, draws=200)'


class Interrupts(nbclient.NotebookClient):
    """Presses the button once a cell has written "drawn"."""

    def process_message(self, message, cell, index):
        if message["msg_type"] == "stream" and "drawn" in message["content"]["text"]:
            self.pressed = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().process_message(message, cell, index)


def executed(*cells, client=nbclient.NotebookClient):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(Path.cwd())}}).execute()
    return [cell.outputs for cell in notebook.cells]


def written(outputs):
    return "".join(one["text"] for one in outputs if one.output_type == "stream")


def test_a_run_that_is_interrupted_keeps_its_draws():
    *_, after = executed(BEFORE, LONG, AFTER, client=Interrupts)
    assert written(after) == "True True 2\n"


@pytest.mark.parametrize("before", ["", "import matplotlib.pyplot as plt"])
def test_a_bar_is_one_line_and_a_figure_is_shown_once(before):
    plot = 'posterior.conditional_effects("x", resolution=3).plot()'
    check, compare = "posterior.predictive_check().plot()", 'ht.compare({"a": posterior, "b": posterior}).plot()'
    _, ran, *shown = executed(f"{BEFORE}\n{before}", SHORT, plot, check, compare)
    bars = [one["data"]["text/plain"] for one in ran if one.output_type == "display_data"]
    assert len(bars) == 1 and re.match(r"finished, \d+ x \d+ draws, .* R-hat .* ESS ", bars[0])  # how it ended, alone
    assert "draws" not in written(ran) and "\r" not in written(ran)
    assert [sum("image/png" in one.get("data", {}) for one in outputs) for outputs in shown] == [1, 1, 1]
