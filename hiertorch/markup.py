"""What objects show in notebooks: HTML without colours of its own, so that it is read in light and dark themes, in
which every label is escaped.
"""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROWS = 40
"""Of a table that are shown; of more, the first and the last."""

STYLE = "white-space: pre-wrap; background: none; color: inherit"


def text(words: str) -> str:
    """Lines as they are printed."""
    return f'<pre style="{STYLE}">{html.escape(words)}</pre>'


def shown(self: object) -> str:
    """What an object prints, for a class that takes this as its `_repr_html_`."""
    return text(str(self))


def table(frame: "pd.DataFrame") -> str:
    """A table, in so many digits as are read: whole numbers of draws, four digits of others."""
    counts = {name: "{:,.0f}".format for name in map(str, frame) if name.startswith("ess")}
    page = frame.to_html(border=0, max_rows=ROWS, float_format="{:.4g}".format, formatters=counts, na_rep="-")
    return f'<div style="color: inherit; overflow-x: auto">{page}</div>'.replace(
        "<table", '<table style="color: inherit"'
    )
