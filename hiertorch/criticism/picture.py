"""A figure that a notebook shows, whether or not pyplot has been used in it."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure of matplotlib that is none of pyplot's.

    IPython shows figures as pictures only once pyplot's inline backend is there; until then it asks an object for its
    PNG.
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()
