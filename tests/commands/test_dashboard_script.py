"""Links into TensorBoard's page; `hiertorch dashboard` and scripts/dashboard.py as called from a terminal."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from server import SEE, WAIT, until

from hiertorch.commands import dashboard
from hiertorch.dashboard.links import PINNED, announcement, command, links, overview, place
from hiertorch.dashboard.records import EventFile

ROOT = Path(__file__).parents[2]
BASE = "http://127.0.0.1:6006"
ODD = "a+b (x) 50% ü&c"  # a name with what regexes and addresses are made of


def write(folder, chains=2):
    """A run and its chains, with a few points each."""
    main = EventFile(folder)
    main.text(0, "2_summary/verdict", f"verdict of {folder.name}")
    main.layout({"1 Health": {"R-hat": ["convergence/rhat_max_minus_1$"], "acceptance": ["sampler/accept_rate$"]}})
    for step in (1, 2, 3):
        main.scalars(step, {"convergence/rhat_max_minus_1": 0.1 / step, "convergence/ess_bulk_min": 100.0 * step})
    main.close()
    for c in range(chains):
        file = EventFile(folder / f"chain_{c}")
        for step in (1, 2, 3):
            file.scalars(step, {"sampler/accept_rate": 0.3, "sampler/log_prob": -5.0 * step, "trace/mu": step / 2})
        file.close()


def read(url):
    """What the page reads from an address: the tab, and its settings, decoded."""
    parts = urlsplit(url)
    tab, _, after = parts.fragment.partition("&")
    return tab, {key: values[0] for key, values in parse_qs(parts.query or after, strict_parsing=True).items()}


# Links


def test_links_open_the_views_of_one_run():
    views = dict(links(BASE + "/", "schools"))
    assert list(views) == ["health", "charts", "traces", "summary", "posterior", "figures", "compare"]
    assert all(url.startswith(BASE + "/") and not url.startswith(BASE + "//") for url in views.values())
    tab, health = read(views["health"])
    assert tab == "timeseries" and health["smoothing"] == "0"
    assert json.loads(health["pinnedCards"]) == [{"plugin": "scalars", "tag": tag} for tag in PINNED]
    assert PINNED[:2] == ("convergence/rhat_max_minus_1", "convergence/ess_bulk_min")
    pattern = "^schools(/|$)"
    assert health["runFilter"] == pattern
    assert read(views["charts"]) == ("custom_scalars", {"_smoothingWeight": "0", "regexInput": pattern})
    assert read(views["traces"]) == ("timeseries", {
        "smoothing": "0", "runFilter": pattern, "tagFilter": "^trace/", "runColorGroup": "regex:(chain_[0-9]+)",
    })  # fmt: skip
    assert read(views["summary"]) == ("text", {"tagFilter": "2_summary", "regexInput": pattern})
    assert read(views["posterior"]) == ("distributions", {"tagFilter": "^posterior/", "regexInput": pattern})
    assert read(views["figures"]) == ("images", {"tagFilter": "^figures/", "regexInput": pattern})
    assert views["compare"] == f"{BASE}/#hparams"


@pytest.mark.parametrize("run", ["schools", "deep/two", ODD, "a.b", "[1]"])
def test_the_filter_takes_a_run_and_its_chains_alone(run):
    for title, url in links(BASE, run):
        assert re.fullmatch(r"[A-Za-z0-9:/?#&=_.%~*()-]+", url), title  # nothing that would end a link in a terminal
        tab, settings = read(url) if "=" in url else (title, {})
        pattern = settings.get("runFilter", settings.get("regexInput"))
        if tab == "compare":
            continue
        assert re.search(pattern, run) and re.search(pattern, f"{run}/chain_0")
        assert not any(re.search(pattern, other) for other in (f"{run}2", f"x{run}", "axb", f"x/{run}", "1"))


def test_a_run_that_is_the_folder_itself_needs_no_filter():
    for _, url in links(BASE):
        assert "runFilter" not in url and "regexInput" not in url


def test_an_overview_leaves_the_chains_out_and_what_can_not_show_so_many():
    views = dict(overview(BASE, 40))
    assert list(views) == ["health", "charts", "compare"]
    for pattern in (read(views["health"])[1]["runFilter"], read(views["charts"])[1]["regexInput"]):
        assert all(re.search(pattern, run) for run in ("schools", "deep/two", ".", "chain_reaction", "a/chain_1/b"))
        assert not any(re.search(pattern, run) for run in ("schools/chain_0", "chain_7", "deep/two/chain_12"))
    assert list(dict(overview(BASE, 41))) == ["health", "compare"]


def test_the_command_is_one_that_tensorboard_takes():
    from tensorboard import default, program  # type: ignore[import-untyped]

    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(command("my runs", 7007, "0.0.0.0"))
    flags = board.flags
    assert (flags.logdir, flags.host, flags.port, flags.reload_interval) == ("my runs", "0.0.0.0", 7007, 5)
    assert flags.samples_per_plugin == {"histograms": 200, "images": 20, "text": 50}
    assert flags.load_fast == "auto"


def test_a_run_is_shown_beside_those_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place("runs/schools") == ("runs", "schools")
    assert place(Path("runs") / "deep" / "two") == ("runs/deep", "two")
    assert place("./runs//schools/") == ("runs", "schools")
    (tmp_path / "runs").mkdir()
    assert place(tmp_path / "runs" / "schools") == (str(tmp_path / "runs"), "schools")


def test_a_run_is_shown_alone_where_its_folder_holds_more_than_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "other" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    absolute = str(tmp_path / "other" / "schools")
    for folder in ("schools", ".", "..", "/", "/schools", absolute, str(tmp_path / "home/a"), str(tmp_path / "tmp/a")):
        assert place(folder) == (os.path.normpath(folder), None)
    assert place("deep/a") == ("deep", "a")
    monkeypatch.setattr("hiertorch.dashboard.links.CROWD", 3)
    for k in range(3):
        (tmp_path / "other" / "deep" / str(k)).touch()
    assert place("deep/a") == ("deep", "a")
    (tmp_path / "other" / "deep" / "3").touch()
    assert place("deep/a") == ("deep/a", None)


def test_the_announcement_is_one_line_with_folder_command_and_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "http://localhost:6006/#custom_scalars"
    assert announcement("my runs/a") == f"Dashboard of my runs/a: tensorboard --logdir 'my runs', at {page}"
    assert announcement("schools") == f"Dashboard of schools: tensorboard --logdir schools, at {page}"


# The script


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three runs, of which `deep/two` is the latest."""
    root = tmp_path_factory.mktemp("runs")
    for age, run in ((30, "schools"), (20, ODD), (10, "deep/two")):
        write(root / run)
        for file in (root / run).rglob("*tfevents*"):
            os.utime(file, (1e9 - age, 1e9 - age))
    (root / "notes.txt").write_text("no run")
    return root


