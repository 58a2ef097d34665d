"""A running TensorBoard, asked as its page asks it; what a page shows; and fits to look at."""

import functools
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from builders import ten_schools

import hiertorch as ht
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, TensorBoardMonitor

# Seconds in which whatever is waited for comes on a slow and busy machine too; a wait ends with what it waits for.
WAIT = 240.0

# The page's elements sit in nested shadow roots, which CSS selectors do not cross.
SEE = """
    const [selector, what] = arguments, found = [];
    (function walk(root) {
        for (const element of root.querySelectorAll('*')) {
            if (element.matches(selector)) found.push(what ? element[what] || element.getAttribute(what) || ''
                                                           : element.value || element.innerText || '');
            if (element.shadowRoot) walk(element.shadowRoot);
        }
    })(document);
    return found;"""


def until(look, seconds=WAIT, why=str):
    """Asks again and again until there is something; `why` says what there was instead."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"it didn't get there: {why()}"
        time.sleep(0.05)
    return found


class Server:
    """Its answers."""

    def __init__(self, address):
        self.address = address

    def get(self, path, **query):
        """JSON, and [] for what is not there yet."""
        try:
            address = f"{self.address}/data/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(address, timeout=WAIT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (400, 404):
                return []
            raise

    def post(self, path, **body):
        """What the HParams tab asks with."""
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/data/{path}", json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    def runs(self):
        return set(self.get("runs"))

    def points(self, tag, run="run"):
        """`[(step, value), ...]` of a scalar; a number that is none is "NaN"."""
        return [tuple(point[1:]) for point in self.get("plugin/scalars/scalars", run=run, tag=tag)]

    def steps(self, plugin, tag, run="run", **query):
        """Of histograms, distributions, images and texts."""
        found = self.get(f"plugin/{plugin}/{plugin}", run=run, tag=tag, **query)
        return [item["step"] if isinstance(item, dict) else item[1] for item in found]

    def curves(self, *runs):
        """(run, tag) -> points of every scalar of some runs; without the blanks that one reader needs."""
        tags = self.get("plugin/scalars/tags")
        found = {(run, tag): self.points(tag, run) for run in runs for tag in tags.get(run, ())}
        shown = {key: [point for point in points if point != (0, "NaN")] for key, points in found.items()}
        return {key: points for key, points in shown.items() if points}

    def texts(self, tag, run="run"):
        """`[(step, HTML), ...]`."""
        return [(item["step"], item["text"]) for item in self.get("plugin/text/text", run=run, tag=tag)]

    def sessions(self):
        """Run -> its row of the HParams tab: settings, metrics, status."""
        every = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        asked = {"experimentName": "", "startIndex": 0, "sliceSize": 1000, "allowedStatuses": every, "colParams": []}
        found = {}
        for group in self.post("plugin/hparams/session_groups", **asked).get("sessionGroups", []):
            for session in group["sessions"]:
                metrics = {m["name"]["tag"]: m["value"] for m in session["metricValues"]}
                found[session["name"]] = (group["hparams"], metrics, session.get("status", "STATUS_UNKNOWN"))
        return found


@contextmanager
def serve(folder, fast=True, reload=1) -> Iterator[Server]:
    """A TensorBoard of its own, at a port that the system chose, with the fast reader or the other one."""
    if fast:
        pytest.importorskip("tensorboard_data_server")
    options = {
        "logdir": folder,
        "host": "127.0.0.1",
        "port": 0,
        "reload_interval": reload,
        "load_fast": str(fast).lower(),
        "samples_per_plugin": "histograms=200,images=20,text=50",
    }
    command = [sys.executable, "-m", "tensorboard.main", *(f"--{key}={value}" for key, value in options.items())]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        assert server.stderr is not None
        try:
            lines = iter(server.stderr)
            yield Server(next(found.group() for line in lines if (found := re.search(r"http://127.0.0.1:\d+", line))))
        finally:
            # Its end of the pipe stays open until it has gone: a broken one is an error in its handler of the signal,
            # after which it may go on serving.
            server.terminate()
            try:
                server.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


class Page:
    """A browser with one page open."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address):
        self.driver.get("about:blank")  # tabs differ in the fragment only: without this, nothing is loaded
        self.driver.get(address)

    def see(self, selector, what=None):
        """Text or value of every element, or another property of it."""
        return self.driver.execute_script(SEE, selector, what)

    def cells(self, selector):
        """Texts without line breaks."""
        return [" ".join(text.split()).replace(" /", "/") for text in self.see(selector)]

    def until(self, look, seconds=WAIT):
        """What was looked for, and otherwise what the page shows."""
        return until(look, seconds, functools.partial(self.driver.execute_script, "return document.body.innerText"))

    def complaints(self):
        """Of the page, since the last time; that a test server has no icon is none."""
        log = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in log if "favicon" not in message]


class Waiting(Monitor):
    """Makes a run last while somebody looks, though not for ever: after each window it waits."""

    def __init__(self, seconds):
        self.seconds, self.seen = seconds, threading.Event()

    def window(self, window):
        self.seen.wait(self.seconds)


class Fit:
    """A Bernoulli model fitted in a thread, until `end` if that is soon: 4 chains of 200 + 1,000 sweeps, 24 windows.

    Args:
        folder: of the run.
        seconds: that it waits after each window.
    """

    def __init__(self, folder, seconds=0.8):
        self._waiting = Waiting(seconds)
        # A large share, so that something is to be seen within seconds.
        monitors = [TensorBoardMonitor(folder, share=0.5, announce=False), self._waiting]
        settings = {"chains": 4, "warmup": 200, "draws": 1000, "thin": 1, "seed": 1, "progress": False}
        self.posterior = None

        def fit():
            model = VaryingIntercepts("school", ["x"], family="bernoulli", priors="tutorial")
            self.posterior = ht.sample(model, ten_schools("yes"), monitors=monitors, compile=False, **settings)

        self._thread = threading.Thread(target=fit, daemon=True)
        self._thread.start()

    @property
    def running(self):
        return self._thread.is_alive()

    def end(self):
        """It need not wait any longer."""
        self._waiting.seen.set()
        self._thread.join(120)
        assert self.posterior is not None
        return self.posterior
