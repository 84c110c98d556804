"""Accuracy under common corruptions, as it is written as corruptions.json."""

from typing import Literal

from pydantic import Field

from oat_bench.statistics.accuracy import Accuracy, Percent
from oat_bench.written import Written


class CorruptionPoint(Written):
    """One operating point."""

    lam: float
    width: float
    sa: Accuracy = Field(description="of the images as they are, with a Wilson interval")
    mean: Accuracy = Field(description="over corruptions and severities; interval by bootstrap")
    corruptions: dict[str, list[Percent]] = Field(description="accuracy at each severity")


class Corruptions(Written):
    """What is written as corruptions.json."""

    format_version: Literal[1] = 1
    dataset: str
    method: str
    architecture: str
    source: str = Field(description="of the images: computed, or what was published")
    n: int = Field(description="number of images")
    severities: list[int]
    operating_points: list[CorruptionPoint] = Field(min_length=1)
    model_fingerprint: str
    data_fingerprint: str
    images_sha256: str = Field(description="of all corrupted images, in the order of evaluation")
    command: str
    versions: dict[str, str]
