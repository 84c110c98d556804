"""The baseline of a check: what was measured of which examples, and how to measure it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from oat_bench.attacks import Attack, prepare
from oat_bench.cards import AttackCard, Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Dataset, nested_order
from oat_bench.errors import UserError, unknown
from oat_bench.evaluation import frontier
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.outcomes import OutcomeStore, write_parquet
from oat_bench.evaluation.statistics import summarize
from oat_bench.files import atomic_write
from oat_bench.leaderboards.entries import EntryAttack, make_entry
from oat_bench.leaderboards.records import Record, read


@dataclass(frozen=True)
class Baseline:
    """A published or local result with the outcomes behind it.

    Attributes:
        record: the entry.
        outcomes: as `oat_bench.evaluation.grid.evaluate` returns them.
    """

    record: Record
    outcomes: pd.DataFrame

    def only(self, attacks: Sequence[str] | None, lams: Sequence[float] | None) -> "Baseline":
        """Return the baseline of some attacks and lambda alone.

        Raises:
            UserError: if it does not have one.
        """
        rows = self.outcomes
        known = list(dict.fromkeys(rows["attack"]))
        for name in attacks or ():
            if name not in known:
                raise unknown("attack in the baseline", name, known)
        for lam in lams or ():
            if lam not in set(rows["lam"]):
                have = ", ".join(f"{value:g}" for value in sorted(set(rows["lam"])))
                raise UserError(f"the baseline has no lambda {lam:g}; it has {have}")
        rows = rows[rows["attack"].isin(attacks or known)]
        return Baseline(self.record, rows[rows["lam"].isin(lams or set(rows["lam"]))])


def read_baseline(path: str | Path) -> Baseline:
    """Read an entry, or a run's folder, and its outcomes.

    Raises:
        UserError: if one is missing or damaged.
    """
    record = read(path)
    outcomes = record.outcomes()
    if outcomes is None or outcomes.empty:
        raise UserError(
            f"{path} has no outcomes of its examples; expected a run's folder, or an entry with "
            "its .parquet beside it"
        )
    return Baseline(record, outcomes)


def attack_of(entry: EntryAttack, threat: Threat, *, n_classes: int, seed: int) -> Attack:
    """Make the attack of an entry ready again, from what the entry says of it.

    Raises:
        UserError: if there is no such attack any more, or it takes other parameters.
    """
    card = AttackCard.model_validate(
        {
            "name": entry.name,
            "engine": entry.engine,
            "class": entry.class_,
            "eps": entry.eps,
            "parameters": entry.parameters,
        }
    )
    return prepare(card, threat, n_classes=n_classes, seed=seed)


def measure_again(
    baseline: Baseline,
    classifier: TunableClassifier,
    data: Dataset,
    store: OutcomeStore,
    *,
    seed: int,
    device: torch.device,
) -> pd.DataFrame:
    """Evaluate a classifier on the examples, operating points and attacks of a baseline.

    Args:
        baseline: to be compared with.
        classifier: on the device.
        data: the data set of both.
        store: where outcomes go, and come from where they are there already.
        seed: of the attacks.
        device: where to compute.

    Returns:
        As `oat_bench.evaluation.grid.evaluate`.

    Raises:
        UserError: if the two do not go together.
    """
    entry, rows = baseline.record.entry, baseline.outcomes
    _check_alike(baseline, classifier, data)
    threat = classifier.info.threat
    frames = []
    for place, here in rows.groupby(["lam", "width"]):
        lam, width = (float(str(value)) for value in place)
        for name in dict.fromkeys(here["attack"]):
            (stated,) = [attack for attack in entry.attacks if attack.name == name]
            attack = attack_of(stated, threat, n_classes=classifier.info.num_classes, seed=seed)
            wanted = here.loc[here["attack"] == name, "example"]
            frames.append(
                evaluate(
                    classifier,
                    data.test.to(device),
                    [OperatingPoint(lam, width)],
                    [attack],
                    data_fingerprint=data.fingerprint(),
                    examples=_in_order(wanted, data),
                    store=store,
                    gradients=entry.gradients,
                )
            )
    return pd.concat(frames, ignore_index=True)


def _in_order(examples: pd.Series, data: Dataset) -> Tensor:
    """Put ids in the nested order of the data set, as evaluations do."""
    order = nested_order(data.test.labels)
    wanted = torch.zeros(len(order), dtype=torch.bool)
    wanted[torch.as_tensor(examples.to_numpy().copy())] = True
    return order[wanted[order]]


def _check_alike(baseline: Baseline, classifier: TunableClassifier, data: Dataset) -> None:
    entry, info, rows = baseline.record.entry, classifier.info, baseline.outcomes
    if entry.dataset != info.dataset:
        raise UserError(
            f"the baseline is of data set {entry.dataset!r}, the model of {info.dataset!r}"
        )
    ours = (info.threat.norm, info.threat.eps)
    if entry.threat_model != ours[0] or abs(baseline.record.eps - ours[1]) > 1e-5 * ours[1]:
        raise UserError(
            f"the baseline is of {entry.threat_model} eps {entry.eps}, the model of {ours[0]} eps "
            f"{ours[1]:g}; only models of one threat model compare"
        )
    known = [attack.name for attack in entry.attacks]
    for name in dict.fromkeys(rows["attack"]):
        if known.count(name) != 1:
            raise UserError(f"{baseline.record.path}: the entry does not say what {name!r} was")
    ids = rows["example"]
    n, classes = len(data.test), len(data.classes)
    if ids.min() < 0 or ids.max() >= n:
        raise UserError(
            f"the baseline has examples up to {ids.max()}, the test set of {data.name} has {n}; "
            "they are of different images"
        )
    labels = data.test.labels.numpy()[ids.to_numpy()]
    if not (labels == rows["label"].to_numpy()).all() or rows["label"].max() >= classes:
        raise UserError(
            f"the labels of the baseline are not those of {data.name}; its outcomes are of "
            "different images"
        )
    for lam in sorted(set(rows["lam"])):
        classifier.check_lambda(float(lam), info.trained_lambdas)
    for width in sorted(set(rows["width"])):
        if width not in info.widths:
            have = ", ".join(f"{known:g}" for known in info.widths)
            raise UserError(f"the baseline has width {width:g}; the network has {have}")


def update(
    baseline: Baseline,
    classifier: TunableClassifier,
    outcomes: pd.DataFrame,
    *,
    seed: int,
    command: str,
) -> None:
    """Make a model the baseline: write its entry and its outcomes in the place of the old ones.

    Args:
        baseline: all of it.
        classifier: the new one.
        outcomes: from `measure_again`.
        seed: of the attacks.
        command: what made the outcomes.
    """
    record, info = baseline.record, classifier.info
    attacks = [
        attack_of(stated, info.threat, n_classes=info.num_classes, seed=seed)
        for stated in record.entry.attacks
    ]
    worst_over = record.worst_over()
    entry = make_entry(
        info,
        summarize(outcomes, worst_over),
        attacks,
        model_fingerprint=classifier.fingerprint(),
        command=command,
        eps=info.threat.eps,
        norm=info.threat.norm,
        gradients=record.entry.gradients,
        frontiers=frontier.summarize(outcomes, worst_over),
    )
    # outcomes first: an entry never stands beside those of another model
    write_parquet(record.outcomes_path, outcomes)
    atomic_write(record.entry_path, entry.model_dump_json(indent=2, by_alias=True) + "\n")
