"""Figures: whole, readable files with the numbers in them."""

import struct
import xml.etree.ElementTree as ET
import zlib

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from oat_bench.evaluation.statistics import WORST, Accuracy, PointResult
from oat_bench.figures import frontier


def accuracy(hits, n=50):
    return Accuracy.of(pd.Series([True] * hits + [False] * (n - hits)))


def make_results(attacks=("fgsm", WORST), lambdas=(0.0, 0.15, 1.0), n=50):
    return [
        PointResult(
            lam,
            1.0,
            accuracy(int(n * (1 - lam / 10)), n),
            {a: accuracy(int(n * lam * (1 - k / 10)), n) for k, a in enumerate(attacks)},
        )
        for lam in lambdas
    ]


def test_both_files_are_whole(tmp_path):
    frontier(make_results(), "digits & <friends>", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"frontier.svg", "frontier.png"}

    root = ET.parse(tmp_path / "frontier.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20

    png = (tmp_path / "frontier.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, kinds = 8, []
    while place < len(png):  # every chunk with its checksum
        (length,) = struct.unpack(">I", png[place : place + 4])
        chunk = png[place + 4 : place + 8 + length]
        (crc,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert zlib.crc32(chunk) == crc
        kinds.append(chunk[:4])
        place += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"


def test_the_picture_is_not_blank(tmp_path):
    frontier(make_results(), "a title", tmp_path)
    pixels = matplotlib.image.imread(tmp_path / "frontier.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 600
    ink = (pixels[..., :3].mean(axis=2) < 0.5).mean()
    assert 0.002 < ink < 0.5
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


def test_the_figure_depends_on_its_numbers_and_nothing_else(tmp_path):
    for name in ("one", "two"):
        frontier(make_results(), "a title", tmp_path / name)
    frontier(make_results(lambdas=(0.0, 0.2, 1.0)), "a title", tmp_path / "other")
    for kind in ("svg", "png"):
        files = [(tmp_path / name / f"frontier.{kind}").read_bytes() for name in ("one", "two")]
        assert files[0] == files[1]
        assert (tmp_path / "other" / f"frontier.{kind}").read_bytes() != files[0]


@pytest.mark.parametrize("attacks", [("fgsm",), ("fgsm", "pgd-7", "autoattack", WORST), (WORST,)])
@pytest.mark.parametrize("lambdas", [(0.5,), (0.0, 1.0)])
@pytest.mark.parametrize("n", [1, 50, 10_000])
def test_any_results_can_be_drawn(tmp_path, attacks, lambdas, n):
    """All right, all wrong, one point, one example: no interval may come out below zero."""
    frontier(make_results(attacks, lambdas, n), "t", tmp_path)
    ET.parse(tmp_path / "frontier.svg")


def test_drawing_leaves_no_figure_open(tmp_path):
    import matplotlib.pyplot as plt

    frontier(make_results(), "t", tmp_path)
    assert plt.get_fignums() == []
