"""Has a model become less robust? Paired comparison with a baseline's stored outcomes."""

from oat_bench.regression.baseline import Baseline, measure_again, read_baseline, update
from oat_bench.regression.comparison import Check, Row, compare

__all__ = ["Baseline", "Check", "Row", "compare", "measure_again", "read_baseline", "update"]
