"""Examining a classifier: run what the checks of `oat_bench.evaluation.integrity` look at."""

import math
import timeit
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Split
from oat_bench.errors import UserError, unknown
from oat_bench.evaluation import integrity, probes
from oat_bench.evaluation.grid import evaluate, outcomes
from oat_bench.evaluation.integrity import NEGLIGIBLE
from oat_bench.evaluation.sharing import Job, finish, spread
from oat_bench.evaluation.stages import usual
from oat_bench.evaluation.subject import Subject
from oat_bench.progress import Bar
from oat_bench.results.checks import LADDER, Check
from oat_bench.statistics.accuracy import clean_right, robust_right
from oat_bench.training.pgd import cross_entropy

#: the attack that is swept over eps, and whose steps are doubled; that of a random model
BASE, RANDOM_BASE = "pgd-20", "pgd-20-eot"
QUERIES = 1000  # what Square may ask, where it is not a part of AutoAttack
_NEAR_ZERO = (0.01, 0.25, 0.5, 0.75)  # shares of the way to the first trained lambda above 0


@dataclass(frozen=True)
class Suite:
    """The attacks of an examination, made ready."""

    ladder: list[Attack]  # those whose order is known, the weakest first
    base: Attack  # swept over eps
    doubled: Attack  # the same with twice the steps
    noise: Attack
    square: Attack
    remark: str  # which attacks were left out, and why

    @property
    def names(self) -> list[str]:
        """Names of the attacks that may get fewer examples."""
        ladder = [attack.card.name for attack in self.ladder]
        return list(dict.fromkeys([*ladder, self.base.card.name, "noise", "square"]))


def make_suite(
    threat: Threat,
    *,
    n_classes: int,
    seed: int,
    ladder: Sequence[str] | None = None,
    random: bool = False,
) -> Suite:
    """Make the attacks of an examination ready; the ladder is of those of `LADDER`, all if None.

    Of a ``random`` model it is the attack on the expectation alone.
    """
    base_name, known = (RANDOM_BASE, (RANDOM_BASE,)) if random else (BASE, LADDER)
    ladder = known if ladder is None else ladder
    for name in ladder:
        if name not in known:
            raise unknown("attack in a known order", name, known)
    if not ladder:
        raise UserError(f"no attack is named; choose of {', '.join(known)} with --attacks")
    if threat.eps == 0:
        raise UserError("the threat model has eps 0, which leaves no attack to examine")

    def ready(name: str) -> Attack:
        return prepare(attack_card(name), threat, n_classes=n_classes, seed=seed)

    chosen, remarks = [], []
    for name in (name for name in known if name in ladder):
        norm = attack_card(name).norm
        if norm not in (None, threat.norm):
            if ladder is not LADDER:
                remarks.append(f"no {name}, which is for {norm}")
        else:
            chosen.append(ready(name))
            if chosen[-1].label != name:
                remarks.append(f"{name} is {chosen[-1].label}: the rest needs more classes")
    base = ready(base_name)
    steps = 2 * base.parameters["steps"]
    doubled = variant(base, f"{base_name}-{steps}", {"steps": steps})
    # its squares shrink in the course of its queries, however few
    fewer = {"n_queries": QUERIES, "resc_schedule": True}
    square = variant(ready("square"), f"square-{QUERIES}-True", fewer)
    return Suite(chosen, base, doubled, ready("noise"), square, ", ".join(remarks))


def variant(
    attack: Attack, name: str, parameters: Mapping[str, Any], next_seed: int = 0, **ball: float
) -> Attack:
    """Return an attack under another name, with other parameters, another seed or ball."""
    own = {**attack.card.parameters, **parameters}
    card = attack.card.model_copy(update={"name": name, "parameters": own, **ball})
    return prepare(card, attack.threat, n_classes=attack.n_classes, seed=attack.seed + next_seed)


