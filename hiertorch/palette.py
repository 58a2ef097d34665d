"""The colours of all figures, which readers with any kind of colour vision can tell apart (Okabe & Ito 2008, "Color
universal design"). Their yellow is a little darker, to be seen on white, and no darker than that: it would look like
the amber to readers who see no green.
"""

BLUE, ORANGE, BLACK, GREY = "#0072b2", "#d55e00", "#222222", "#787878"

SERIES = (BLUE, "#e69f00", "#009e73", "#cc79a7", ORANGE, "#56b4e9", BLACK, "#e3d800")
"""Of chains, categories and other things side by side, in this order; the ninth is like the first."""

LIGHT, PALE, PALER = "#dedede", "#bebebe", "#eaeaea"
"""Greys of what lies behind."""
