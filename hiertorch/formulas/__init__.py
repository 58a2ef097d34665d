"""Models from formulas, `y ~ x * z + (x | school)`: text is taken apart, frames are encoded, and an ordinary `ht.Model`
comes out.
"""