def examine(
    subject: Subject, point: OperatingPoint, suite: Suite, line: Bar | None = None
) -> list[Check]:
    """Run all checks at one operating point; the line of progress expects `passes`."""
    run, name = partial(_run, subject, point, line=line), suite.base.card.name
    few = subject.share(name)
    base = run(suite.base, few)
    clean, once = clean_right(base), robust_right(base)
    ladder = {a.card.name: robust_right(run(a, subject.share(a.card.name))) for a in suite.ladder}
    by_gradients = [once, *(ladder[one] for one in ladder if one != "autoattack")]
    share, budget, without = subject.share("square"), f"{QUERIES} queries", None
    if "autoattack" in ladder:
        share = share[: len(ladder["autoattack"])]
        budget += ", and 5000 after AutoAttack's other parts"
        without = before_square(subject, point, suite.ladder[-1], share)
    square = free = robust_right(run(suite.square, share))
    if without is not None:
        by_gradients.append(without)
        free = free & (~without | ladder["autoattack"][without.index])
    doubled = robust_right(run(suite.doubled, few))
    noise = robust_right(run(suite.noise, subject.share("noise")))

    threat = suite.base.threat
    swept, radii = {threat.eps: once}, _radii(threat, subject.data)
    for eps in radii:
        if eps not in swept:
            step = threat.step_size * eps / threat.eps
            attack = variant(suite.base, f"{name}-eps-{eps:.3g}", {}, eps=eps, step_size=step)
            swept[eps] = robust_right(run(attack, few, kind=name))
        if eps >= threat.eps and swept[eps].mean() <= NEGLIGIBLE:
            break
    if line is not None:
        line.drop(name, (len(radii) - len(swept)) * _expected(suite.base, len(few)))
    stronger = ladder | {suite.doubled.card.name: doubled, "noise": noise, "square": square}
    stronger.pop(name, None)
    return [
        integrity.order(clean, ladder, suite.remark),
        integrity.estimate(name, once, stronger),
        integrity.sweep(clean, dict(sorted(swept.items()))),
        integrity.steps(name, once, doubled),
        integrity.noise(name, noise, once),
        integrity.gradient_free("Square", budget, free, under_all(by_gradients, share)),
        *probes.probe(subject.at(point), subject.ids, suite.base),
    ]


def without_square(attack: Attack) -> Attack | None:
    """Return an attack of parts without its last, if that is Square; None if it is not."""
    parts = attack.parts()
    if len(parts) == 1 or parts[-1].class_ != "Square":
        return None
    # of one part that is left the cell has the part's name
    return replace(attack, chain=attack.chain[:-1]) if len(parts) > 2 else parts[0]


def before_square(
    subject: Subject, point: OperatingPoint, attack: Attack, examples: Tensor
) -> "pd.Series[bool] | None":
    """Say what stands before an attack's last part if that is Square: read, not run."""
    others = without_square(attack)
    return None if others is None else robust_right(outcomes(subject, point, others, examples))


def under_all(stands: Sequence[pd.Series], examples: Tensor) -> pd.Series:
    """Say which examples stand under all attacks that saw them."""
    result = pd.Series(True, index=pd.Index(examples.numpy(), name="example"))
    for one in stands:
        result &= one.reindex(result.index, fill_value=True)
    return result


def dial_lambdas(trained: Sequence[float], *, continuous: bool) -> list[float]:
    """Return the lambda of a dial to look at; beside those trained, if ``continuous``, more."""
    if not continuous:
        return list(trained)
    tenths = [tenth for tenth in np.linspace(0, 1, 11) if trained[0] < tenth < trained[-1]]
    middles = [(low + high) / 2 for low, high in pairwise(trained)]
    # close to 0 the network changes its batch norm
    near = [share * trained[1] for share in _NEAR_ZERO] if len(middles) and not trained[0] else []
    # rounded, so that 0.30000000000000004 and 0.3 are one
    between = {round(float(lam), 6) for lam in (*tenths, *middles, *near)}
    return sorted({*trained, *between})


