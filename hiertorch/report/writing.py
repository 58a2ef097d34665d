"""One HTML file that says what was fitted, whether it can be believed, and what came out.

The file needs nothing beside it: no script, no font, no picture from elsewhere. It opens with a verdict and what to
look at; the sections follow in the order in which a reader asks. One that can't be made says why in its place.
"""

import os
from pathlib import Path

from hiertorch.draws.archive import checked_path, whole
from hiertorch.draws.fit import Fit
from hiertorch.errors import RunFolderError
from hiertorch.report.page import page
from hiertorch.report.sections import every, verdict
from hiertorch.runtime.silence import hushed, quiet


def write(posterior: Fit, path: str | os.PathLike[str]) -> Path:
    """Write the report of a posterior, whole or not at all, and give the path of the file, whose folders are made. Of a
    posterior without model and data, the sections that need them say so. A RunFolderError says if it can't be written.
    """
    from matplotlib import rc_context

    path = checked_path(path)
    if path.is_dir():
        raise RunFolderError(f"can't write {path}: it is a folder. Name a file in it, such as {path / 'report.html'}.")
    plain = rc_context({"text.parse_math": False})  # in figures, too: a group may be called "$x$"
    with whole(path) as file, hushed(), quiet(), plain:  # what a reader should know stands in the report
        sections, concerns, left = every(posterior)
        title = str(posterior.run.get("formula") or posterior.run.get("model", "model"))
        text = page(title, verdict(posterior, concerns, left), sections)
        file.write(text.encode())
    return path
