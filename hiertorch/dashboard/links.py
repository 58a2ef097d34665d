"""Where to look: TensorBoard's command line, and links that open its page at the views of one run."""

import json
import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import quote

PINNED = ("convergence/rhat_max_minus_1", "convergence/ess_bulk_min", "sampler/accept_rate", "sampler/log_prob")
COMPARED = ("convergence/rhat_max_minus_1", "convergence/ess_bulk_min", "metric/ess_per_s")
NO_CHAINS = "^(?!(.*/)?chain_[0-9]+$)"
SHOWN = 40  # runs; if there are more, the tabs of old come up empty, with no run ticked
KEPT = "histograms=200,images=20,text=50"  # of a tag, beside 1000 points of a scalar
CROWD = 2000  # entries of a folder that TensorBoard is not sent through, as it looks into every folder below
PORT = 6006  # that TensorBoard takes if it isn't told
RELOADING = (
    "The page reloads by itself only if told to (gear > Reload data, every 30 s at least); its reload button does so "
    "at once."
)


def links(base: str, run: str | None = None) -> list[tuple[str, str]]:
    """Titles and addresses of the views of one run.

    | title | tab | what |
    |---|---|---|
    | health | Time Series | R-hat, ESS, acceptance and log density as pinned cards, not smoothed |
    | charts | Custom Scalars | the run's layout: health, posterior, traces, throughput |
    | traces | Time Series | every traced parameter, a chain in the same colour in all runs |
    | summary | Text | verdict and table of the posterior |
    | posterior | Distributions | the parameters' distributions as draws come in |
    | figures | Images | |
    | compare | HParams | all runs in one table |

    TensorBoard answers at `base`, as http://127.0.0.1:6006, and the run's folder lies below its own, as `schools` or
    `radon/two levels`; chains, in folders below it, belong to it. None is TensorBoard's folder itself.
    """
    base = base.rstrip("/")
    pattern = None if run is None else f"^{re.escape(run)}(/|$)"
    series = {"smoothing": "0", "runFilter": pattern}
    panels = {"regexInput": pattern}
    return [
        ("health", f"{base}/?{_query({'pinnedCards': _pins(PINNED), **series})}#timeseries"),
        ("charts", f"{base}/{_tab('custom_scalars', {'_smoothingWeight': '0', **panels})}"),
        (
            "traces",
            f"{base}/?{_query({**series, 'tagFilter': '^trace/', 'runColorGroup': 'regex:(chain_[0-9]+)'})}#timeseries",
        ),
        ("summary", f"{base}/{_tab('text', {'tagFilter': '2_summary', **panels})}"),
        ("posterior", f"{base}/{_tab('distributions', {'tagFilter': '^posterior/', **panels})}"),
        ("figures", f"{base}/{_tab('images', {'tagFilter': '^figures/', **panels})}"),
        ("compare", f"{base}/{_tab('hparams', {})}"),
    ]


def overview(base: str, runs: int) -> list[tuple[str, str]]:
    """Titles and addresses of the views that compare so many runs, without their chains.

    The health of all (worst R-hat, fewest effective draws, effective draws a second), their charts, where the
    page can show so many at once, and the table of settings and results.
    """
    base = base.rstrip("/")
    health = _query({"pinnedCards": _pins(COMPARED), "smoothing": "0", "runFilter": NO_CHAINS})
    charts = _tab("custom_scalars", {"_smoothingWeight": "0", "regexInput": NO_CHAINS})
    views = [("health", f"{base}/?{health}#timeseries")]
    if runs <= SHOWN:
        views.append(("charts", f"{base}/{charts}"))
    return [*views, ("compare", f"{base}/{_tab('hparams', {})}")]


def command(log_dir: str | os.PathLike[str], port: int | str = PORT, host: str = "127.0.0.1") -> list[str]:
    """TensorBoard's command line for a folder of runs."""
    flags = {"--logdir": os.fspath(log_dir), "--host": host, "--port": str(port)}
    flags |= {"--reload_interval": "5", "--samples_per_plugin": KEPT}
    return ["tensorboard", *(word for flag in flags.items() for word in flag)]


def place(log_dir: str | os.PathLike[str]) -> tuple[str, str | None]:
    """TensorBoard's folder for a run and the run's name in it: `runs/schools` is `schools` in `runs`.

    So that several runs compare, that is the parent folder; but the run's own folder, and no name, if the parent holds
    more than runs: if it is the working directory, the home folder, that of temporary files or the root, if it can't be
    listed, or if it has more than 2,000 entries.
    """
    path = Path(os.path.normpath(log_dir))
    parent = path.parent
    shared = {Path.cwd(), Path.home(), Path(tempfile.gettempdir()).resolve(), Path(path.absolute().anchor)}
    alone = path.name in ("", "..") or parent.resolve() in shared or _crowded(parent)
    return (str(path), None) if alone else (str(parent), path.name)


def announcement(log_dir: str | os.PathLike[str]) -> str:
    """What a person who starts a run is told, in one line: its folder, the command, and where its charts are."""
    folder, _ = place(log_dir)
    words = shlex.join(["tensorboard", "--logdir", folder])
    return f"Dashboard of {os.path.normpath(log_dir)}: {words}, at http://localhost:{PORT}/#custom_scalars"


def lines(views: Sequence[tuple[str, str]]) -> list[str]:
    """One indented line a link."""
    width = max((len(title) for title, _ in views), default=0)
    return [f"  {title:{width}}  {url}" for title, url in views]


def _crowded(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(islice(entries, CROWD, None), None) is not None
    except FileNotFoundError:  # it will hold this run alone
        return False
    except OSError:
        return True


def _pins(tags: Sequence[str]) -> str:
    return json.dumps([{"plugin": "scalars", "tag": tag} for tag in tags], separators=(",", ":"))


def _query(values: dict[str, str | None]) -> str:
    return "&".join(f"{key}={quote(value, safe='')}" for key, value in values.items() if value is not None)


def _tab(tab: str, values: dict[str, str | None]) -> str:
    """The tabs of old: name and settings both stand behind the `#`."""
    query = _query(values)
    return f"#{tab}&{query}" if query else f"#{tab}"