def examine_dial(
    subject: Subject,
    points: Sequence[OperatingPoint],
    examples: Tensor,
    suite: Suite,
    line: Bar | None = None,
) -> Check:
    """Compare the lambda of one width with each other, clean and under the base attack."""
    clean, robust = {}, {}
    for point in points:
        frame = _run(subject, point, suite.base, examples, line=line)
        clean[point.lam], robust[point.lam] = clean_right(frame), robust_right(frame)
    return integrity.dial(clean, robust)


def share_out(
    subject: Subject,
    points: Sequence[OperatingPoint],
    dials: Sequence[Sequence[OperatingPoint]],
    examples: Tensor,
    suite: Suite,
) -> None:
    """Have the store filled with what examining points and dials looks at; a shard ends here.

    What is run at a point depends on what came before, so one process examines all of it.
    """
    each = _most(subject, suite) / len(subject.ids)
    jobs = [
        Job(f"{point}", subject.ids, each, partial(examine, point=point, suite=suite), whole=True)
        for point in points
    ]
    again = partial(evaluate, attacks=[suite.base], show=False)
    jobs += [
        Job(f"dial, {point}", examples, suite.base.passes.total, partial(again, points=[point]))
        for dial in dials
        for point in dial
    ]
    spread(replace(subject, compile_it=False), jobs, 0.0)
    finish(subject)


def _run(
    subject: Subject,
    point: OperatingPoint,
    attack: Attack,
    examples: Tensor,
    line: Bar | None,
    kind: str = "",
) -> pd.DataFrame:
    if line is not None:
        expected = _expected(attack, len(examples))
        line.begin(kind or attack.card.name, expected, f"lambda {point.lam:g}, {attack.label}")
    return outcomes(subject, point, attack, examples)


def _expected(attack: Attack, images: int) -> float:
    return images * sum(usual(part) * (part.passes.total + 1) for part in attack.parts())


def runs(subject: Subject, suite: Suite) -> list[tuple[Attack, int]]:
    """Return the attacks that are run at one operating point, at most, and on how many images."""
    base = suite.base.card.name
    run = [(attack, attack.card.name) for attack in suite.ladder]
    run += [(suite.base, base)] * (len(_radii(suite.base.threat, subject.data)) - 1)
    run += [(suite.doubled, base), (suite.noise, "noise"), (suite.square, "square")]
    return [(attack, len(subject.share(name))) for attack, name in run]


def passes(subject: Subject, suite: Suite, points: int, on_dials: int) -> dict[str, float]:
    """Return the passes that are expected of each attack; dials attack ``on_dials`` examples."""
    expected = defaultdict(float, {suite.base.card.name: _expected(suite.base, on_dials)})
    for attack, images in runs(subject, suite):
        expected[attack.card.name] += points * _expected(attack, images)
    return dict(expected)


def seconds(
    subject: Subject, points: Sequence[OperatingPoint], suite: Suite, on_dials: int = 0
) -> float:
    """Say how long an examination takes at most; dials attack ``on_dials`` examples in all."""
    at = subject.at(points[0])
    index = subject.ids[: at.batch_size].to(at.device)
    x, y = subject.data.inputs(index), subject.data.labels[index]
    once = partial(probes.gradient_sizes, at.exact, x, y, cross_entropy)  # of one draw
    timed = timeit.repeat(lambda: once().cpu(), number=1, repeat=3)
    most = len(points) * _most(subject, suite) + on_dials * suite.base.passes.total
    return most * min(timed) / (2 * len(index))  # what was timed is a forward and a backward pass


def _most(subject: Subject, suite: Suite) -> float:
    """Return the passes at one operating point, at most."""
    return sum(attack.passes.total * images for attack, images in runs(subject, suite))


def _radii(threat: Threat, data: Split) -> list[float]:
    # shares of the threat's, then by doubling up to the whole box
    whole = 1.0 if threat.norm == "Linf" else math.sqrt(data.inputs(slice(1)).numel())
    radii = [share * threat.eps for share in (0.0, 0.25, 0.5, 1.0)]
    while radii[-1] < whole:
        radii.append(min(2 * radii[-1], whole))
    return radii
