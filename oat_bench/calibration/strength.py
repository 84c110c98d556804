"""Which attack RA is guaranteed under: the strongest that there is time for."""

import math
import time
from collections.abc import Sequence

from torch import Tensor

from oat_bench.acceleration import Precision
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import Attack, prepare
from oat_bench.calibration import procedure, search
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.evaluation.subject import AtPoint, Subject

#: cards whose RA can be relied on; the second is the gradient parts of the first
STRONG = ("autoattack", "apgd")
#: the attack that is timed, and whose survivors are counted
_TIMED = "pgd-20"


def caution(attack: Attack) -> str:
    """Return what is to be said of RA under an attack; nothing of a strong one."""
    if attack.card.name in STRONG:
        return ""
    return (
        f"{attack.label} alone overestimates RA: stronger attacks break more images. Take --attack "
        "autoattack."
    )


def cheaper(attack: Attack) -> Attack:
    """Return the attack of the search: for AutoAttack its gradient parts.

    FAB and Square take most of the time and break few images that Auto-PGD left standing.
    """
    whole, parts = (attack_card(name) for name in STRONG)
    if attack.card.fingerprint() != whole.fingerprint():
        return attack
    return prepare(parts, attack.threat, n_classes=attack.n_classes, seed=attack.seed)


def strongest(
    classifier: TunableClassifier,
    data: Split,
    goal: search.Goal,
    examples: Tensor,
    *,
    confidence: float,
    widths: Sequence[float],
    seed: int,
    budget: float,
    gradients: Precision = "float32",
) -> tuple[Attack, str]:
    """Choose AutoAttack if it keeps to a budget in s, else its gradient parts; and say why.

    PGD-20, on one batch at the widest and most robust point, tells how long a pass takes, and at
    most how many images stand to the end.
    """
    info = classifier.info
    whole, parts, timed = (
        prepare(attack_card(name), info.threat, n_classes=info.num_classes, seed=seed)
        for name in (*STRONG, _TIMED)
    )
    point = OperatingPoint(max(info.trained_lambdas), max(widths))
    subject = Subject(classifier, data, "", examples, gradients=gradients, compile_it=False)
    each, right, standing = _time(subject.at(point), timed)
    n_search, n_test = procedure.split(len(examples), goal, confidence)
    smooth = classifier.continuous
    points = len(search.starting_lambdas(info.trained_lambdas, continuous=smooth)) * len(widths)
    points += 2 * search.REFINEMENTS if smooth else 0
    tests = 2 + search.SAFER + search.BOLDER if goal.barred == "RA" else 1

    def passes(attack: Attack) -> float:
        first, *others = (run.passes for run in attack.chain)
        return right * first + standing * sum(others)

    def takes(attack: Attack) -> float:
        return each * (points * n_search * passes(parts) + tests * n_test * passes(attack))

    allowed = f"the budget of {budget / 60:g} min"
    long, short = (f"{math.ceil(takes(attack) / 60)} min" for attack in (whole, parts))
    if takes(whole) <= budget:
        return whole, f"RA is under {whole.label}: it takes up to {long}, within {allowed}"
    return parts, (
        f"RA is under {parts.label}, AutoAttack's gradient parts, up to {short}: {whole.label} "
        f"would take up to {long}, more than {allowed}; --attack autoattack forces it"
    )


def _time(at: AtPoint, attack: Attack) -> tuple[float, float, float]:
    """Attack one batch: the seconds of a pass of an image; the shares that are right, and stand."""
    labels = at.data.labels
    ids = at.subject.ids[: at.batch_size].to(labels.device)
    right = ids[at.right(ids)]
    if not len(right):
        return 0.0, 0.0, 0.0
    started = time.perf_counter()
    attacked = at.attacked(attack, right, at.craft(attack, right))
    standing = int((attacked == labels[right]).sum())
    each = (time.perf_counter() - started) / (attack.passes * len(right))
    return each, len(right) / len(ids), standing / len(ids)
