"""Row by row: has an accuracy dropped by more than is tolerated, beyond chance?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t, ttest_1samp

from oat_bench.evaluation import pairs
from oat_bench.evaluation.integrity import holm
from oat_bench.evaluation.statistics import WORST, in_common

Verdict = Literal["ok", "worse", "better"]

#: the column of standard accuracy
SA = "SA"
#: the chance that a drop of the size called detectable is found
POWER = 0.8
_PAIR = ["lam", "width", "attack", "example"]


@dataclass(frozen=True)
class Row:
    """One accuracy of both models on the same examples, in percent and points.

    Attributes:
        lam: where; None for the mean over all operating points.
        width: share of the channels; None likewise.
        attack: whose RA; `SA` for clean images, ``worst`` for the worst case.
        n: number of examples.
        baseline: the accuracy of the baseline.
        now: that of the model.
        change: ``now`` less ``baseline``.
        low: lower end of the interval of the change, at the confidence of the check.
        high: upper end.
        p_drop: of the drop being within the tolerance, corrected by Holm for all rows.
        p_gain: of the gain being within the tolerance, corrected likewise.
        detectable: the smallest drop that this n finds with a chance of `POWER`, in points.
        verdict: ``worse`` if a drop beyond the tolerance is supported, ``better`` if a gain is.
    """

    lam: float | None
    width: float | None
    attack: str
    n: int
    baseline: float
    now: float
    change: float
    low: float
    high: float
    p_drop: float
    p_gain: float
    detectable: float
    verdict: Verdict


@dataclass(frozen=True)
class Check:
    """A model against a baseline.

    Attributes:
        rows: by operating point and attack, means over operating points last.
        max_drop: tolerance in points.
        confidence: of the whole: the chance that no row of a model that dropped by no more than the
            tolerance is called worse.
    """

    rows: list[Row]
    max_drop: float
    confidence: float

    @property
    def verdict(self) -> Verdict:
        """``worse`` if a row is, else ``better`` if one is."""
        found = {row.verdict for row in self.rows}
        return "worse" if "worse" in found else "better" if "better" in found else "ok"


@dataclass(frozen=True)
class _Paired:
    """What one row is made of: right (1) or not of both models, or shares of operating points."""

    lam: float | None
    width: float | None
    attack: str
    examples: NDArray[np.int64]
    before: NDArray[np.float64]
    now: NDArray[np.float64]


def compare(
    baseline: pd.DataFrame,
    now: pd.DataFrame,
    worst_over: Sequence[str],
    *,
    max_drop: float = 1.0,
    confidence: float = 0.95,
) -> Check:
    """Compare outcomes in pairs.

    A drop at one operating point is tested by Tango's score test (`oat_bench.evaluation.pairs`),
    that of the mean over operating points by a t-test of each example's mean; all tests of a check
    are corrected by Holm's method (Scandinavian Journal of Statistics 6, 1979).

    Args:
        baseline: outcomes, as `oat_bench.evaluation.grid.evaluate` returns them.
        now: those of the model, of the same points, attacks and examples.
        worst_over: the attacks of the worst case.
        max_drop: tolerated drop in points, in [0, 100).
        confidence: in (0, 1).

    Raises:
        ValueError: if the two are not of the same points, attacks and examples.
    """
    found = _pairs(baseline, now, worst_over)
    tested = [_test(pair, max_drop / 100) for pair in found]
    drops = holm([p for p, _ in tested])
    gains = holm([p for _, p in tested])
    rows = []
    for pair, p_drop, p_gain in zip(found, drops, gains, strict=True):
        low, high = _interval(pair, confidence)
        verdict: Verdict = "ok"
        if p_drop <= 1 - confidence:
            verdict = "worse"
        elif p_gain <= 1 - confidence:
            verdict = "better"
        before, after = 100 * float(pair.before.mean()), 100 * float(pair.now.mean())
        rows.append(
            Row(
                pair.lam,
                pair.width,
                pair.attack,
                len(pair.now),
                before,
                after,
                after - before,
                100 * low,
                100 * high,
                p_drop,
                p_gain,
                100 * _detectable(pair, max_drop / 100, 1 - confidence, len(found)),
                verdict,
            )
        )
    return Check(rows, max_drop, confidence)


def _pairs(baseline: pd.DataFrame, now: pd.DataFrame, worst_over: Sequence[str]) -> list[_Paired]:
    before, after = (frame.set_index(_PAIR).sort_index() for frame in (baseline, now))
    if not before.index.equals(after.index) or not before.index.is_unique:
        raise ValueError("the outcomes are not of the same points, attacks and examples")
    found = []
    order = list(dict.fromkeys(baseline["attack"]))
    for place, rows in before.groupby(["width", "lam"], sort=True):
        width, lam = (float(str(value)) for value in place)
        same = after.loc[rows.index]
        series = {SA: (_clean(rows), _clean(same))}
        for name in order:
            if name in rows.index.unique("attack"):
                series[name] = (_robust(rows, [name]), _robust(same, [name]))
        if len([name for name in worst_over if name in series]) > 1:
            series[WORST] = (_robust(rows, worst_over), _robust(same, worst_over))
        found += [
            _Paired(lam, width, name, _ids(first), _values(first), _values(second))
            for name, (first, second) in series.items()
        ]
    return found + _means(found)


def _means(found: Sequence[_Paired]) -> list[_Paired]:
    """Return the mean over operating points of each attack that saw the same examples at all."""
    points = {(pair.lam, pair.width) for pair in found}
    means = []
    for name in dict.fromkeys(pair.attack for pair in found) if len(points) > 1 else ():
        several = [pair for pair in found if pair.attack == name]
        ids = several[0].examples
        if len(several) == len(points) and all(np.array_equal(p.examples, ids) for p in several):
            before = np.mean([pair.before for pair in several], axis=0)
            now = np.mean([pair.now for pair in several], axis=0)
            means.append(_Paired(None, None, name, ids, before, now))
    return means


def _clean(rows: pd.DataFrame) -> "pd.Series[bool]":
    right = rows["clean_prediction"] == rows["label"]
    return right.groupby("example").first()


def _robust(rows: pd.DataFrame, attacks: Sequence[str]) -> "pd.Series[bool]":
    """Say which examples are right clean and under all of some attacks, of those that all saw."""
    shared = in_common(rows.reset_index(), attacks)
    right = (shared["clean_prediction"] == shared["label"]) & (
        shared["attacked_prediction"] == shared["label"]
    )
    return right.groupby(shared["example"]).all()


def _ids(right: "pd.Series[bool]") -> NDArray[np.int64]:
    return right.index.to_numpy(dtype=np.int64)


def _values(right: "pd.Series[bool]") -> NDArray[np.float64]:
    return right.to_numpy().astype(np.float64)


def _counts(pair: _Paired) -> tuple[int, int, int]:
    gained = int(((pair.before == 0) & (pair.now == 1)).sum())
    lost = int(((pair.before == 1) & (pair.now == 0)).sum())
    return gained, lost, len(pair.now)


def _test(pair: _Paired, tolerance: float) -> tuple[float, float]:
    """Return the p-values of the drop, and of the gain, being within the tolerance."""
    if pair.lam is not None:
        gained, lost, n = _counts(pair)
        return (
            pairs.drop_p_value(gained, lost, n, tolerance),
            pairs.drop_p_value(lost, gained, n, tolerance),
        )
    difference = pair.now - pair.before
    return _mean_below(difference, -tolerance), _mean_below(-difference, -tolerance)


def _mean_below(values: NDArray[np.float64], bound: float) -> float:
    """Return the one-sided p-value of a mean being no lower than a bound (Student's t)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return 0.0 if len(values) > 1 and values[0] < bound else 1.0
    return float(ttest_1samp(values, bound, alternative="less").pvalue)


def _interval(pair: _Paired, confidence: float) -> tuple[float, float]:
    if pair.lam is not None:
        return pairs.interval(*_counts(pair), confidence)
    difference = pair.now - pair.before
    if len(difference) < 2:
        return -1.0, 1.0
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    margin = float(t.ppf(0.5 + confidence / 2, len(difference) - 1) * error)
    return float(difference.mean()) - margin, float(difference.mean()) + margin


def _detectable(pair: _Paired, tolerance: float, level: float, tests: int) -> float:
    """Return the smallest drop that is found with a chance of `POWER` at the strictest level."""
    n = len(pair.now)
    z = float(norm.ppf(1 - level / tests) + norm.ppf(POWER))
    difference = pair.now - pair.before
    spread = float(np.mean(difference**2))

    def lacking(drop: float) -> float:
        # whoever drops has at least as many discordant examples
        return drop - tolerance - z * float(np.sqrt(max(spread, drop) / n))

    return float(brentq(lacking, tolerance, 1.0)) if lacking(1.0) > 0 else 1.0
