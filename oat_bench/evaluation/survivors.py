"""Which attacks run on a sample of what cheaper ones leave standing, and how large it is.

See `oat_bench.statistics.phases` and ``docs/two-phase.md``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oat_bench.attacks.engines import Attack
from oat_bench.benchmark import BenchmarkCard, EvaluationCard
from oat_bench.errors import UserError
from oat_bench.statistics.accuracy import Accuracy

_FIRST, _MORE = 64, 32  # examples of a sample that grows: at the first look, and then at least


@dataclass(frozen=True)
class Sample:
    """What an attack sees at each operating point: of what stands, the first in nested order."""

    after: Sequence[str] = ()  # after which attacks, by label; empty: of what is right clean
    examples: int | None = None  # how many, or all that stand; None: as many as ``precision`` needs
    precision: float = 0.0  # half-width of the 95% interval, in points

    def most(self, n: int) -> int:
        """Return how many of n examples it may be."""
        return n if self.examples is None else min(self.examples, n)

    def size(self, n: int, left: int, sampled: int = 0, hits: int = 0) -> int:
        """Return how many of those left of n to sample; ``sampled``, as many as before, to stop.

        That is as many as the precision asks for if the share of ``hits`` among those sampled so
        far stays (Hall, Ann. Stat. 9, 1981); each look judges by the interval of what was seen.
        """
        if self.examples is not None:
            return min(self.examples, left)
        if not sampled:
            return min(_FIRST, left)

        def enough(size: int) -> bool:
            found = Accuracy.two_phase(n, left, size, round(hits / sampled * size))
            return found.high - found.low <= 2 * self.precision

        if sampled == left or enough(sampled):
            return sampled
        return bisect_left(range(left), True, lo=min(sampled + _MORE, left), key=enough)


def within(attack: Attack, card: BenchmarkCard) -> bool:
    """Whether an attack keeps to the card's threat model: no larger ball, and no target."""
    return attack.threat.eps <= card.threat.eps and not attack.targeted


def samples(card: BenchmarkCard, attacks: Sequence[Attack], n: int) -> dict[str, Sample]:
    """Return the attacks, by label, that run on a sample of what others leave of n examples.

    None does where no attack runs on all.
    """
    found, whole = {}, []
    for attack in attacks:
        count, precision = _asked(card.evaluation, attack)
        if precision is None and (count is None or count >= n):
            whole.append(attack)
        elif attack.card.engine != "file":  # images were saved of the first
            found[attack.label] = attack, Sample((), count, precision or 0.0)
    if not whole:
        return {}
    first = [attack.label for attack in whole if within(attack, card)]
    return {
        label: Sample(first if within(attack, card) else (), how.examples, how.precision)
        for label, (attack, how) in found.items()
    }


def shares(card: BenchmarkCard, attacks: Sequence[Attack], n: int) -> dict[str, Any]:
    """Return what tells a `Subject` of n examples which attacks do not run on all: by keyword."""
    found, fewer = samples(card, attacks, n), card.evaluation.fewer_examples
    drawn = {attack.card.name for attack in attacks if attack.label in found}
    return {"fewer": {k: v for k, v in fewer.items() if k not in drawn}, "samples": found}


def check(card: BenchmarkCard, attacks: Sequence[Attack]) -> None:
    """Refuse numbers of examples that are none, and a precision that no attack can have."""
    evaluation, chosen = card.evaluation, ", ".join(attack.label for attack in attacks)
    for name, count in evaluation.fewer_examples.items():
        if count < 1:
            raise UserError(f"{count} examples for {name}; expected 1 or more")
    precision = evaluation.precision
    if precision is None:
        return
    if not 0 < precision < 50:
        raise UserError(f"precision {precision:g}; expected points above 0, such as 1.5")
    asked = [attack for attack in attacks if _asked(evaluation, attack)[1] is not None]
    if not asked:
        raise UserError(
            "no attack to run to a precision: it is for those in [[parts]], such as autoattack, "
            f"that get no number of examples; chosen are {chosen}"
        )
    if len(asked) == len(attacks):
        raise UserError(
            f"a precision needs an attack that runs on all examples first; chosen are {chosen}; "
            "add one, such as pgd-20"
        )


def _asked(evaluation: EvaluationCard, attack: Attack) -> tuple[int | None, float | None]:
    """Return how many examples an attack is to get, or to which precision it is to be run."""
    count, card = evaluation.fewer_examples.get(attack.card.name), attack.card
    costly = bool(card.parts) or card.name.startswith("autoattack")
    return count, evaluation.precision if count is None and costly else None
