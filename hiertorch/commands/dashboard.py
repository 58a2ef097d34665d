"""`hiertorch dashboard`: opens TensorBoard on a folder of runs and says where to look."""

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from hiertorch.commands.program import Words, paragraph, status
from hiertorch.dashboard.links import RELOADING, command, lines, links, overview
from hiertorch.errors import ConfigError, OptionError

EXAMPLES = """\
  hiertorch dashboard runs/
  hiertorch dashboard runs/pupils --port 0

It runs until Ctrl-C, also beside runs that go on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 after Ctrl-C, 1 if TensorBoard can't be started, 2 if there is nothing to show."""
    return status(lambda: opened(_words(argv)))


def opened(asked: argparse.Namespace) -> int:
    """Starts TensorBoard, prints the links, and waits for Ctrl-C."""
    try:
        found = runs(asked.folder)
    except OSError as error:
        raise ConfigError(f"{asked.folder} can't be read ({error.strerror or error}).") from error
    if not found:
        raise ConfigError(
            f"expected event files of TensorBoard in {str(asked.folder)!r} or a folder below it, found none; fit "
            "a model with log_dir, or give the folder of another run."
        )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    base = served(asked.folder, "default" if asked.port is None else asked.port, asked.host)
    other = " (port 6006 is in use)" if asked.port is None and not base.endswith(":6006") else ""
    print(f"TensorBoard shows {asked.folder} at {base}/ until Ctrl-C{other}.", flush=True)
    for line in told(base, found):
        print(line if "://" in line else paragraph(line, sys.stdout), flush=True)  # addresses stay whole
    while not ended.wait(3600):  # on some systems Ctrl-C is not noticed in a wait without end
        pass
    print()
    return 0


def runs(folder: Path) -> list[str]:
    """The runs below a folder, the latest first; a run's chains belong to it, and "" is the folder itself."""
    if not folder.is_dir():
        raise ConfigError(f"expected a folder of runs, found {'a file' if folder.exists() else 'nothing'} at {folder}.")
    latest = dict[str, float]()
    for path, _, files in os.walk(folder):
        times = [os.path.getmtime(Path(path, file)) for file in files if "tfevents" in file]
        if times:
            place = Path(path).relative_to(folder)
            run = (place.parent if re.fullmatch(r"chain_\d+", place.name) else place).as_posix()
            latest[run] = max(latest.get(run, 0.0), *times)
    return ["" if run == "." else run for run in sorted(latest, key=lambda run: -latest[run])]


def told(base: str, found: Sequence[str]) -> list[str]:
    """The links of the latest run and, if there are more, those that compare all."""
    if len(found) == 1:
        return [*lines(links(base, found[0] or None)), RELOADING]
    latest = [f"The latest run, {found[0]}:", *lines(links(base, found[0]))] if found[0] else []
    return [*latest, f"All {len(found)} runs:", *lines(overview(base, len(found))), RELOADING]


def served(folder: Path, port: int | str, host: str) -> str:
    """Starts TensorBoard, which lives as long as this program, and returns its address."""
    from tensorboard import default, main_lib, program  # type: ignore[import-untyped]
    from tensorboard.plugins.base_plugin import FlagsError  # type: ignore[import-untyped]

    main_lib.global_init()
    board = program.TensorBoard(plugins=default.get_plugins())
    try:
        board.configure(command(folder, port, host))
        return board.launch().rstrip("/")
    except program.TensorBoardPortInUseError as error:
        raise OptionError(f"port {port} is in use; give another --port, or 0 for any that is free.") from error
    except (program.TensorBoardServerException, FlagsError, OSError, SystemExit) as error:  # the last with a word said
        raise OptionError(f"TensorBoard can't be started at {host}, port {port} ({error}); give another.") from error


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Words("dashboard", "FOLDER [options]", "Opens TensorBoard on runs, and says where to look.", EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of runs, or one run")
    parser.add_argument("--port", type=_port, metavar="N", help="6006, or the next one that is free; 0: any")
    what = "that it is served at: 127.0.0.1; 0.0.0.0 is all"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=what)
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, found {text!r}")
    return int(text)
