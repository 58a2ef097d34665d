"""Settings of the documentation: `sphinx-build -W -n docs build/docs`, from the top of the repository.

Pages are MyST. Those that open with a `jupytext` header are notebooks, run when the site is built; their outputs are
kept in build/docs-cache, so that a page that has not changed is not run again.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

import hiertorch  # noqa: E402

# What notebooks begin with: warnings as sentences, without the name of a temporary file.
STARTUP = '''
import textwrap
import warnings


def one_sentence(message, category, *where, **more):
    """SamplingWarning: text, in lines that fit a page."""
    return textwrap.fill(f"{category.__name__}: {message}", 96, subsequent_indent="  ") + chr(10)


warnings.formatwarning = one_sentence
'''
profile = HERE.parent / "build" / "ipython"
(profile / "profile_default" / "startup").mkdir(parents=True, exist_ok=True)
(profile / "profile_default" / "startup" / "docs.py").write_text(STARTUP)
os.environ["IPYTHONDIR"] = str(profile)

project = "hiertorch"
author = "the hiertorch authors"
copyright = author
release = version = hiertorch.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "plain_docstrings",
]
exclude_patterns = ["_extensions"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "docs-cache")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
smartquotes = False  # "a" stays what one would type
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True  # attributes of classes as a list
napoleon_use_rtype = False
default_role = "literal"  # `x` in docstrings is code
# Types of signatures stand in other packages, whose inventories a build without a network can't read; what pages and
# docstrings refer to on purpose is checked.
nitpick_ignore_regex = [("py:.*", ".*")]

suppress_warnings = ["myst.header"]  # of decisions.md, whose levels say how old a decision is

html_theme = "pydata_sphinx_theme"
html_title = "hiertorch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Pages that have none below them need no column for these.
html_sidebars = {
    page: []
    for page in (
        "start",
        "models",
        "formulas",
        "classes",
        "sampling",
        "command",
        "performance",
        "faq",
        "search",
        "genindex",
    )
}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "hiertorch"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_end": ["theme-switcher"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_exclude = ".linenos, .gp, .go"