class Started:
    """The script as a program of its own, on a port that the system chose."""

    def __init__(self, folder, port=0):
        command = [sys.executable, str(ROOT / "scripts" / "dashboard.py"), str(folder), "--port", str(port)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.program = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
        self.said = []
        for line in self.program.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith("The page reloads"):
                break
        found = re.search(r"at (http://127\.0\.0\.1:\d+)/ until Ctrl-C", self.said[0]) if self.said else None
        assert found, self.end(signal.SIGTERM)
        self.base = found.group(1)

    def get(self, path):
        with urllib.request.urlopen(f"{self.base}/data/{path}", timeout=WAIT) as answer:
            return json.load(answer)

    def runs(self):
        """What the server has found, once that is all."""
        end = time.monotonic() + WAIT
        while len(found := set(self.get("runs"))) < 9:
            assert time.monotonic() < end, found
        return found

    def end(self, number):
        if self.program.poll() is None:
            self.program.send_signal(number)
        try:
            _, complaints = self.program.communicate(timeout=WAIT)
        except subprocess.TimeoutExpired:
            self.program.kill()
            raise
        return self.program.returncode, complaints


@pytest.fixture(scope="module")
def server(folder):
    started = Started(folder)
    yield started
    if started.program.poll() is None:
        started.end(signal.SIGTERM)


def test_it_serves_the_runs_at_the_port_that_its_links_name(server):
    assert server.runs() == {
        f"{run}{chain}" for run in ("schools", ODD, "deep/two") for chain in ("", "/chain_0", "/chain_1")
    }
    urls = [word for line in server.said for word in line.split() if word.startswith("http://")]
    assert len(urls) == 1 + 7 + 3 and {urlsplit(url).netloc for url in urls} == {urlsplit(server.base).netloc}
    latest = server.said.index("The latest run, deep/two:")
    assert server.said[latest + 1].split() == ["health", dict(links(server.base, "deep/two"))["health"]]
    assert "All 3 runs:" in server.said


def test_a_port_in_use_is_said_so(server, folder, capfd, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # those of the tests stay
    taken = urlsplit(server.base).port
    assert dashboard.main([str(folder), "--port", str(taken)]) == 1
    assert f"error: port {taken} is in use; give another --port, or 0 for any that is free." in capfd.readouterr().err


def test_a_folder_without_event_files_is_said_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path, found in (
        (tmp_path / "nothing", "expected a folder of runs, found nothing at "),
        (tmp_path / "file", "expected a folder of runs, found a file at "),
        (tmp_path, f"expected event files of TensorBoard in '{tmp_path}' or a folder below it, found none; "),
    ):
        assert dashboard.main([str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {found}")


@pytest.mark.parametrize("port", ["-1", "65536", "six"])
def test_a_port_that_is_none(folder, port, capsys):
    assert dashboard.main([str(folder), f"--port={port}"]) == 2
    assert f"expected a number from 0 to 65535, found '{port}'" in capsys.readouterr().err


def test_runs_are_the_folders_with_event_files_and_not_their_chains(folder):
    assert dashboard.runs(folder) == ["deep/two", ODD, "schools"]
    assert dashboard.runs(folder / "schools") == [""]
    one = dashboard.told(BASE, [""])
    assert len(one) == 8 and not any("runFilter" in line for line in one)


# The page


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("run", ["schools", ODD])
def test_the_links_open_what_they_promise(browser, server, run):
    server.runs()
    views = dict(links(server.base, run))
    pattern = read(views["health"])[1]["runFilter"]
    see = functools.partial(browser.execute_script, SEE)

    def opened(title):
        browser.get("about:blank")  # tabs differ in the fragment only: without this, nothing is loaded
        browser.get(views[title])

    def cells(selector):
        return [" ".join(text.split()).replace(" /", "/") for text in see(selector)]

    opened("health")
    until(lambda: cells("metrics-pinned-view tb-truncated-path") == list(PINNED))
    until(lambda: cells("runs-data-table tb-data-table-content-row") == [run, f"{run}/chain_0", f"{run}/chain_1"])
    inputs = see("metrics-dashboard input")
    assert inputs[0] == pattern and "0" in inputs and "0.6" not in inputs  # the last is how much is smoothed unasked
    opened("traces")
    until(lambda: cells("metrics-dashboard tb-truncated-path") == ["trace/mu"])
    inputs = see("metrics-dashboard input")
    assert pattern in inputs and "^trace/" in inputs and "0" in inputs
    opened("charts")
    until(lambda: len(see("tf-custom-scalar-multi-line-chart-card")) == 2)
    until(lambda: see("input")[1:] == ["0", pattern])
    opened("summary")
    until(lambda: see("input") == [pattern, "2_summary"])
    until(lambda: any(f"verdict of {Path(run).name}" in text for text in see("p")))
    assert {text for text in see("p") if text.startswith("verdict of")} == {f"verdict of {Path(run).name}"}


@pytest.mark.slow
@pytest.mark.browser
def test_the_overview_shows_every_run_without_its_chains(browser, server):
    server.runs()
    browser.get(dict(overview(server.base, 3))["health"])
    rows = "runs-data-table tb-data-table-content-row"
    until(lambda: sorted(map(str.strip, browser.execute_script(SEE, rows))) == sorted(["schools", ODD, "deep/two"]))


# The end


def test_ctrl_c_ends_it_cleanly_and_frees_the_port(server):
    """The last test, since it ends the server of the others."""
    server.runs()
    status, complaints = server.end(signal.SIGINT)
    assert status == 0
    assert "Traceback" not in complaints and "error" not in complaints.lower()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", urlsplit(server.base).port))
