"""Figures: a file for each kind, each drawn from what lies on disk, in one style."""

from oat_bench.figures.accuracies import by_lambda as by_lambda
from oat_bench.figures.accuracies import cost as cost
from oat_bench.figures.accuracies import unseen as unseen
from oat_bench.figures.batch_norm import bn_statistics as bn_statistics
from oat_bench.figures.calibration import calibration as calibration
from oat_bench.figures.frontiers import attacks as attacks
from oat_bench.figures.frontiers import frontier as frontier
from oat_bench.figures.frontiers import widths as widths
from oat_bench.figures.jacobian import saliency as saliency
from oat_bench.figures.report import CAPTIONS as CAPTIONS
from oat_bench.figures.report import draw_report as draw_report
from oat_bench.figures.report import of_run as of_run
from oat_bench.figures.style import NotApplicableError as NotApplicableError
from oat_bench.figures.style import svg as svg
from oat_bench.figures.style import write as write
from oat_bench.figures.transfer import transfer as transfer
