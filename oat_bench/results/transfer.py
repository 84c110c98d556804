"""What an attack at one lambda does at another, as it is written as transfer.json."""

from typing import Literal

from pydantic import Field

from oat_bench.statistics.accuracy import Accuracy, Estimate
from oat_bench.written import Written


class TransferCell(Written):
    """RA where images are attacked at one lambda and classified at another."""

    crafted: float
    lam: float
    ra: Accuracy


class TransferPoint(Written):
    """One lambda that images are classified at."""

    lam: float
    sa: Accuracy
    any_lambda: Accuracy = Field(description="RA where each image is attacked at its worst lambda")
    strongest: float = Field(description="the one lambda that, attacked at, breaks most")


class MaskedGradients(Written):
    """A lambda at which images attacked elsewhere break significantly more."""

    lam: float
    crafted: float
    only_there: int
    only_here: int
    p_value: float


class DrawnAttack(Written):
    """Accuracies of a defender who draws lambda, under one attack."""

    attacked: float | Literal["expectation", "worst"]  # worst: of all, for each image
    expected: Accuracy = Field(description="chance that one query is answered right")
    worst: Accuracy = Field(description="right at every lambda of the set")


class Drawn(Written):
    """A defender who draws lambda from a set."""

    lams: list[float]
    chances: list[float]
    expected_clean: Accuracy
    worst_clean: Accuracy
    attacks: list[DrawnAttack]
    best_single: float = Field(description="the one lambda with the lowest expected RA")
    gain: Estimate = Field(description="expected RA: of the expectation less of the best single")


class Transfer(Written):
    """What is written as transfer.json."""

    format_version: Literal[1] = 1
    dataset: str
    method: str
    architecture: str
    norm: str
    eps: str
    width: float
    attack: str
    card: str = Field(description="fingerprint of the attack card")
    seed: int
    gradients: str
    n: int
    cells: list[TransferCell]
    points: list[TransferPoint]
    compared: int = Field(description="pairs of lambda values tested for masked gradients")
    masked: list[MaskedGradients]
    drawn: Drawn | None
    model_fingerprint: str
    data_fingerprint: str
    command: str
    versions: dict[str, str]
