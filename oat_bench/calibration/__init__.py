"""Set a trained model, without training it again, to the accuracies that a use requires.

`calibrate` searches lambda and width on a quarter of the held-out examples, and tests a short
sequence of points on the others, by fixed-sequence testing (Learn then Test, Angelopoulos et al.,
arXiv:2110.01052) along the frontier that the search saw (Pareto testing, Laufer-Goldshtein et al.,
arXiv:2210.07913). What is chosen holds the bar with the confidence asked for, whatever was searched
and however accuracy depends on lambda; every bound is an exact binomial one.

Why not tests of a grid of lambda on all examples? They are as valid. A sequence by lambda alone,
without a search, ends at the first gap: between lambda = 0 and the first trained one standard
accuracy is often lower than beyond. Holm's correction over the grid bears gaps, at about the price
of the quarter that is searched. In 100 draws of 500 of the digits, OATS with its three widths, 21
lambda and PGD-20, the RA of what was chosen was on average

    bar                    this    Holm    by lambda alone
    SA 95%                 31.4    31.0    27.8
    SA 96%                 18.1    15.0    14.6
    SA 95%, one width      29.8    30.7     0.4

(none counts as 0), where the two others chose by attacks on all examples at all points of the grid,
and this one attacked 9% to 14% of that.
"""

from oat_bench.calibration.held_out import HeldOut, held_out
from oat_bench.calibration.model import affordable, calibrate
from oat_bench.calibration.report import Calibration
from oat_bench.calibration.search import Goal
from oat_bench.calibration.strength import strongest

__all__ = ["Calibration", "Goal", "HeldOut", "affordable", "calibrate", "held_out", "strongest"]
