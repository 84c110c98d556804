"""A model checked against a baseline, and the baseline renewed."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from oat_bench.attacks.engines import Attack
from oat_bench.checkpoint import to_bytes
from oat_bench.classifier import TunableClassifier, check_fits, foreign_ancestors
from oat_bench.datasets import Dataset
from oat_bench.deployment import Exported
from oat_bench.errors import UserError
from oat_bench.evaluation.cost import with_costs
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.sharing import Executor, finish
from oat_bench.evaluation.subject import Subject
from oat_bench.files import atomic_write_all
from oat_bench.regression.baseline import Baseline
from oat_bench.regression.comparison import Comparison, compare
from oat_bench.results.entries import EntryAttack, default_name, make_entry, threat_of
from oat_bench.results.outcomes import OutcomeStore, to_parquet
from oat_bench.results.points import summarize
from oat_bench.results.records import PUBLISHED
from oat_bench.run_folder import CHECKPOINT, ENTRY, REPORT
from oat_bench.statistics import frontier


@dataclass(frozen=True)
class Check:
    """A finished check of a classifier, whose outcomes these are."""

    comparison: Comparison
    baseline: Baseline
    classifier: TunableClassifier
    attacks: list[Attack]
    outcomes: pd.DataFrame
    device: torch.device

    @property
    def title(self) -> str:
        """Data set and threat model."""
        return threat_of(self.baseline.record.entry)


def prepare(
    classifier: TunableClassifier, baseline: Baseline, data: Dataset, seed: int | None = None
) -> list[Attack]:
    """Make the baseline's attacks ready, before anything costly begins."""
    baseline.check_model(classifier.info)
    baseline.check_data(data)
    check_fits(classifier.info, data)
    return baseline.prepare(len(data.classes), seed)


def check(
    classifier: TunableClassifier,
    baseline: Baseline,
    data: Dataset,
    *,
    max_drop: float = 1.0,
    confidence: float = 0.95,
    strict: bool = False,
    seed: int | None = None,
    device: torch.device | None = None,
    store: OutcomeStore | None = None,
    executor: Executor | None = None,
    show: bool = True,
) -> Check:
    """Evaluate what the baseline holds outcomes of, and compare example by example.

    ``max_drop`` is in points; ``strict``: see `compare`; ``seed`` is of the attacks, the baseline's
    if None. What does not go together is a `UserError`.
    """
    attacks = prepare(classifier, baseline, data, seed)
    data, device = check_fits(classifier.info, data), device or torch.device("cpu")
    classifier, images = classifier.to(device), data.test.to(device)
    store, gradients = store or OutcomeStore(None), baseline.record.entry.gradients
    subject = Subject(
        classifier,
        images,
        data.fingerprint(),
        store=store,
        gradients=gradients,
        seed=attacks[0].seed,
        samples=baseline.samples(),
        executor=executor,
    )
    frames = []
    for examples, names in baseline.shares():
        part = replace(subject, examples=examples)
        asked = [attack for attack in attacks if attack.label in names]
        frames.append(evaluate(part, baseline.points, asked, show=show))
    finish(subject)
    outcomes = pd.concat(frames, ignore_index=True)
    comparison = compare(
        baseline.outcomes,
        outcomes,
        baseline.design(),
        max_drop=max_drop,
        confidence=confidence,
        strict=strict,
    )
    return Check(comparison, baseline, classifier, attacks, outcomes, device)


def kept_because(baseline: Baseline, classifier: TunableClassifier) -> str | None:
    """Say why a model is not to become the baseline; None if it may."""
    if isinstance(classifier, Exported):
        return "a baseline is of a checkpoint; check the one that the file was exported from"
    if not baseline.whole:
        return (
            "a baseline is updated as a whole; leave out --attacks and --lambda, or "
            "--update-baseline"
        )
    file, of_run = baseline.record.entry_path, (CHECKPOINT, REPORT)
    if file.name == ENTRY and any(file.with_name(name).exists() for name in of_run):
        return (
            f"{file.parent} is the folder of a run, and stays; copy its entry.json and "
            "outcomes.parquet as NAME.json and NAME.parquet, and give --baseline NAME.json"
        )
    return None


def renew(done: Check, data: Dataset, command: str) -> list[Path]:
    """Make the model the baseline: entry, outcomes and, if one lies beside, checkpoint.

    All or none is replaced; tables and reports beside them are of the old model and go.
    """
    reason = kept_because(done.baseline, done.classifier)
    if done.comparison.failed:
        reason = "the check failed; the baseline stays"
    if reason is not None:
        raise UserError(reason)
    record, classifier = done.baseline.record, done.classifier
    data = check_fits(classifier.info, data)
    old, design = record.entry, done.baseline.design()
    results = summarize(done.outcomes, design, classifier.trained_at)
    results = with_costs(results, classifier, data.test, done.device, record.entry_path)
    # the cards are those of the baseline, also where only the entry still knows them
    cards = {attack.name: attack.card for attack in old.attacks}
    run = [EntryAttack.of(attack, design.after.get(attack.label)) for attack in done.attacks]
    described = ["authors", "venue", "link", "footnote", "gradients"]
    if old.name != default_name(old.method, old.architecture):
        described.append("name")
    entry = make_entry(
        classifier.info,
        results,
        done.attacks,
        attacks=[one.model_copy(update={"card": cards[one.name]}) for one in run],
        model_fingerprint=classifier.fingerprint(),
        command=command,
        eps=record.eps,
        norm=old.threat_model,
        frontiers=frontier.summarize(done.outcomes, design),
        dataset=data.name,
        data_fingerprint=data.fingerprint(),
        additional_data=old.additional_data or bool(foreign_ancestors(classifier.info, data)),
        **{key: getattr(old, key) for key in described},
    )
    contents: dict[Path, bytes | str] = {
        record.outcomes_path: to_parquet(done.outcomes),
        record.entry_path: entry.as_json(),
    }
    checkpoint = record.beside(CHECKPOINT)
    if checkpoint.exists():
        contents[checkpoint] = to_bytes(classifier)
    atomic_write_all(contents)
    for path in {record.beside(name) for name in PUBLISHED} - contents.keys():
        path.unlink(missing_ok=True)
    return sorted(contents)
