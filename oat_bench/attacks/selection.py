"""The attacks that a comma-separated selection names."""

from collections.abc import Sequence
from pathlib import Path

from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.cards import Norm, names
from oat_bench.errors import UserError
from oat_bench.progress import note

# the columns of a table, weakest attack first: of Linf or of L2, then of both
DEFAULT_ORDER = ("fgsm", "fgm", "mi-fgsm", "mi-fgm", "pgd-7", "pgd-20", "pgd-50-10", "autoattack")
#: what a model that is random is attacked by in their place, on its expectation
RANDOM_SUITE = ("pgd-20-eot", "autoattack-rand")


def select_attacks(
    selection: str, norm: Norm = "Linf", n_classes: int | None = None
) -> list[AttackCard]:
    """Read the attacks of a comma-separated selection of names and paths.

    ``all`` stands for every card of the norm's default suite that is for so many classes (None:
    any); a note says which are not. ``-NAME`` leaves one out, ``file:PATH`` stands for attacked
    images that were saved. Cards of the default suite come first, in the order of `DEFAULT_ORDER`,
    others as given.
    """
    found: dict[str, AttackCard] = {}
    items = [item for part in selection.split(",") if (item := part.strip())]
    unwanted = [item[1:].strip() for item in items if item.startswith("-")]
    default: list[AttackCard] = []
    for item in items:
        if item.startswith("-"):
            continue
        if item == "all":
            default = [card for card in map(attack_card, names("attacks")) if card.default]
            default = [card for card in default if card.norm in (None, norm)]
            chosen = [card for card in default if not _unfit(card, n_classes)]
        elif item.startswith("file:"):
            from oat_bench.attacks.saved import cards_of  # torch

            chosen = cards_of(Path(item.removeprefix("file:")))
        else:
            chosen = [attack_card(item)]
        for card in chosen:
            if found.setdefault(card.name, card) != card:
                two = f"two attack cards are called {card.name!r}"
                raise UserError(f"{two}; rename one file, or give one at a time")
    for name in unwanted:
        # one that is not there is left out already; a misspelt one is told
        found.pop(name if name in found else attack_card(name).name, None)
    if not found:
        left = " after what was left out" if unwanted else ""
        raise UserError(
            f"no attack is named{left}; use --attacks all or names from `oat-bench list attacks`"
        )
    _tell([card for card in default if card.name not in unwanted], n_classes)
    return sorted(found.values(), key=lambda card: rank(card.name))


def rank(name: str) -> int:
    """Return the place of an attack's column among the default suite; of others, behind it."""
    order = (*DEFAULT_ORDER, *RANDOM_SUITE)
    return order.index(name) if name in order else len(order)


def _unfit(card: AttackCard, n_classes: int | None) -> str:
    """Say why a card is not for so few classes; nothing if it is."""
    fewest = min(part.min_classes for part in card.chain())
    return f"for {fewest} classes or more" if n_classes is not None and n_classes < fewest else ""


def _tell(cards: list[AttackCard], n_classes: int | None) -> None:
    """Say in one line which attacks, or parts of them, `all` leaves out, and why."""
    reasons: dict[str, list[str]] = {}
    for card in cards:
        if reason := _unfit(card, n_classes):
            reasons.setdefault(reason, []).append(card.name)
            continue
        for part in card.parts:
            if n_classes is not None and n_classes < part.min_classes:
                reason = f"for {part.min_classes} classes or more"
                reasons.setdefault(reason, []).append(f"{part.name} of {card.name}")
    if reasons:
        left = "; ".join(f"{', '.join(each)} ({reason})" for reason, each in reasons.items())
        note(f"attacks left out of all: {left}")


def for_random(chosen: Sequence[AttackCard], model: str) -> list[AttackCard]:
    """Put attacks on the expectation in the place of those that take a model for what it is not.

    AutoAttack's place takes its version "rand", any other's PGD on the expected loss.
    """
    found, replaced = {}, []
    for card in chosen:
        if not card.fits_random:
            replaced.append(card.name)
            card = attack_card(RANDOM_SUITE[card.name == "autoattack"])
        found[card.name] = card
    if replaced:
        suite = " and ".join(name for name in found if name in RANDOM_SUITE)
        others = ", ".join(replaced)
        note(f"{model} is random: attacked on its expectation, by {suite} in place of {others}")
    return list(found.values())
