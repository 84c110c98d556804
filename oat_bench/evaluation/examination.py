"""Examining a classifier: run what the checks of `oat_bench.evaluation.integrity` look at."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from torch import Tensor, nn

from oat_bench.acceleration import (
    Precision,
    accelerate,
    choose_batch_size,
    operations_per_image,
)
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.errors import UserError, unknown
from oat_bench.evaluation import dial, integrity, probes
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.integrity import NEGLIGIBLE, Check
from oat_bench.progress import Bar
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.statistics.accuracy import clean_right, robust_right
from oat_bench.training.pgd import cross_entropy

#: attacks whose order is known, the weakest first
LADDER = ("fgsm", "pgd-7", "pgd-20", "pgd-50-10", "autoattack")
#: the attack that is swept over eps, and whose steps are doubled
BASE = "pgd-20"
#: what Square may ask, where it is not a part of AutoAttack
QUERIES = 1000
#: multiples of eps that the sweep starts with; it goes on by doubling
MULTIPLES = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Suite:
    """The attacks of an examination, made ready.

    Attributes:
        ladder: those whose order is known, the weakest first.
        base: the attack that is swept over eps.
        doubled: the same with twice the steps.
        noise: random noise.
        square: the attack without gradients.
        remark: which attacks were left out, and why.
    """

    ladder: list[Attack]
    base: Attack
    doubled: Attack
    noise: Attack
    square: Attack
    remark: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the attacks that may get fewer examples."""
        return [*dict.fromkeys([*(a.card.name for a in self.ladder), BASE, "noise", "square"])]


@dataclass(frozen=True)
class Subject:
    """A classifier and what it is examined on.

    Attributes:
        classifier: on the device of the data.
        data: the test split.
        examples: ids to examine.
        data_fingerprint: names the data in the store.
        fewer: for some attacks, by name, how many of the examples, from the first.
        store: where outcomes go.
        batch_size: examples an attack sees at a time; what fills the device if None.
        gradients: precision that attacks compute in.
    """

    classifier: TunableClassifier
    data: Split
    examples: Tensor
    data_fingerprint: str
    fewer: Mapping[str, int] = field(default_factory=dict)
    store: OutcomeStore = field(default_factory=lambda: OutcomeStore(None))
    batch_size: int | None = None
    gradients: Precision = "float32"

    def share(self, name: str) -> Tensor:
        """Return the ids that an attack gets."""
        return self.examples[: self.fewer.get(name, len(self.examples))]

    def outcomes(self, point: OperatingPoint, attack: Attack, examples: Tensor) -> pd.DataFrame:
        """Return clean and attacked predictions, indexed by example; compute what is missing."""
        frame = evaluate(
            self.classifier,
            self.data,
            [point],
            [attack],
            data_fingerprint=self.data_fingerprint,
            examples=examples,
            store=self.store,
            batch_size=self.batch_size,
            gradients=self.gradients,
            compile_it=False,
            show=False,
        )
        return frame.set_index("example")

    def model(self, point: OperatingPoint) -> tuple[nn.Module, int]:
        """Return the plain network that attacks see, and how many images it takes at a time."""
        plain = self.classifier.at(point.lam, point.width)
        image = self.data.inputs(slice(1))
        size = choose_batch_size(image.device, operations_per_image(plain, image))
        return accelerate(plain), self.batch_size or size


