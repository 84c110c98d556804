"""The options that several commands share, and the types of their values."""

import math
from pathlib import Path
from typing import Any

import click


class Lambdas(click.ParamType[list[float]]):
    """A comma-separated list of numbers in [0, 1]."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        lambdas = []
        for part in str(value).split(","):
            try:
                lam = float(part)
            except ValueError:
                self.fail(f"{part.strip()!r} is not a number; expected such as 0,0.1,0.4,1")
            if not 0 <= lam <= 1:
                self.fail(f"lambda {part.strip()} is outside [0, 1]")
            lambdas.append(lam)
        return sorted(set(lambdas))


class Weights(click.ParamType[dict[float, float]]):
    """A comma-separated list of numbers in [0, 1], or of ``number=weight``."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        weights: dict[float, float] = {}
        for part in str(value).split(","):
            try:
                lam, _, weight = part.partition("=")
                number, share = float(lam), float(weight or 1)
            except ValueError:
                self.fail(f"{part.strip()!r}; expected such as 0,0.4,1 or 0=1,0.4=2,1=1")
            if not 0 <= number <= 1:
                self.fail(f"lambda {lam.strip()} is outside [0, 1]")
            if not 0 < share < float("inf") or number in weights:
                self.fail(f"{part.strip()!r}; expected each lambda once, with a weight above 0")
            weights[number] = share
        return weights


class Widths(click.ParamType[list[float]]):
    """A comma-separated list of numbers in (0, 1]."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        widths = []
        for part in str(value).split(","):
            try:
                width = float(part)
            except ValueError:
                self.fail(f"{part.strip()!r} is not a number; expected such as 1,0.75,0.5")
            if not 0 < width <= 1:
                self.fail(f"width {part.strip()} is outside (0, 1]")
            widths.append(width)
        return sorted(set(widths), reverse=True)


class Severities(click.ParamType[list[int]]):
    """A comma-separated list of whole numbers from 1 to 5."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        parts = [part.strip() for part in str(value).split(",")]
        for part in parts:
            if part not in ("1", "2", "3", "4", "5"):
                self.fail(f"{part!r} is no severity; expected some of 1,2,3,4,5")
        return sorted({int(part) for part in parts})


class Counts(click.ParamType[dict[str, int]]):
    """A number, then ``attack=number`` for attacks that get fewer; the number's key is "all"."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        counts = {}
        for part in str(value).split(","):
            attack, given, number = part.rpartition("=")
            if not number.strip().isdecimal() or int(number) < 1 or (given and not attack.strip()):
                self.fail(f"{part.strip()!r}; expected such as 1000 or 1000,autoattack=200")
            counts[attack.strip() or "all"] = int(number)
        return counts


class Number(click.FloatRange):
    """A number in a range; NaN, which no range shuts out, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def example(text: str) -> str:
    """Return the end of a help page."""
    return f"\b\nExample:\n  {text}"


#: read by --help, which imports no card
DEFAULT_BENCHMARK = "fashion-12x12"
DATASET = click.option(
    "--dataset",
    metavar="NAME|FOLDER",
    help="Data set, and the benchmark of its name; or a folder of images.",
)
BENCHMARK = click.option(
    "--benchmark",
    metavar="NAME|FILE",
    help=f"Benchmark card, by name or path. [default: {DEFAULT_BENCHMARK}; image-folder for a "
    "folder]",
)
DATA_DIR = click.option(
    "--data-dir",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default="data",
    show_default=True,
    help="Where data sets are looked for, and downloaded to.",
)
SKIP_BROKEN = click.option(
    "--skip-broken",
    is_flag=True,
    help="Leave out images of a folder that cannot be read, or are of another size or type.",
)
IMAGE_SIZE = click.option(
    "--image-size",
    metavar="N",
    type=click.IntRange(1, 4096),
    help="Resize the shorter side of a folder's images to N, crop to the centre. "
    "[default: the model's, else the card's, else all must be of one size]",
)
DATASET_NAME = click.option(
    "--dataset-name",
    metavar="NAME",
    help="What a folder is called in results. [default: made from the folder's name]",
)
METHOD = click.option(
    "--method", metavar="NAME", help="Method that makes the classifier. [default: the card's]"
)
ATTACKS = click.option(
    "--attacks",
    metavar="LIST",
    help="Attack cards, by name or path, or all; or file:PATH, what --save-images wrote. "
    "[default: the card's]",
)
LAMBDAS = click.option(
    "--lambda", "lambdas", type=Lambdas(), help="Lambda to evaluate. [default: the card's]"
)
WIDTHS = click.option(
    "--widths",
    type=Widths(),
    help="Shares of the channels: of the network to train, or to evaluate. [default: the card's]",
)
MODEL = click.option("--model", metavar="CHECKPOINT", help="Evaluate this one; do not train.")
INTERPOLATION = click.option(
    "--interpolation",
    type=click.Choice(["linear-codes", "spherical-codes", "film"]),
    help="Rule for lambda that were not trained. [default: the checkpoint's]",
)
N_EXAMPLES = click.option(
    "--n-examples",
    type=Counts(),
    help="Test images, fewer for some attacks: 10000,autoattack=500. [default: the card's]",
)
SAVE_IMAGES = click.option(
    "--save-images",
    "images",
    type=click.Choice(["safetensors", "png"]),
    is_flag=False,
    flag_value="safetensors",
    help="Keep attacked images, float32. png: PNGs too, to look at: rounded to 8 bits.",
)
BATCH_SIZE = click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(1),
    help="Images attacked at a time; no outcome depends on it. [default: what fills the device]",
)
GRADIENTS = click.option(
    "--gradients",
    type=click.Choice(["float32", "bf16"]),
    help="Precision that attacks differentiate in; predictions are float32. [default: the card's]",
)
ATTACK_GRADIENTS = click.option(
    "--gradients",
    type=click.Choice(["float32", "bf16"]),
    default="float32",
    show_default=True,
    help="Precision that attacks differentiate in; predictions are float32.",
)
ATTACK_CARD = click.option(
    "--attack", metavar="NAME", default="pgd-20", show_default=True, help="Attack card, or path."
)
MODEL_WIDTHS = click.option(
    "--widths", type=Widths(), help="Shares of the channels. [default: all of the network's]"
)
SEED = click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Of all randomness.",
)
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for results. [default: under runs/]"
)

MODEL_DATASET = click.option(
    "--dataset", metavar="NAME|FOLDER", help="Of the model; needed where it is a folder of images."
)
MODEL_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for results. [default: the run's folder, or under runs/]",
)

RUNS = click.argument("runs", metavar="RUN...", nargs=-1, required=True)
ATTACK = click.option(
    "--attack", metavar="NAME", help="Whose RA. [default: the worst case, or the last all have]"
)
FILE = click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="An .svg, .png or .pdf; without ending both SVG and PNG. [default: the figure's name]",
)
