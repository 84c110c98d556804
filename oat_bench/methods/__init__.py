"""Methods: one file for each kind of tunable classifier."""

from collections.abc import Sequence

from oat_bench.errors import UserError, unknown
from oat_bench.methods.oat import OAT, OATSingleBN
from oat_bench.methods.oats import OATS, OATSSingleBN
from oat_bench.methods.pgd_at import PGDAT
from oat_bench.methods.pgd_ats import PGDATS
from oat_bench.methods.trainable import TrainableClassifier

#: by the name that cards and checkpoints have for them
METHODS: dict[str, type[TrainableClassifier]] = {
    "oat": OAT,
    "oat-single-bn": OATSingleBN,
    "oats": OATS,
    "oats-single-bn": OATSSingleBN,
    "pgd-at": PGDAT,
    "pgd-ats": PGDATS,
}

__all__ = [
    "METHODS",
    "OAT",
    "OATS",
    "PGDAT",
    "PGDATS",
    "OATSSingleBN",
    "OATSingleBN",
    "TrainableClassifier",
    "check_lambdas",
    "check_widths",
    "named",
]


def named(method: str) -> type[TrainableClassifier]:
    """Return the method of a name that a card or a file holds.

    Raises:
        UserError: if there is none; it names the nearest.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    return METHODS[method]


def check_lambdas(
    method: str, trained: Sequence[float], lambdas: Sequence[float], option: str = "--lambda"
) -> None:
    """Refuse lambda where a method has no classifier.

    Args:
        method: one of `METHODS`.
        trained: the lambda that training samples.
        lambdas: those that are asked for.
        option: of the command line, by which others may be chosen.

    Raises:
        UserError: naming the lambda, and those that there are; or if there is no such method.
    """
    kind = named(method)
    for lam in lambdas:
        try:
            kind.check_lambda(lam, trained)
        except UserError as error:
            raise UserError(f"{method}: {error}; choose with {option}") from error


def check_widths(known: Sequence[float], widths: Sequence[float]) -> None:
    """Refuse widths that a network does not have.

    Args:
        known: its widths.
        widths: those that are asked for.

    Raises:
        UserError: naming the width, and those that there are.
    """
    for width in widths:
        if width not in known:
            have = ", ".join(f"{one:g}" for one in known)
            raise UserError(f"width {width:g} asked for; the network has {have}")