def make_suite(
    threat: Threat, *, n_classes: int, seed: int, ladder: Sequence[str] = LADDER
) -> Suite:
    """Make the attacks of an examination ready.

    Args:
        threat: that of the model.
        n_classes: of the model.
        seed: of all randomness.
        ladder: those of `LADDER` to put in order.

    Raises:
        UserError: if one is not of `LADDER`, or the threat model leaves nothing to attack.
    """
    for name in ladder:
        if name not in LADDER:
            raise unknown("attack in a known order", name, LADDER)
    if not ladder:
        raise UserError(f"no attack is named; choose of {', '.join(LADDER)} with --attacks")
    if threat.eps == 0:
        raise UserError("the threat model has eps 0, which leaves no attack to examine")

    def ready(name: str, **changes: object) -> Attack:
        card = attack_card(name)
        if changes:
            named = "-".join([name, *(f"{value}" for value in changes.values())])
            parameters = card.parameters | changes
            card = card.model_copy(update={"name": named, "parameters": parameters})
        return prepare(card, threat, n_classes=n_classes, seed=seed)

    chosen, remarks = [], []
    for name in (name for name in LADDER if name in ladder):
        norm = attack_card(name).norm
        if norm not in (None, threat.norm):
            remarks.append(f"no {name}, which is for {norm}")
        else:
            chosen.append(ready(name))
            if chosen[-1].label != name:
                remarks.append(f"{name} is {chosen[-1].label}: the rest needs more classes")
    base = ready(BASE)
    doubled = ready(BASE, steps=2 * base.parameters["steps"])
    # its squares shrink in the course of its queries, however few
    square = ready("square", n_queries=QUERIES, resc_schedule=True)
    return Suite(chosen, base, doubled, ready("noise"), square, ", ".join(remarks))


def examine(
    subject: Subject, point: OperatingPoint, suite: Suite, line: Bar | None = None
) -> list[Check]:
    """Run all checks at one operating point.

    Args:
        subject: the classifier and the examples.
        point: the operating point.
        suite: the attacks.
        line: of progress; it moves on by `stages`.
    """

    def run(attack: Attack, examples: Tensor) -> pd.DataFrame:
        if line is not None:
            line.note(f"lambda {point.lam:g}, {attack.label}")
        frame = subject.outcomes(point, attack, examples)
        if line is not None:
            line.advance()
        return frame

    base = run(suite.base, subject.share(BASE))
    clean, once = clean_right(base), robust_right(base)
    ladder = {a.card.name: robust_right(run(a, subject.share(a.card.name))) for a in suite.ladder}
    by_gradients = [once, *(ladder[name] for name in ladder if name != "autoattack")]
    share, budget = subject.share("square"), f"{QUERIES} queries"
    if "autoattack" in ladder:
        share = share[: len(ladder["autoattack"])]
        budget = f"{QUERIES} queries, and 5000 after AutoAttack's other parts"
    square = free = robust_right(run(suite.square, share))
    if "autoattack" in ladder and (others := before_square(suite.ladder[-1])) is not None:
        # read, not run: the outcomes of AutoAttack's parts lie in cells of their own
        without = robust_right(subject.outcomes(point, others, share))
        by_gradients.append(without)
        free = free & (~without | ladder["autoattack"][without.index])
    doubled = robust_right(run(suite.doubled, subject.share(BASE)))
    noise = robust_right(run(suite.noise, subject.share("noise")))

    swept = {suite.base.threat.eps: once}
    radii = _radii(suite.base.threat, subject.data)
    for eps in radii:
        if eps not in swept:
            swept[eps] = robust_right(run(_with_eps(suite.base, eps), subject.share(BASE)))
        if eps >= suite.base.threat.eps and swept[eps].mean() <= NEGLIGIBLE:
            break
    if line is not None:
        line.advance(len(radii) - len(swept))
    stronger = ladder | {suite.doubled.card.name: doubled, "noise": noise, "square": square}
    stronger.pop(BASE, None)
    return [
        integrity.order(clean, ladder, suite.remark),
        integrity.estimate(BASE, once, stronger),
        integrity.sweep(clean, dict(sorted(swept.items()))),
        integrity.steps(BASE, once, doubled),
        integrity.noise(BASE, noise, once),
        integrity.gradient_free("Square", budget, free, under_all(by_gradients, share)),
        *probes.probe(*subject.model(point), subject.data, subject.examples, suite.base),
    ]


