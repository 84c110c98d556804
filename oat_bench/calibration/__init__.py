"""Set a trained model, without training it again, to the accuracies that a use requires.

`calibrate` searches lambda and width on a quarter of the held-out examples, and tests a short
sequence of points on the others (Learn then Test, arXiv:2110.01052) along the frontier that the
search saw (Pareto testing, arXiv:2210.07913); every bound is an exact binomial one. See
``docs/operating-point.md``.
"""

from oat_bench.calibration.inputs import HeldOut, affordable, held_out, jobs, strongest
from oat_bench.calibration.model import calibrate
from oat_bench.calibration.report import Calibration
from oat_bench.calibration.search import Goal

__all__ = [
    "Calibration",
    "Goal",
    "HeldOut",
    "affordable",
    "calibrate",
    "held_out",
    "jobs",
    "strongest",
]
