"""The evaluation grid: every lambda against every attack."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from oat_bench.acceleration import (
    Precision,
    accelerate,
    choose_batch_size,
    choose_compile,
    operations_per_image,
)
from oat_bench.attacks.engines import Attack
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.evaluation.blocks import Blocks
from oat_bench.evaluation.images import ImageFolder, Kept
from oat_bench.files import sha256
from oat_bench.progress import Bar, bar
from oat_bench.results.outcomes import COLUMNS, CellInfo, OutcomeStore

#: the columns of `evaluate`'s result
KEYS = ["lam", "width", "attack", "example", "label", "clean_prediction", "attacked_prediction"]


def evaluate(
    classifier: TunableClassifier,
    data: Split,
    points: Sequence[OperatingPoint],
    attacks: Sequence[Attack],
    *,
    data_fingerprint: str,
    examples: Tensor | None = None,
    fewer: Mapping[str, int] | None = None,
    store: OutcomeStore | None = None,
    images: ImageFolder | None = None,
    batch_size: int | None = None,
    gradients: Precision = "float32",
    compile_it: bool | None = None,
    show: bool = True,
) -> pd.DataFrame:
    """Attack a classifier at every operating point with every attack.

    An example that the classifier already gets wrong counts as broken by every attack; it is not
    attacked. An attack made of parts (AutoAttack) shows each part only what the parts before it
    left standing, of all examples together. What a targeted attack takes for another class than the
    target stands, and is written down as predicted right. Outcomes that the store holds are not
    computed again.

    On one machine an outcome depends on neither batch size nor order, nor on what else was asked
    for: in-house attacks draw random numbers for the example, and attacks of other libraries see
    their block of the data set (`oat_bench.evaluation.blocks`), all of it.

    Args:
        classifier: on the device of the data.
        data: the test split; an example's id is its place there.
        points: operating points.
        attacks: attacks made ready by `oat_bench.attacks.prepare`.
        data_fingerprint: names the data in the store.
        examples: ids to evaluate; all if None.
        fewer: for some attacks, by name, how many of the examples, from the first.
        store: where outcomes go; memory if None.
        images: where attacked images go, those of examples that are wrong already too; outcomes in
            the store without their images are computed again. None: they are not kept.
        batch_size: examples an in-house attack sees at a time; what fills the device if None.
        gradients: precision that attacks compute in; predictions are float32.
        compile_it: whether to compile the networks; None: where it pays.
        show: whether to draw a progress bar.

    Returns:
        One row for each operating point, attack and example: lam, width, attack, example, label,
        clean_prediction, attacked_prediction.
    """
    store = store or OutcomeStore(None)
    wanted = torch.arange(len(data)) if examples is None else examples.cpu()
    counts = {a.card.name: (fewer or {}).get(a.card.name, len(wanted)) for a in attacks}
    shares = {name: wanted[:count] for name, count in counts.items()}
    passes = sum(len(shares[attack.card.name]) * attack.passes for attack in attacks)
    total = len(points) * sum(len(share) for share in shares.values())
    fingerprints = (classifier.fingerprint(), data_fingerprint, gradients)
    blocks = Blocks(data.labels)
    frames = []
    if images is not None:
        images.announce(total, data.images[0])
    with bar("evaluating", total, show=show) as line:
        for point in points:
            subject = Subject(
                classifier,
                point,
                data,
                blocks,
                batch_size,
                gradients,
                compile_it,
                passes * len(points),
            )
            for attack in attacks:
                line.note(f"{_where(point)}, {attack.label}")
                share = shares[attack.card.name]
                rows = _attacked(subject, attack, share, store, fingerprints, line, images)
                frames.append(rows.assign(lam=point.lam, width=point.width, attack=attack.label))
    return pd.concat(frames, ignore_index=True)[KEYS]


class Subject:
    """A classifier at one operating point, built only where something is missing."""

    def __init__(
        self,
        classifier: TunableClassifier,
        point: OperatingPoint,
        data: Split,
        blocks: Blocks,
        batch_size: int | None,
        gradients: Precision,
        compile_it: bool | None,
        passes: float,
    ) -> None:
        self.classifier, self.point, self.data, self.blocks = classifier, point, data, blocks
        self.gradients, self._passes = gradients, passes
        self._asked_batch_size, self._asked_compile = batch_size, compile_it
        self._clean = torch.full_like(data.labels, -1)

    @cached_property
    def _plain(self) -> nn.Module:
        return self.classifier.at(self.point.lam, self.point.width)

    @cached_property
    def _operations(self) -> float:
        return operations_per_image(self._plain, self.data.inputs(slice(1)))

    @cached_property
    def batch_size(self) -> int:
        """How many examples an attack sees at a time."""
        device = self.data.labels.device
        return self._asked_batch_size or choose_batch_size(device, self._operations)

    def _accelerated(self, precision: Precision) -> nn.Module:
        compile_it = self._asked_compile
        if compile_it is None:
            device = self.data.labels.device
            compile_it = choose_compile(None, device, self._operations * self._passes)
        return accelerate(self._plain, precision=precision, compile_it=compile_it)

    @cached_property
    def exact(self) -> nn.Module:
        """What attacks see in float32, and what predicts but where the classifier is a file."""
        return self._accelerated("float32")

    @cached_property
    def searched(self) -> nn.Module:
        """What attacks see."""
        return self.exact if self.gradients == "float32" else self._accelerated(self.gradients)

    @cached_property
    def _deployed(self) -> nn.Module | None:
        return self.classifier.deployed(self.point.lam, self.point.width)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Classify images; by the file itself, where the classifier is one.

        Raises:
            UserError: if the file is not what it is attacked as.
        """
        logits: Tensor = self.exact(x)
        if self._deployed is not None and len(x):
            from oat_bench.deployment.description import check_alike

            own = self._deployed(x)
            check_alike(own, logits)
            logits = own
        return logits.argmax(1)

    @torch.no_grad()
    def clean(self, ids: Tensor) -> Tensor:
        """Predict clean images; each only once."""
        for index in torch.split(ids[self._clean[ids] < 0], self.batch_size):
            self._clean[index] = self.predict(self.data.inputs(index))
        return self._clean[ids]

    @torch.no_grad()
    def attacked(self, attack: Attack, ids: Tensor, kept: Kept | None = None) -> Tensor:
        """Attack images; predict what comes out, or the label where a target was missed."""
        x_adv = self.craft(attack, ids)
        if kept is not None:
            kept.add(ids, x_adv)
        predicted, labels = self.predict(x_adv), self.data.labels[ids]
        if attack.targeted:
            aim = attack.aim(self.exact, self.data.inputs(ids), labels, ids)
            predicted = torch.where(attack.stands(predicted, aim), labels, predicted)
        return predicted

    @torch.no_grad()
    def craft(self, attack: Attack, ids: Tensor) -> Tensor:
        """Attack images."""
        x = self.data.inputs(ids)
        aim = attack.aim(self.exact, x, self.data.labels[ids], ids)
        x_adv = self._attack(attack, self.searched, x, aim, ids)
        if self.searched is not self.exact:
            # an attack that took for broken what only rounding broke has not searched to its end
            stands = attack.stands(self.exact(x_adv).argmax(1), aim)
            unsure = stands & ~attack.stands(self.searched(x_adv).argmax(1), aim)
            if unsure.any():
                again = (part[unsure] for part in (x, aim, ids))
                x_adv[unsure] = self._attack(attack, self.exact, *again)
        return x_adv

    def keep(
        self,
        store: OutcomeStore,
        cell: str,
        about: Callable[[], CellInfo],
        ids: Tensor,
        clean: Tensor,
        attacked: Tensor,
    ) -> None:
        """Add what was predicted of examples to a cell."""
        columns = (ids, self.data.labels[ids], clean, attacked)
        values = {k: v.cpu().numpy() for k, v in zip(COLUMNS, columns, strict=True)}
        store.describe(cell, about)
        store.append(cell, pd.DataFrame(values))

    @staticmethod
    def _attack(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        with torch.enable_grad():
            return attack(model, x, y, ids)


def _attacked(
    subject: Subject,
    attack: Attack,
    wanted: Tensor,
    store: OutcomeStore,
    fingerprints: tuple[str, ...],
    line: Bar,
    images: ImageFolder | None,
) -> pd.DataFrame:
    """Return the outcomes of an attack, part by part, one row an example, in the order asked."""
    standing = wanted if attack.per_example else subject.blocks.whole(wanted)
    parts, outcomes = attack.parts(), pd.DataFrame()
    asked = np.zeros(len(subject.data), dtype=np.bool_)
    asked[wanted.numpy()] = True
    kept = lacking = None
    if images is not None and attack.card.engine != "file":
        kept = Kept(images, _cell(subject.point, attack, fingerprints))
        lacking = None if kept.holds(wanted.numpy()) else kept

    def done(examples: np.ndarray) -> None:
        line.advance(int(asked[examples].sum()))

    rules = subject.classifier.rules([subject.point.lam])
    for place, part in enumerate(parts, 1):
        cell = _cell(subject.point, part, (*fingerprints, *rules))
        about = partial(describe, subject, attack, fingerprints, part=place)
        last = done if part is parts[-1] else None
        rows = _fill(subject, part, standing, store, cell, about, last, lacking)
        outcomes = rows if part is parts[0] else rows.combine_first(outcomes)
        broken = rows["attacked_prediction"] != rows["label"]
        if part is not parts[-1]:
            done(rows.index[broken].to_numpy())
        standing = torch.as_tensor(rows.index[~broken].to_numpy().copy())
    if lacking is not None:
        _keep_wrong(subject, attack, outcomes, lacking)
    if kept is not None:
        kept.write(describe(subject, attack, fingerprints), wanted.numpy(), subject.data.labels)
    return outcomes.loc[wanted.numpy()].astype("int64").reset_index()


def _keep_wrong(subject: Subject, attack: Attack, outcomes: pd.DataFrame, kept: Kept) -> None:
    """Attack what is wrong already, for its images alone: elsewhere it may be right."""
    wrong = outcomes.index[outcomes["clean_prediction"] != outcomes["label"]].to_numpy()
    for batch in batches(subject, attack, torch.as_tensor(wrong.copy())):
        ids = batch.to(subject.data.labels.device)
        kept.add(ids, subject.craft(attack, ids))


def _fill(
    subject: Subject,
    attack: Attack,
    examples: Tensor,
    store: OutcomeStore,
    cell: str,
    about: Callable[[], CellInfo],
    done: Callable[[np.ndarray], None] | None,
    kept: Kept | None,
) -> pd.DataFrame:
    """Return a cell's rows of some examples, by example; compute those that the store lacks."""
    known = store.read(cell)
    if kept is not None:
        complete = known["example"].isin(kept.before)
        complete |= known["clean_prediction"] != known["label"]
        if not complete[known["example"].isin(examples.numpy())].all():
            kept.folder.note_again()
        known = known[complete]
    lacking = ~np.isin(examples.numpy(), known["example"].to_numpy())
    if not attack.per_example:
        # a block is computed as a whole
        lacking = np.isin(examples.numpy(), subject.blocks.whole(examples[lacking]).numpy())
    missing = examples[lacking]
    if done is not None:
        done(examples[~lacking].numpy())
    device = subject.data.labels.device
    labels = subject.data.labels[missing.to(device)]
    clean = subject.clean(missing.to(device)) if len(missing) else labels
    right = (clean == labels).cpu()

    def keep(index: Tensor, clean: Tensor, attacked: Tensor) -> None:
        subject.keep(store, cell, about, index, clean, attacked)
        if done is not None:
            done(index.cpu().numpy())

    if not right.all():
        wrong = clean[~right.to(device)]
        keep(missing[~right].to(device), wrong, wrong)
    for batch in batches(subject, attack, missing[right]):
        index = batch.to(device)
        keep(index, subject.data.labels[index], subject.attacked(attack, index, kept))
    rows = store.read(cell) if len(missing) else known
    return rows.set_index("example").loc[examples.numpy()]


def batches(subject: Subject, attack: Attack, examples: Tensor) -> Sequence[Tensor]:
    """Split examples into what an attack sees at a time."""
    if not len(examples):
        return ()
    if attack.per_example:
        return torch.split(examples, subject.batch_size)
    return subject.blocks.split(examples)


def _cell(point: OperatingPoint, attack: Attack, fingerprints: tuple[str, ...]) -> str:
    fingerprint = sha256(*fingerprints, repr(point), attack.fingerprint())
    where = _where(point).replace(" ", "").replace(",", "-")
    return f"{attack.name}-{where}-{fingerprint[:16]}"


def describe(
    subject: Subject,
    attack: Attack,
    fingerprints: tuple[str, ...],
    *,
    part: int = 1,
    crafted: str = "",
) -> CellInfo:
    """Say what a cell of an attack holds, in the words of `CellInfo`."""
    info = subject.classifier.info
    model, data, gradients = fingerprints
    return CellInfo(
        dataset=info.dataset,
        data=data,
        method=info.method,
        architecture=info.architecture,
        model=model,
        lam=subject.point.lam,
        width=subject.point.width,
        attack=attack.label,
        part=part,
        parts=1 if crafted else len(attack.chain),
        crafted=crafted,
        engine=attack.card.engine,
        norm=attack.threat.norm,
        eps=attack.threat.eps,
        seed=attack.seed,
        card=attack.card.fingerprint(),
        gradients=gradients,
    )


def _where(point: OperatingPoint) -> str:
    width = f", width {point.width:g}" if point.width != 1 else ""
    return f"lambda {point.lam:g}{width}"