def before_square(attack: Attack) -> Attack | None:
    """Return an attack of parts without its last, if that is Square; None if it is not."""
    parts = attack.parts()
    if len(parts) == 1 or parts[-1].class_ != "Square":
        return None
    # of one part that is left the cell has the part's name
    return replace(attack, chain=attack.chain[:-1]) if len(parts) > 2 else parts[0]


def examine_dial(
    subject: Subject,
    points: Sequence[OperatingPoint],
    examples: Tensor,
    suite: Suite,
    line: Bar | None = None,
) -> Check:
    """Compare the lambda of one width with each other, clean and under the base attack.

    Args:
        subject: the classifier.
        points: of that width, such as at `oat_bench.evaluation.dial.lambdas`.
        examples: ids to attack.
        suite: the attacks.
        line: of progress; it moves on by one for each point.
    """
    clean, robust = {}, {}
    for point in points:
        if line is not None:
            line.note(f"dial, lambda {point.lam:g}")
        frame = subject.outcomes(point, suite.base, examples)
        clean[point.lam], robust[point.lam] = clean_right(frame), robust_right(frame)
        if line is not None:
            line.advance()
    return dial.check(clean, robust)


def stages(subject: Subject, suite: Suite) -> int:
    """Return how many attacks are run at one operating point, at most."""
    return len(suite.ladder) + 3 + len(_radii(suite.base.threat, subject.data))


def seconds(
    subject: Subject, points: Sequence[OperatingPoint], suite: Suite, on_dials: int = 0
) -> float:
    """Say how long an examination takes at most: if every example stands to the end.

    One pass is timed at the first operating point.

    Args:
        subject: the classifier and the examples.
        points: the operating points that are examined.
        suite: the attacks.
        on_dials: how many examples `examine_dial` attacks, each at each point.
    """
    model, size = subject.model(points[0])
    index = subject.examples[:size].to(subject.data.labels.device)
    x, y = subject.data.inputs(index), subject.data.labels[index]
    timed = []
    for _ in range(3):
        started = time.perf_counter()
        probes.gradient_sizes(model, x, y, cross_entropy).cpu()
        timed.append(time.perf_counter() - started)
    sweeps = len(_radii(suite.base.threat, subject.data)) - 1
    passes = sum(
        attack.passes * len(subject.share(name))
        for attack, name in [
            *((attack, attack.card.name) for attack in suite.ladder),
            *[(suite.base, BASE)] * sweeps,
            (suite.doubled, BASE),
            (suite.noise, "noise"),
            (suite.square, "square"),
        ]
    )
    # what was timed is a forward and a backward pass
    total = len(points) * passes + on_dials * suite.base.passes
    return total * min(timed) / (2 * len(index))


def under_all(stands: Sequence[pd.Series], examples: Tensor) -> pd.Series:
    """Say which examples stand under all attacks that saw them."""
    index = pd.Index(examples.numpy(), name="example")
    result = pd.Series(True, index=index)
    for one in stands:
        result &= one.reindex(index, fill_value=True)
    return result


def _radii(threat: Threat, data: Split) -> list[float]:
    """Return the eps of a sweep: multiples of the threat's, then the whole box."""
    pixels = data.inputs(slice(1)).numel()
    whole = 1.0 if threat.norm == "Linf" else math.sqrt(pixels)
    radii = [multiple * threat.eps for multiple in MULTIPLES]
    while radii[-1] < whole:
        radii.append(min(2 * radii[-1], whole))
    return radii


def _with_eps(attack: Attack, eps: float) -> Attack:
    """Return an attack in a ball of another size, its step in proportion."""
    threat = attack.threat
    step_size = threat.step_size * eps / threat.eps
    changes = {"name": f"{attack.card.name}-eps-{eps:.3g}", "eps": eps, "step_size": step_size}
    card = attack.card.model_copy(update=changes)
    return prepare(card, threat, n_classes=attack.n_classes, seed=attack.seed)
