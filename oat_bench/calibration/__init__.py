"""Set a trained model, without training it again, to the accuracies that a use requires.

`calibrate` searches lambda and width on a quarter of the held-out examples, and tests a short
sequence of points on the others, by fixed-sequence testing (Learn then Test, Angelopoulos et al.,
arXiv:2110.01052) along the frontier that the search saw (Pareto testing, Laufer-Goldshtein et al.,
arXiv:2210.07913). What is chosen holds the bar with the confidence asked for, whatever was searched
and however accuracy depends on lambda; every bound is an exact binomial one.

Why not all examples for tests of a grid of lambda? It is as valid. A sequence by lambda alone,
without a search, ends at the first gap: between lambda = 0 and the first trained one standard
accuracy is often lower than beyond. Holm's correction over a grid bears gaps, at a price that the
quarter for the search does not exceed: on 500 of the digits, with 21 lambda at three widths and a
bar of SA at 95% (96%), it reached an RA of 31% (15%) on average, this one 33% (18%), and a sequence
by lambda 29% (15%); at one width 31%, 30% and 0.4%. It attacks a tenth to a third of the grid.
"""

from oat_bench.calibration.held_out import HeldOut, held_out
from oat_bench.calibration.model import affordable, calibrate
from oat_bench.calibration.report import Calibration
from oat_bench.calibration.search import Goal

__all__ = ["Calibration", "Goal", "HeldOut", "affordable", "calibrate", "held_out"]
