"""Colours of figures can be told apart with any colour vision, by matrices and distances of others."""

import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from hiertorch.palette import BLACK, BLUE, ORANGE, SERIES

DICHROMATS = {  # Machado, Oliveira & Fernandes (2009), severity 1.0, of linear RGB
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "normal": np.eye(3),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour, vision):
    """CIE L*a*b* (D65) of an sRGB colour (IEC 61966-2-1), as it is seen."""
    c = np.array(to_rgb(colour))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    x = XYZ @ np.clip(np.array(DICHROMATS[vision]) @ linear, 0.0, 1.0) / XYZ.sum(1)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours, vision):
    """The smallest CIE76 distance of two of them; 2.3 is just noticeable."""
    return min(np.linalg.norm(lab(a, vision) - lab(b, vision)) for a, b in itertools.combinations(colours, 2))


def test_white_and_red_have_the_coordinates_of_the_tables():
    assert np.allclose(lab("#ffffff", "normal"), [100, 0, 0], atol=0.02)
    assert np.allclose(lab("#ff0000", "normal"), [53.24, 80.09, 67.20], atol=0.05)  # Lindbloom


@pytest.mark.parametrize("vision", DICHROMATS)
def test_colours_differ_in_all_eyes(vision):
    assert nearest(SERIES, vision) > 14
    assert nearest([BLUE, ORANGE, BLACK], vision) > 40


def test_palettes_that_are_not_for_all_are_found():
    assert nearest([*SERIES[:-1], "#c8be28"], "deuteranopia") < 7  # a yellow that was too dark
    tab10 = [colormaps["tab10"](k) for k in range(8)]
    assert min(nearest(tab10, vision) for vision in DICHROMATS) < 5
