"""Doubts of an evaluation in words: a line each, where, what it means and what to do."""

from collections.abc import Mapping, Sequence

from oat_bench.evaluation.flags import Doubt
from oat_bench.results.entries import EntryFlag, FlagPoint

#: what each check that did not pass comes to, and what to do
WORDS: Mapping[str, tuple[str, str]] = {
    "estimate": (
        "{attack} overestimates robustness{at} by {difference:.0f} points",
        "quote the stronger attack",
    ),
    "retry": (
        "a longer attack breaks more{at}",
        "RA is too high: use more steps and restarts, or autoattack",
    ),
    "gradient-free": (
        "{attack} breaks what gradients did not{at}",
        "gradients are masked, or those attacks too weak: see oat-bench integrity",
    ),
    "zero gradients": (
        "gradients are zero{at}",
        "attacks by gradients say nothing there: quote one without, such as square",
    ),
    "repeat": (
        "outputs are random{at}",
        "attack the expectation over draws (eot_iter, or AutoAttack's version rand)",
    ),
    "logits": ("outputs are not logits{at}", "remove the softmax: attacks need logits"),
}


def flags(doubts: Sequence[Doubt]) -> list[EntryFlag]:
    """Say each doubt that is raised once, where it is worst, and where else."""
    groups: dict[tuple[str, str], list[Doubt]] = {}
    for doubt in doubts:
        if doubt.raised:
            groups.setdefault((doubt.check.name, doubt.attack), []).append(doubt)
    order = list(WORDS)
    return [_flag(groups[key]) for key in sorted(groups, key=lambda key: order.index(key[0]))]


def _flag(group: Sequence[Doubt]) -> EntryFlag:
    several = len({doubt.point.width for doubt in group}) > 1

    def at(doubt: Doubt) -> str:
        narrow = several or doubt.point.width != 1
        return f"{doubt.point.lam:g}" + (f" (width {doubt.point.width:g})" if narrow else "")

    worst = max(group, key=_size)
    what, advice = WORDS[worst.check.name]
    said = what.format(attack=worst.attack, at=f" at lambda {at(worst)}", **worst.check.numbers)
    others = [at(doubt) for doubt in group if doubt is not worst]
    also = f", also at lambda {', '.join(others)}" if others else ""
    return EntryFlag(
        name=worst.check.name,
        attack=worst.attack,
        text=f"{said} ({worst.check.evidence}){also}: {advice}",
        points=[FlagPoint(lam=d.point.lam, width=d.point.width) for d in group],
    )


def _size(doubt: Doubt) -> float:
    """Return how bad it is: points too high, or the share of the images that it is of."""
    names = ("difference", "broken", "only_gradient_free", "zero")
    sizes = [doubt.check.numbers.get(name) for name in names]
    return next((float(size) for size in sizes if isinstance(size, int | float)), 0.0)


def lines(found: Sequence[EntryFlag]) -> list[str]:
    """Write flags, a line each; say where there is none."""
    return [f"flag: {flag.text}" for flag in found] or ["no flags"]
