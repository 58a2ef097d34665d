"""The parts of a page: everything that comes from data or models goes through `escape` here."""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #ffffff; --tint: #f4f6f9; --good: #1f7a4d;
  --bad: #b3261e; --look: #9a6200; --link: #1d5fa8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a4adba; --line: #39424f; --paper: #14181e;
  --tint: #1d232b; --good: #6fcf9a; --bad: #ff8a80; --look: #f0b860; --link: #8ab8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, ul { margin: .4rem 0 .8rem; max-width: 46rem; }
li { margin: .2rem 0; }
a { color: var(--link); }
nav { margin: 1rem 0; font-size: .9rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
.soft { color: var(--soft); font-size: .9rem; }
.verdict { border-left: 6px solid var(--soft); background: var(--tint); padding: .8rem 1rem; margin: 1rem 0; }
.verdict p { margin: 0 0 .3rem; }
.verdict strong { font-size: 1.1rem; }
.verdict.good { border-color: var(--good); } .verdict.good strong { color: var(--good); }
.verdict.bad { border-color: var(--bad); } .verdict.bad strong { color: var(--bad); }
.verdict.look { border-color: var(--look); } .verdict.look strong { color: var(--look); }
.note { border-left: 4px solid var(--look); padding: .1rem 0 .1rem .8rem; }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; font: .8rem/1.45 ui-monospace, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: 0 0 .3rem; }
th, td { padding: .22rem .7rem .22rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
tbody th { text-align: left; font-weight: 400; }
th.text, td.text { text-align: left; white-space: normal; }
td.beyond { color: var(--bad); font-weight: 700; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: 4px; border-radius: 3px; }
figcaption { color: var(--soft); font-size: .875rem; max-width: 46rem; margin-top: .3rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { font-size: 15px; padding: 1rem .8rem 3rem; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; } }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --tint: #f4f4f4; --good: #14532d; --bad: #8b1a13;
    --look: #6b4500; --link: #000; color-scheme: light; }
  @page { margin: 16mm 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  h2 { margin-top: 1.4rem; }
  figure, tr, pre, .verdict { break-inside: avoid; }
  figure img { max-height: 230mm; padding: 0; }
  thead { display: table-header-group; }
  table { font-size: 8pt; } th, td { padding: .1rem .45rem .1rem 0; white-space: normal; }
  pre { white-space: pre-wrap; font-size: 7pt; } .scroll, pre { overflow: visible; }
  a { text-decoration: none; } .verdict a { display: none; }
}
"""
"""Of the whole page, on screens light and dark, and on paper."""


@dataclass(frozen=True)
class Section:
    """A heading, and its parts in HTML."""

    name: str  # of its anchor
    title: str
    parts: Sequence[str]


def page(title: str, verdict: str, sections: Iterable[Section]) -> str:
    """The whole file."""
    sections = list(sections)
    links = " ".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)
    body = "\n".join(
        f'<section id="{s.name}">\n<h2>{escape(s.title)}</h2>\n' + "\n".join(s.parts) + "\n</section>" for s in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}: report of a fit</h1>\n{verdict}\n<nav>{links}</nav>\n</header>\n"
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """A sentence that stands out."""
    return paragraph(text, "note")


def items(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def preformatted(text: str) -> str:
    """Text whose lines and columns stay as they are."""
    return f"<pre>{escape(text)}</pre>"


def picture(png: bytes, alt: str, caption: str) -> str:
    """A picture that lies in the file itself."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def term_list(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and what they are."""
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(str(b))}</dd>" for a, b in pairs) + "</dl>"


def table(frame: pd.DataFrame, caption: str = "", beyond: pd.DataFrame | None = None) -> str:
    """A table whose numbers are aligned; cells that are True in `beyond` stand out."""
    index = [level or "" for level in frame.index.names]
    heads = [f'<th class="text" scope="col">{escape(str(name))}</th>' for name in index]
    words = {column: not pd.api.types.is_numeric_dtype(frame[column]) for column in frame}
    heads += [f'<th scope="col"{" class=text" if words[column] else ""}>{escape(str(column))}</th>' for column in frame]
    rows = []
    for i, (key, row) in enumerate(zip(frame.index, frame.itertuples(index=False), strict=True)):
        keys = key if isinstance(key, tuple) and len(index) > 1 else (key,)
        cells = [f'<th scope="row">{escape(str(part))}</th>' for part in keys]
        for k, (column, x) in enumerate(zip(frame, row, strict=True)):
            kind = "beyond" if beyond is not None and bool(beyond.iat[i, k]) else "text" if words[column] else ""
            cells.append(f"<td{f' class={kind}' if kind else ''}>{escape(shown(str(column), x))}</td>")
        rows.append("<tr>" + "".join(cells) + "</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{"".join(heads)}</tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def shown(column: str, x: object) -> str:
    """A number with the digits that its column asks for."""
    if isinstance(x, bool | np.bool_) or not isinstance(x, int | float | np.number):
        return str(x)
    x = float(x)
    if math.isnan(x):
        return "-"
    if column == "elpd":
        return f"{x:,.1f}"
    if "r_hat" in column:
        return f"{x:.3f}"
    if "ess_" in column or (x.is_integer() and abs(x) < 1e9):
        return f"{x:,.0f}"
    return f"{x:,.0f}" if 1e3 <= abs(x) < 1e9 else f"{x:.3g}"
