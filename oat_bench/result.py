"""The evaluation of a classifier, from attacks to a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from oat_bench import datasets, figures, run
from oat_bench.attacks.engines import Attack
from oat_bench.attacks.selection import rank
from oat_bench.benchmark import BenchmarkCard, card_for
from oat_bench.cards import format_eps
from oat_bench.classifier import (
    OperatingPoint,
    TunableClassifier,
    check_fits,
    foreign_ancestors,
)
from oat_bench.datasets import DATA_DIR, Dataset
from oat_bench.evaluation import flags as doubting
from oat_bench.evaluation import grid, stored, survivors
from oat_bench.evaluation.cost import with_attack_costs, with_costs
from oat_bench.evaluation.images import ImageFolder
from oat_bench.evaluation.sharing import Executor, finish
from oat_bench.evaluation.subject import Subject
from oat_bench.files import atomic_write, make_folder
from oat_bench.progress import note
from oat_bench.reports import flags, per_lambda
from oat_bench.reports import run as report
from oat_bench.reports.table import Page
from oat_bench.results import published, robustbench
from oat_bench.results.covered import Covered, beyond, differs, earlier
from oat_bench.results.entries import Entry, EntryAttack, make_entry
from oat_bench.results.outcomes import OutcomeStore, write_parquet
from oat_bench.results.points import PointResult, summarize
from oat_bench.results.published import Published
from oat_bench.run_folder import ENTRY, FIGURES, IMAGES, OUTCOMES, REPORT, STORE
from oat_bench.statistics import frontier
from oat_bench.wrapping import wrap
from oat_bench.zoo import load


@dataclass(frozen=True)
class Result:
    """What an evaluation found of a classifier on a data set; it prints as the table.

    ``entry`` is all of it, as leaderboards read it: accuracies, frontiers, flags, provenance;
    ``outcomes`` has one row for each operating point, attack and example.
    """

    entry: Entry
    outcomes: pd.DataFrame
    classifier: TunableClassifier
    data: Dataset

    @property
    def points(self) -> list[PointResult]:
        """Accuracies of each operating point."""
        return self.entry.operating_points

    @property
    def table(self) -> pd.DataFrame:
        """One row for each operating point: accuracies in percent, with their intervals."""
        return pd.read_csv(StringIO(per_lambda.csv(self.points, self._trained)))

    @property
    def markdown(self) -> str:
        """The table as Markdown, with its title and notes."""
        return self.page.markdown()

    @cached_property
    def page(self) -> Page:
        """The table with its title and notes, for a terminal, as Markdown and LaTeX."""
        entry, info = self.entry, self.classifier.info
        named, label = [info.architecture, info.method.upper()], type(self.classifier).label(info)
        if label in named:
            named = [label]
        title = ", ".join([entry.dataset, *named, f"{entry.threat_model} eps {entry.eps}"])
        return per_lambda.page(
            self.points,
            self._trained,
            title,
            self._published,
            entry.frontiers or (),
            entry.attacks,
            entry.ancestry,
            dial=info.dial,
            random=self.classifier.random,
        )

    @property
    def _trained(self) -> list[float]:
        info = self.classifier.info
        drawn = [point.lam for point in self.points if point.trained]
        return sorted({*info.trained_lambdas, *drawn}) if info.epochs else []

    @property
    def _published(self) -> list[Published]:
        return published.of_entry(published.load(), self.entry, same_method=True)

    def __str__(self) -> str:
        return "\n".join([self.markdown.rstrip(), *flags.lines(self.entry.flags or ())])

    def save(self, folder: str | Path) -> Path:
        """Write ``report.md``, entry, table, outcomes and ``figures``; return the folder."""
        out = make_folder(Path(folder))
        if (there := earlier(out)) is not None:
            had = differs(there[0], self.entry.model_dump()) or beyond(there[1], self.outcomes)
            if had:
                note(f"{out / ENTRY}: replaced; the earlier one had {'; '.join(had)}")
        write_parquet(out / OUTCOMES, self.outcomes)
        atomic_write(out / ENTRY, self.entry.as_json())
        atomic_write(out / "table.md", self.markdown)
        atomic_write(out / "table.csv", per_lambda.csv(self.points, self._trained, self._published))
        atomic_write(out / "table.tex", self.page.latex())
        quoted = published.of_entries([self.entry])
        drawn = figures.draw_report(self.entry, self.classifier, self.data, out / FIGURES, quoted)
        atomic_write(out / REPORT, report.page(self.entry, self.markdown, drawn))
        return out


def evaluate(
    model: TunableClassifier | torch.nn.Module | str | Path | Any,
    *,
    dataset: Dataset | str,
    attacks: str = "all",
    lambdas: Sequence[float] | None = None,
    n_examples: int | None = None,
    fewer_examples: Mapping[str, int] | None = None,
    precision: float | None = None,
    widths: Sequence[float] | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    name: str = "",
    batch_size: int | None = None,
    data_dir: str | Path = DATA_DIR,
    seed: int = 0,
    device: str = "auto",
) -> Result:
    """Attack a model at every lambda, with no card and no folder.

    Args:
        model: a network, images in [0, 1] to logits; an object with ``at(lam)``; what
            `oat_bench.wrap` or `oat_bench.load` returned; or what `oat_bench.load` takes.
        dataset: a name from ``oat-bench list datasets``, the path of a folder of images, or what
            `oat_bench.datasets.load` returned.
        attacks: names from ``oat-bench list attacks`` or paths of cards, comma-separated; ``all``
            is the default suite for the norm and the classes, ``-NAME`` leaves one out.
        lambdas: robustness weights in [0, 1]; the model's own if None.
        n_examples: test images; as many as the data set's benchmark card has if None.
        fewer_examples: by name of an attack, on how many of those that the others leave standing
            at each lambda it runs (docs/two-phase.md); the card's if None.
        precision: half-width in points of the 95% interval of RA, in its place: attacks of several
            parts, as AutoAttack is, run on as many as that takes.
        widths: shares of the channels; all of the model's if None.
        normalize: see `oat_bench.wrap`.
        name: see `oat_bench.wrap`.
        batch_size: images an attack sees at a time; what fills the device if None.
        data_dir: where data sets are looked for, and downloaded to.
        seed: of the attacks.
        device: ``cpu``, ``cuda`` or ``auto``.

    Returns:
        The result: it prints as the table; ``.table``, ``.outcomes``, ``.save(folder)``.

    Raises:
        UserError: if something does not fit, before anything is attacked.
    """
    data = datasets.load(dataset, data_dir) if isinstance(dataset, str) else dataset
    card, where = card_for(data.name), run.choose_device(device)
    if isinstance(model, str | Path):
        classifier = load(model, dataset=data)
    elif isinstance(model, TunableClassifier):
        classifier = model
    else:
        classifier = wrap(
            model, dataset=data, name=name, normalize=normalize, lambdas=lambdas, widths=widths
        )
    info = classifier.info
    card = run.with_evaluation(
        card.model_copy(update={"threat": info.threat}),
        data,
        lambdas=sorted(lambdas or info.trained_lambdas),
        widths=list(widths) if widths else None,
        attacks=attacks,
        n_examples=n_examples,
        fewer_examples=None if fewer_examples is None else dict(fewer_examples),
        precision=precision,
        batch_size=batch_size,
    )
    random = info.method if classifier.random else None
    ready = run.prepare_attacks(card, info.num_classes, seed, random=random)
    command = f"oat_bench.evaluate({info.architecture}, dataset={data.name!r}, attacks={attacks!r})"
    return measured(classifier, card, data, ready, command=command, device=where)


def measured(
    classifier: TunableClassifier,
    card: BenchmarkCard,
    data: Dataset,
    attacks: list[Attack],
    *,
    command: str,
    device: torch.device,
    out: Path | None = None,
    store: OutcomeStore | None = None,
    executor: Executor | None = None,
    images: Literal["safetensors", "png"] | None = None,
    only: bool = False,
) -> Result:
    """Run a card's grid of attacks; ``out`` keeps outcomes, costs and, if asked, ``images``.

    Outcomes go into the ``store``, if one is given; an ``executor`` shares the work out. What the
    report and the store in ``out`` have of the same model besides is covered too, unless ``only``.
    """
    info = classifier.info
    data = check_fits(info, data)
    examples = run.choose_examples(data, card.evaluation.n_examples)
    points = run.choose_points(card, info.method, info.trained_lambdas, info.widths)
    shares = survivors.shares(card, attacks, len(examples))
    subject = Subject(
        classifier.to(device),
        data.test.to(device),
        data.fingerprint(),
        examples,
        store=store or OutcomeStore(None if out is None else make_folder(out / STORE)),
        batch_size=card.evaluation.batch_size,
        gradients=card.evaluation.gradients,
        compile_it=card.evaluation.compile,
        seed=attacks[0].seed if attacks else 0,
        executor=executor,
        **shares,
    )
    folder = ImageFolder(out / IMAGES, png=images == "png") if out and images else None
    outcomes = grid.evaluate(subject, points, attacks, images=folder)
    finish(subject)
    asked, at_points = outcomes, dict.fromkeys(points, attacks)
    place = subject.store.place
    if not only and out is not None and place is not None and place.address == str(out / STORE):
        subject, at_points = stored.widened(subject, points, attacks, card.threat)
        cells = sum(map(len, at_points.values()))
        if cells > len(points) * len(attacks) or len(subject.ids) > len(examples):
            read = partial(grid.evaluate, replace(subject, executor=None), show=False)
            outcomes = pd.concat([read([point], some) for point, some in at_points.items()])
    labelled = {attack.label: attack for some in at_points.values() for attack in some}
    attacks = sorted(labelled.values(), key=lambda attack: rank(attack.label))
    doubts = _doubts(subject, card, at_points, outcomes)
    worst_over = [attack.label for attack in attacks if survivors.within(attack, card)]
    after = {label: one.after for label, one in subject.samples.items()}
    ran = [EntryAttack.of(attack, after.get(attack.label)) for attack in attacks]
    covered = Covered(outcomes, ran, flags.flags(doubts), command)
    about: dict[str, Any] = {
        "model_fingerprint": classifier.fingerprint(),
        "data_fingerprint": data.fingerprint(),
        "threat_model": card.threat.norm,
        "eps": format_eps(card.threat.eps),
        "attack_seed": attacks[0].seed if attacks else None,
        "gradients": card.evaluation.gradients,
        "interpolation": info.interpolation,
        "bridge": info.with_bridge().bridge,
    }
    if not only and out is not None:
        covered = _with_earlier(covered, out, about, asked)
        worst_over = [a.name for a in covered.attacks if a.within(card.threat.eps)]
    design = covered.design(worst_over)
    counted = summarize(covered.outcomes, design, classifier.trained_at)
    counted = with_attack_costs(counted, subject, covered.outcomes, attacks)
    before = None if out is None else out / ENTRY
    results = with_costs(covered.costed(counted), classifier, data.test, device, before)
    known = {key: about[key] for key in about if key not in ("threat_model", "eps")}
    known |= {
        "number_forward_passes": classifier.passes,
        "additional_data": bool(foreign_ancestors(info, data)),
    }
    entry = make_entry(
        info,
        results,
        attacks,
        eps=card.threat.eps,
        norm=card.threat.norm,
        attacks=covered.attacks,
        command=covered.command,
        frontiers=frontier.summarize(covered.outcomes, design),
        dataset=data.name,
        randomized=classifier.random
        or any(one.check.name == "repeat" and one.raised for one in doubts),
        flags=covered.flags,
        **known | robustbench.described(info),
    )
    return Result(entry, covered.outcomes, classifier, data)


def _doubts(
    subject: Subject,
    card: BenchmarkCard,
    at_points: Mapping[OperatingPoint, Sequence[Attack]],
    outcomes: pd.DataFrame,
) -> list[doubting.Doubt]:
    found = []
    for point, attacks in at_points.items():
        same = [attack for attack in attacks if survivors.within(attack, card)]
        rows = outcomes[(outcomes["lam"] == point.lam) & (outcomes["width"] == point.width)]
        rows = rows[rows["attack"].isin([attack.label for attack in same])]
        found += doubting.doubts(subject, rows, same)
    return found


def _with_earlier(
    covered: Covered, out: Path, about: Mapping[str, object], asked: pd.DataFrame
) -> Covered:
    """Take in what the report in a folder has of the same model; say what was not asked for."""
    there = earlier(out)
    if there is not None and not differs(there[0], about):
        covered = covered.joined(*there)
    if more := beyond(covered.outcomes, asked):
        note(f"the report also covers {'; '.join(more)}, from earlier runs; --only leaves that out")
    for missing, lams in covered.lacking().items():
        note(f"no worst case at lambda {lams}: {missing} not run there")
    return covered
