"""A plugin of pytest: the fixture `robust_accuracy`. Heavy imports wait until it is used."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from oat_bench.classifier import TunableClassifier
    from oat_bench.datasets import Dataset
    from oat_bench.evaluation.statistics import Accuracy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of oat-bench."""
    group = parser.getgroup("oat-bench")
    group.addoption(
        "--oat-data-dir", default="data", metavar="DIR", help="Where data sets are looked for."
    )


@dataclass(frozen=True)
class RobustAccuracy:
    """What `robust_accuracy` is: call it to measure, or have it `check` against a baseline.

    Attributes:
        data_dir: where data sets are looked for.
    """

    data_dir: Path

    def __call__(
        self,
        model: "str | Path | TunableClassifier",
        *,
        lam: float,
        attack: str = "pgd-20",
        width: float = 1.0,
        n_examples: int | None = None,
        dataset: str | None = None,
        seed: int = 0,
    ) -> "Accuracy":
        """Measure robust accuracy under a model's own threat model.

        Args:
            model: a checkpoint, a run's folder, or a classifier.
            lam: in [0, 1].
            attack: an attack card, by name or path.
            width: share of the channels.
            n_examples: the first of the nested order of the test set; all if None.
            dataset: the folder of images of a model that was trained on one.
            seed: of the attack.

        Returns:
            Percent, with its 95% Wilson interval: ``value``, ``low``, ``high`` and ``n``.
        """
        from oat_bench import cards, datasets
        from oat_bench.attacks import prepare
        from oat_bench.classifier import OperatingPoint
        from oat_bench.evaluation.grid import evaluate
        from oat_bench.evaluation.statistics import summarize

        classifier, data = self._load(model, dataset)
        info = classifier.info
        ready = prepare(cards.attack(attack), info.threat, n_classes=info.num_classes, seed=seed)
        outcomes = evaluate(
            classifier,
            data.test,
            [OperatingPoint(lam, width)],
            [ready],
            data_fingerprint=data.fingerprint(),
            examples=datasets.nested_order(data.test.labels)[:n_examples],
            show=False,
        )
        (result,) = summarize(outcomes, [])
        return result.robust[ready.card.name]

    def check(
        self,
        model: "str | Path | TunableClassifier",
        *,
        baseline: str | Path,
        max_drop: float = 1.0,
        confidence: float = 0.95,
        dataset: str | None = None,
        seed: int = 0,
    ) -> None:
        """Fail the test where the model is less robust than a baseline, as `oat-bench check` does.

        Args:
            model: a checkpoint, a run's folder, or a classifier.
            baseline: a run's folder, or an entry with its outcomes beside it.
            max_drop: tolerated drop in points.
            confidence: that a model which kept within the tolerance passes.
            dataset: the folder of images of a model that was trained on one.
            seed: of the attacks.
        """
        import torch

        from oat_bench import regression
        from oat_bench.evaluation.outcomes import OutcomeStore
        from oat_bench.regression import formats

        classifier, data = self._load(model, dataset)
        before = regression.read_baseline(baseline)
        now = regression.measure_again(
            before, classifier, data, OutcomeStore(None), seed=seed, device=torch.device("cpu")
        )
        result = regression.compare(
            before.outcomes,
            now,
            before.record.worst_over(),
            max_drop=max_drop,
            confidence=confidence,
        )
        if result.verdict == "worse":
            pytest.fail("\n" + formats.markdown(result), pytrace=False)

    def _load(
        self, model: "str | Path | TunableClassifier", dataset: str | None
    ) -> "tuple[TunableClassifier, Dataset]":
        from oat_bench import datasets
        from oat_bench.classifier import load
        from oat_bench.run import check_fits

        classifier = load(model) if isinstance(model, str | Path) else model
        data = datasets.load(dataset or classifier.info.dataset, self.data_dir)
        check_fits(classifier.info, data)
        return classifier, data


@pytest.fixture(scope="session")
def robust_accuracy(request: pytest.FixtureRequest) -> RobustAccuracy:
    """Measure robust accuracy, or check it against a baseline; see `RobustAccuracy`."""
    return RobustAccuracy(Path(request.config.getoption("--oat-data-dir")))
