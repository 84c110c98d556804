"""Figures: a file for each kind, each drawn from what lies on disk, in one style."""

from oat_bench.figures.accuracies import by_lambda, cost, unseen
from oat_bench.figures.batch_norm import bn_statistics
from oat_bench.figures.calibration import calibration
from oat_bench.figures.frontiers import attacks, frontier, widths
from oat_bench.figures.jacobian import saliency
from oat_bench.figures.report import CAPTIONS, draw_report, of_run
from oat_bench.figures.style import NotApplicableError, svg, write
from oat_bench.figures.transfer import transfer

__all__ = ["CAPTIONS", "NotApplicableError", "draw_report", "of_run", "svg", "write"]
__all__ += ["attacks", "bn_statistics", "by_lambda", "calibration", "cost", "frontier", "saliency"]
__all__ += ["transfer", "unseen", "widths"]
