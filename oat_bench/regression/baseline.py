"""A baseline: an entry with its outcomes, and the evaluation that they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor

from oat_bench.attacks.card import AttackCard
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.cards import Threat
from oat_bench.classifier import (
    ModelInfo,
    OperatingPoint,
    TunableClassifier,
    check_lambdas,
    check_widths,
)
from oat_bench.complaints import explain
from oat_bench.datasets import DATASETS, Dataset
from oat_bench.deployment import Exported
from oat_bench.errors import UserError, unknown
from oat_bench.evaluation.survivors import Sample
from oat_bench.results import records, validation
from oat_bench.results.entries import EntryAttack
from oat_bench.results.records import Record
from oat_bench.statistics.phases import Design

_SAME_EPS = 1e-5  # an entry writes eps in six digits


@dataclass(frozen=True)
class Baseline:
    """What a model is checked against: attacks and points of an entry, with their outcomes."""

    record: Record
    attacks: list[EntryAttack]
    points: list[OperatingPoint]
    outcomes: pd.DataFrame

    @property
    def whole(self) -> bool:
        """Whether all that the entry holds is checked."""
        entry, held = self.record.entry, (len(self.attacks), len(self.points))
        return held == (len(entry.attacks), len(entry.operating_points))

    def design(self) -> Design:
        """Return the attacks of the worst case, none unless all are checked, and the two-phase."""
        names, whole = {attack.name for attack in self.attacks}, self.record.design()
        after = {name: first for name, first in whole.after.items() if name in names}
        return Design(whole.worst_over if names.issuperset(whole.worst_over) else (), after)

    def restricted(
        self,
        attacks: Sequence[str] | None = None,
        lambdas: Sequence[float] | None = None,
        widths: Sequence[float] | None = None,
    ) -> "Baseline":
        """Return the baseline with some of its attacks, lambda and widths; None: all.

        What attacks on survivors were run after comes with them.
        """
        names, points, rows = [attack.name for attack in self.attacks], self.points, self.outcomes
        for name in attacks or ():
            if name not in names:
                raise unknown("attack of the baseline", name, names)
        for what, key, asked in (("lambda", "lam", lambdas), ("width", "width", widths)):
            known = sorted({getattr(point, key) for point in self.points})
            for value in asked or ():
                if value not in known:
                    has = ", ".join(f"{each:g}" for each in known)
                    raise UserError(f"{what} {value:g} is not of the baseline; it has {has}")
            points = [point for point in points if asked is None or getattr(point, key) in asked]
        after = self.design().after
        chosen = {one for name in attacks or names for one in (name, *after.get(name, ()))}
        kept = [attack for attack in self.attacks if attack.name in chosen]
        if not kept or not points:
            raise UserError("nothing of the baseline is chosen; name an attack and a lambda")
        here = rows["attack"].isin([attack.name for attack in kept])
        here &= rows["lam"].isin({point.lam for point in points})
        here &= rows["width"].isin({point.width for point in points})
        return replace(self, attacks=kept, points=points, outcomes=rows[here])

    def part_for(
        self,
        classifier: TunableClassifier,
        attacks: Sequence[str] | None = None,
        lambdas: Sequence[float] | None = None,
    ) -> "Baseline":
        """Return what a model is checked against: of an exported file what it was exported at."""
        widths = None
        if isinstance(classifier, Exported):
            lambdas = classifier.choose_lambdas(None if lambdas is None else list(lambdas))
            widths = classifier.info.widths
        part = self.restricted(attacks, lambdas, widths)
        part.check_model(classifier.info)
        return part

    def check_model(self, info: ModelInfo) -> None:
        """Refuse a model of another data set or threat model, or without the operating points."""
        entry, eps = self.record.entry, self.record.eps
        # of folders, `check_data` compares the images
        named = {entry.dataset, info.dataset}
        if len(named) > 1 and named & DATASETS.keys():
            raise UserError(
                f"the model is of data set {info.dataset!r}, the baseline of {entry.dataset!r}"
            )
        theirs = info.threat
        if theirs.norm != entry.threat_model or abs(theirs.eps - eps) > _SAME_EPS * eps:
            raise UserError(
                f"the model is of threat model {theirs.norm} eps {theirs.eps:g}, the baseline of "
                f"{entry.threat_model} eps {entry.eps}; only models of one threat model compare"
            )
        check_widths(info.widths, (point.width for point in self.points))
        check_lambdas(info.method, info.trained_lambdas, (point.lam for point in self.points))

    def check_data(self, data: Dataset) -> None:
        """Refuse data that do not hold the baseline's examples."""
        entry = self.record.entry
        published = {data.name, entry.dataset} & DATASETS.keys()
        if data.name != entry.dataset and (published or not entry.data_fingerprint):
            raise UserError(
                f"the data set is {data.name!r}, that of the baseline {entry.dataset!r}; name the "
                "baseline's with --dataset"
            )
        # entries of before data sets were hashed have none
        if entry.data_fingerprint not in ("", data.called(entry.dataset).fingerprint()):
            raise UserError(
                f"the images of {data.name!r} are not those that the baseline was measured on; "
                "evaluate the model of the baseline on these"
            )
        ids = self.outcomes["example"].to_numpy()
        outside = ids[(ids < 0) | (ids >= len(data.test))]
        if len(outside):
            raise UserError(
                f"example {outside[0]} of the baseline is missing; the test set of {data.name!r} "
                f"has {len(data.test)}"
            )
        labels = data.test.labels.cpu().numpy()[ids]
        if not np.array_equal(labels, self.outcomes["label"].to_numpy()):
            raise UserError(
                f"the labels of {data.name!r} are not those of the baseline's examples; it was "
                "measured on other images"
            )

    def prepare(self, n_classes: int, seed: int | None = None) -> list[Attack]:
        """Make the attacks ready as they were run, by shipped cards where these are unchanged.

        The seed is the baseline's if None.
        """
        entry, ready = self.record.entry, []
        if seed is None:  # of before it was recorded: a run takes one seed for all
            seed = entry.seed if entry.attack_seed is None else entry.attack_seed
        for attack in self.attacks:
            try:
                own = attack.model_dump(exclude={"card", "after"})
                card = attack.shipped() or AttackCard.model_validate(own)
                # the step size, which an entry does not record, is in the parameters by now
                threat = Threat.model_validate({"norm": entry.threat_model, "eps": attack.eps})
            except ValidationError as error:
                raise UserError(
                    f"{self.record.entry_path}: attack {attack.name!r} cannot be run: "
                    f"{explain(error, AttackCard)}"
                ) from error
            known = {part.name: part.parameters for part in attack.chain()}
            ready.append(prepare(card, threat, n_classes=n_classes, seed=seed, recorded=known))
        return ready

    def shares(self) -> list[tuple[Tensor, list[str]]]:
        """Return ids of examples, in the order of evaluation, and the attacks on them.

        Those on survivors are with their first phase.
        """
        groups: dict[tuple[int, ...], list[str]] = {}
        after = self.design().after
        first = self.outcomes.drop_duplicates(["attack", "example"])
        for name, rows in first[~first["attack"].isin(after.keys())].groupby("attack", sort=False):
            groups.setdefault(tuple(rows["example"]), []).append(str(name))
        for name, others in after.items():
            ids = next((k for k, v in groups.items() if others and others[0] in v), None)
            groups[ids or max(groups, key=len)].append(name)
        return [(torch.tensor(ids), names) for ids, names in groups.items()]

    def samples(self) -> dict[str, Sample]:
        """Return what each attack on survivors sees of another model: as many as of this one."""
        points = [
            point.robust_acc
            for point in self.record.entry.operating_points
            if OperatingPoint(point.lam, point.width) in self.points
        ]
        found = {}
        for name, first in self.design().after.items():
            counts = [one[name].sampled for one in points if name in one]
            # where all that stood were attacked there is no number
            known = [count for count in counts if count is not None]
            found[name] = Sample(first, max(known) if known else len(self.outcomes))
        return found


def read(path: str | Path) -> Baseline:
    """Read a run's folder or an entry, with its outcomes."""
    record = records.read(path)
    outcomes = record.outcomes()
    if outcomes is None:
        raise UserError(
            f"{record.entry_path} has no outcomes beside it (no {record.outcomes_path}); a "
            "baseline is a run's folder, or its entry.json and outcomes.parquet as NAME.json and "
            "NAME.parquet"
        )
    found = validation.contradictions(record)
    if found:
        raise UserError(f"{record.entry_path}: no baseline: {found[0]}; evaluate the model again")
    plain = outcomes[~outcomes["attack"].isin(record.design().after.keys())]
    seen = plain.groupby(["lam", "width", "attack"])["example"].agg(frozenset)
    if (seen.groupby("attack").nunique() > 1).any():
        raise UserError(
            f"{record.outcomes_path}: an attack saw other examples at another operating point; "
            "evaluate the model again"
        )
    points = [OperatingPoint(point.lam, point.width) for point in record.entry.operating_points]
    return Baseline(record, list(record.entry.attacks), points, outcomes)
