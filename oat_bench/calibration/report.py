"""What a calibration found: one JSON file, read back."""

from typing import ClassVar, Literal

from pydantic import Field

from oat_bench.calibration.guarantee import BarTest, Count
from oat_bench.calibration.procedure import ChosenPoint
from oat_bench.calibration.search import BARRED
from oat_bench.written import Written


class CalibrationPoint(Written):
    """An operating point that was looked at."""

    lam: float
    width: float
    trained: bool = Field(description="whether training sampled this lambda")
    sa: Count = Field(description="on the examples of the search")
    ra: Count | None = Field(description="on the first of them; None: not attacked")
    dropped: str = Field(description="why it was not attacked on more of them; empty if it was")
    planned: int | None = Field(description="its place in the sequence of tests, from 1")
    test: BarTest | None = None


class Passes(Written):
    """What was computed, whether now or before."""

    predicted: int = Field(description="clean images, each at each operating point")
    attacked: int = Field(description="attacked images; those wrong when clean are not")
    passes: float = Field(description="forward and backward passes of an image, about")


class WidthCost(Written):
    """What the plain network of a width costs."""

    width: float
    flops: int
    latency_ms: float
    machine: str
    fits: bool = Field(description="whether it keeps to the limits")


class Calibration(Written):
    """Where to run a model, and what is guaranteed there."""

    what: ClassVar[str] = "a report of oat-bench calibrate"

    format_version: Literal[1] = 1
    dataset: str
    held_out: str = Field(description="the images that were calibrated on")
    architecture: str
    method: str
    selection: str = Field(description="the rule that chose the weights")
    threat_model: str = Field(description="norm of the perturbation")
    eps: str
    attack: str = Field(description="that RA of the tests and of the choice is under")
    search_attack: str = Field(default="", description="that of the search; empty: `attack`")
    caution: str = Field(default="", description="why RA under `attack` may be too high")
    card: str = Field(description="fingerprint of the attack card")
    seed: int = Field(description="of the attack")
    gradients: str
    goal: Literal["min-sa", "min-ra", "sa-weight"]
    value: float = Field(description="the bar, or the weight of SA: a share")
    confidence: float = Field(gt=0, lt=1)
    n_search: int = Field(description="examples of the search")
    n_test: int = Field(description="other examples, of the tests and of the choice")
    needed: int | None = Field(description="right answers of n_test that pass the test")
    widths: list[float] = Field(min_length=1, description="that were looked at")
    costs: list[WidthCost] = Field(description="of the widths, where there was a limit")
    points: list[CalibrationPoint] = Field(min_length=1)
    choice: ChosenPoint | None = Field(description="None: no point passed")
    spent: Passes
    grid: Passes = Field(description="of every example at every point of a grid of lambda")
    grid_points: int
    model_fingerprint: str
    data_fingerprint: str
    command: str = Field(description="what made this report; empty: a call from Python")
    versions: dict[str, str]

    @property
    def barred(self) -> Literal["SA", "RA"] | None:
        """The accuracy that has a bar."""
        return BARRED.get(self.goal)

    @property
    def searched_under(self) -> str:
        """The attack of the search."""
        return self.search_attack or self.attack

    @property
    def nearest(self) -> CalibrationPoint:
        """The first of the sequence, the only one tested where no point passed."""
        return min(self.points, key=lambda point: point.planned or len(self.points) + 1)
