"""A pytest plugin: the fixture `robust_accuracy` measures, and checks against a baseline.

::

    def test_the_model_is_robust(robust_accuracy):
        assert robust_accuracy("model.safetensors", lam=0.4, attack="pgd-20").low > 35

    def test_the_model_is_no_worse(robust_accuracy):
        robust_accuracy.check("model.safetensors", baseline="baseline.json", max_drop=1.0)

pytest finds the plugin where oat-bench is installed. ``--oat-data-dir`` says where data sets lie.
Nothing heavy is imported before a test uses the fixture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from oat_bench.classifier import TunableClassifier
    from oat_bench.cli.context import Context
    from oat_bench.datasets import Dataset
    from oat_bench.regression.comparison import Comparison
    from oat_bench.statistics.accuracy import Accuracy

    Model = str | Path | TunableClassifier


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--oat-data-dir``."""
    parser.getgroup("oat-bench").addoption(
        "--oat-data-dir",
        metavar="FOLDER",
        default="data",
        help="where oat-bench looks for data sets, and downloads them to (default: data)",
    )


class RobustAccuracy:
    """What the fixture `robust_accuracy` is; data sets are looked for in ``data_dir``."""

    def __init__(self, data_dir: str | Path) -> None:
        self.data_dir = Path(data_dir)
        self._loaded: dict[tuple[object, ...], Dataset] = {}

    def __call__(
        self,
        model: "Model",
        *,
        lam: float,
        attack: str = "pgd-20",
        n_examples: int | None = None,
        width: float = 1.0,
        seed: int = 0,
        dataset: str | None = None,
        data_dir: str | Path | None = None,
    ) -> "Accuracy":
        """Attack test images under the threat model that the model was trained for.

        Args:
            model: a classifier, or what `oat_bench.load` takes.
            lam: robustness weight in [0, 1].
            attack: an attack card, by name or path.
            n_examples: how many test images, stratified; all if None.
            width: share of the channels.
            seed: of the attack's random numbers.
            dataset: data set or folder of images; the model's if None.
            data_dir: instead of ``--oat-data-dir``.

        Returns:
            ``value``, the percentage of images that are right both clean and attacked, ``low`` and
            ``high``, the ends of its 95% Wilson interval, and their number ``n``.

        Raises:
            UserError: if model, attack and data do not exist or do not go together.
        """
        from oat_bench.attacks.card import attack_card
        from oat_bench.attacks.engines import prepare
        from oat_bench.classifier import OperatingPoint
        from oat_bench.evaluation.grid import evaluate
        from oat_bench.evaluation.subject import Subject
        from oat_bench.results.points import summarize
        from oat_bench.run import choose_examples
        from oat_bench.statistics.phases import Design

        context = self._context(model, dataset, data_dir)
        classifier, data = context.trained, context.data
        examples = choose_examples(data, n_examples)
        card = attack_card(attack)
        ready = prepare(card, classifier.info.threat, n_classes=len(data.classes), seed=seed)
        subject = Subject(classifier, data.test, data.fingerprint(), examples, seed=seed)
        outcomes = evaluate(subject, [OperatingPoint(lam, width)], [ready], show=False)
        (result,) = summarize(outcomes, Design())
        return result.robust[ready.label].model_copy(update={"n": len(examples)})

    def check(
        self,
        model: "Model",
        *,
        baseline: str | Path,
        max_drop: float = 1.0,
        confidence: float = 0.95,
        attacks: Sequence[str] | None = None,
        lambdas: Sequence[float] | None = None,
        seed: int | None = None,
        dataset: str | None = None,
        data_dir: str | Path | None = None,
    ) -> "Comparison":
        """Fail the test if a drop beyond the tolerance is supported, as ``oat-bench check`` does.

        Args:
            model: as in a call of the fixture, like what is not named here.
            baseline: a run's folder, or an entry's JSON file with its outcomes beside it.
            max_drop: the drop that is tolerated, in points.
            confidence: family-wise confidence of the verdicts.
            attacks: some of the baseline's attacks, by name; all if None.
            lambdas: some of its lambda values; all if None.
            seed: of the attacks' random numbers; the baseline's if None.
            dataset: folder of images, where the baseline is of one.
            data_dir: instead of ``--oat-data-dir``.

        Returns:
            The comparison, every accuracy before and now, and which drops so many examples find.

        Raises:
            AssertionError: naming each accuracy that dropped.
            UserError: if model, baseline and data do not go together.
        """
        __tracebackhide__ = True
        from oat_bench.regression import baseline as baselines
        from oat_bench.regression.check import check
        from oat_bench.reports import check as formats

        context = self._context(model, dataset, data_dir)
        against = baselines.read(baseline).part_for(context.trained, attacks, lambdas)
        done = check(
            context.trained,
            against,
            context.data,
            max_drop=max_drop,
            confidence=confidence,
            seed=seed,
            show=False,
        )
        if done.comparison.verdict == "worse":
            raise AssertionError(formats.plain(formats.Report(done, context.name, str(baseline))))
        return done.comparison

    def _context(
        self, model: "Model", dataset: str | None, data_dir: str | Path | None
    ) -> "Context":
        import torch

        from oat_bench.cli.context import Context

        named = str(model) if isinstance(model, str | Path) else "the classifier"
        place = Path(data_dir or self.data_dir)
        context = Context(named, dataset, place, loaded=self._loaded)
        context.where = torch.device("cpu")
        if not isinstance(model, str | Path):
            context.trained = model
        return context


@pytest.fixture(scope="session")
def robust_accuracy(request: pytest.FixtureRequest) -> RobustAccuracy:
    """Measure the robust accuracy of a classifier, or ``check`` it against a baseline."""
    return RobustAccuracy(request.config.getoption("--oat-data-dir"))
