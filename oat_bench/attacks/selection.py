"""The attacks that a comma-separated selection names."""

from collections.abc import Sequence
from pathlib import Path

from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.cards import names
from oat_bench.errors import UserError
from oat_bench.progress import note

# the columns of a table, weakest attack first
DEFAULT_ORDER = ("fgsm", "mi-fgsm", "pgd-7", "pgd-20", "pgd-50-10", "autoattack")
#: what a model that is random is attacked by in their place, on its expectation
RANDOM_SUITE = ("pgd-20-eot", "autoattack-rand")


def select_attacks(selection: str) -> list[AttackCard]:
    """Read the attacks of a comma-separated selection of names and paths.

    ``all`` stands for every card of the default suite, ``file:PATH`` for attacked images that were
    saved. Cards of the default suite come first, in the order of `DEFAULT_ORDER`, others as given.
    """
    found: dict[str, AttackCard] = {}
    for item in (part.strip() for part in selection.split(",")):
        if not item:
            continue
        if item == "all":
            chosen = [card for card in map(attack_card, names("attacks")) if card.default]
        elif item.startswith("file:"):
            from oat_bench.attacks.saved import cards_of  # torch

            chosen = cards_of(Path(item.removeprefix("file:")))
        else:
            chosen = [attack_card(item)]
        for card in chosen:
            if found.setdefault(card.name, card) != card:
                two = f"two attack cards are called {card.name!r}"
                raise UserError(f"{two}; rename one file, or give one at a time")
    if not found:
        raise UserError(
            "no attack is named; use --attacks all or names from `oat-bench list attacks`"
        )
    rank = {name: place for place, name in enumerate((*DEFAULT_ORDER, *RANDOM_SUITE))}
    return sorted(found.values(), key=lambda card: rank.get(card.name, len(rank)))


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
