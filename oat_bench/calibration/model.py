"""Calibration of a trained model: what answers the search's questions, and what it costs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oat_bench.acceleration import Precision
from oat_bench.attacks.engines import Attack
from oat_bench.calibration import procedure
from oat_bench.calibration.inputs import caution, cheaper
from oat_bench.calibration.report import Calibration, CalibrationPoint, Passes, WidthCost
from oat_bench.calibration.search import Goal, starting_lambdas
from oat_bench.cards import format_eps
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split, nested_order
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.stages import usual
from oat_bench.evaluation.subject import Subject
from oat_bench.progress import Bar
from oat_bench.progress import passes as passes_bar
from oat_bench.results.entries import versions
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.statistics.accuracy import robust_right
from oat_bench.statistics.frontier import Bools, Ints

GRID = 21  # lambda values of the grid that costs are compared with


@dataclass
class ModelProbe:
    """Answers whether a trained model is right; counts the images that it takes."""

    subject: Subject
    attack: Attack
    predicted: int = 0
    attacked: int = 0
    line: Bar | None = None  # is told of each stage
    _clean: dict[OperatingPoint, Tensor] = field(default_factory=dict)
    _seen: dict[OperatingPoint, Bools] = field(default_factory=dict)

    def clean(self, point: OperatingPoint, examples: Ints) -> Bools:
        """Say which clean images are right at a point."""
        labels = self.subject.data.labels
        ids = torch.from_numpy(examples).to(labels.device)
        known = self._clean.setdefault(point, torch.full_like(labels, -1))
        lacking = ids[known[ids] < 0]
        if len(lacking):
            known[lacking] = self.subject.at(point, len(lacking)).clean(lacking)
            self.predicted += len(lacking)
        return np.asarray((known[ids] == labels[ids]).cpu().numpy())

    def robust(self, point: OperatingPoint, examples: Ints) -> Bools:
        """Say which images are right at a point both clean and attacked."""
        seen = self._seen.setdefault(point, np.zeros(len(self.subject.data), np.bool_))
        self.attacked += int((self.clean(point, examples) & ~seen[examples]).sum())
        seen[examples] = True
        subject = replace(self.subject, examples=torch.from_numpy(examples))
        if self.line is not None:
            expected = self.expected(len(examples))
            self.line.begin(self.attack.label, expected, self.line.text)
        rows = evaluate(subject, [point], [self.attack], show=False)
        return robust_right(rows).to_numpy(dtype=np.bool_)

    def expected(self, images: int) -> float:
        """Return the passes that an attack on images is thought to take."""
        return images * sum(usual(one) * one.passes.total for one in self.attack.parts())


def calibrate(
    classifier: TunableClassifier,
    data: Split,
    attack: Attack,
    goal: Goal,
    *,
    data_fingerprint: str,
    confidence: float = 0.95,
    widths: Sequence[float] | None = None,
    examples: Tensor | None = None,
    store: OutcomeStore | None = None,
    gradients: Precision = "float32",
    batch_size: int | None = None,
    held_out: str = "held-out",
    costs: Sequence[WidthCost] = (),
    command: str = "",
    show: bool = True,
) -> Calibration:
    """Find the operating point that is best in one accuracy and holds a bar in the other.

    The chance that the chosen point is below the bar is at most ``1 - confidence``, over all points
    that were tried; too few examples to pass it are a `UserError`. RA is guaranteed under
    ``attack``, from `oat_bench.attacks.engines.prepare`; the search may take a `cheaper` one.

    ``data`` are images that the model was not trained on, on the classifier's device; ``examples``
    places there, every first share stratified (None: all). Outcomes that the store holds under
    ``data_fingerprint`` are not computed again. ``held_out``, what the images are, ``costs``, from
    `affordable`, and ``command`` are for the report.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number in (0, 1)")
    info, shares, smooth = classifier.info, widths or classifier.info.widths, classifier.continuous
    ids = nested_order(data.labels) if examples is None else examples.cpu()
    store = store or OutcomeStore(None)
    how: dict[str, Any] = {"batch_size": batch_size, "gradients": gradients}
    subject = Subject(classifier, data, data_fingerprint, store=store, **how)
    probe, tester = ModelProbe(subject, cheaper(attack)), ModelProbe(subject, attack)
    lambdas = starting_lambdas(info.trained_lambdas, continuous=smooth)
    n_search, n_test = procedure.split(len(ids), goal, confidence)
    # about: points are dropped, and others looked at
    n_points = len(lambdas) * len(shares)
    expected = defaultdict(float, {probe.attack.label: probe.expected(n_points * n_search)})
    expected[attack.label] += tester.expected(n_test)
    with passes_bar("calibrating", expected, show=show) as line:
        probe.line = tester.line = line
        outcome = procedure.run(
            probe,
            goal,
            lambdas,
            shares,
            ids.numpy(),
            confidence=confidence,
            continuous=smooth,
            tester=tester,
            said=line.note,
        )
    points = (GRID if smooth else len(lambdas)) * len(shares)
    # what comes out is predicted too
    each, each_searched = attack.passes.total + 1, probe.attack.passes.total + 1
    predicted, attacked = probe.predicted + tester.predicted, probe.attacked + tester.attacked
    passes = predicted + each_searched * probe.attacked + each * tester.attacked
    clean = sum(one.sa.share for one in outcome.found) / len(outcome.found)
    whole, right = points * len(ids), round(points * len(ids) * clean)
    of_model = ("dataset", "architecture", "method", "selection")
    counted = ("n_search", "n_test", "needed", "choice")
    known: dict[str, Any] = {key: getattr(info, key) for key in of_model}
    return Calibration(
        **known | {key: getattr(outcome, key) for key in counted},
        held_out=held_out,
        threat_model=attack.threat.norm,
        eps=format_eps(attack.threat.eps),
        attack=attack.label,
        search_attack=probe.attack.label,
        caution=caution(attack),
        card=attack.card.fingerprint(),
        seed=attack.seed,
        gradients=gradients,
        goal=goal.kind,
        value=goal.value,
        confidence=confidence,
        widths=list(shares),
        costs=list(costs),
        points=_points(outcome, classifier),
        spent=Passes(predicted=predicted, attacked=attacked, passes=passes),
        grid=Passes(predicted=whole, attacked=right, passes=whole + each * right),
        grid_points=points,
        model_fingerprint=classifier.fingerprint(),
        data_fingerprint=data_fingerprint,
        command=command,
        versions=versions(),
    )


def _points(outcome: procedure.Outcome, classifier: TunableClassifier) -> list[CalibrationPoint]:
    planned = {one: place for place, one in enumerate(outcome.sequence, 1)}
    tests = {test.place: test for test in outcome.tested}
    return [
        CalibrationPoint(
            lam=one.point.lam,
            width=one.point.width,
            trained=classifier.trained_at(one.point.lam),
            sa=one.sa,
            ra=one.ra,
            dropped=one.dropped,
            planned=planned.get(one),
            test=tests.get(planned.get(one, 0)),
        )
        for one in outcome.found
    ]
