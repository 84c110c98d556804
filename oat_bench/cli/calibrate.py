"""`calibrate`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oat_bench.cli.context import choose_widths, data_of, default_out
from oat_bench.cli.group import cli
from oat_bench.cli.options import (
    ATTACK_GRADIENTS,
    DATA_DIR,
    DEVICE,
    IMAGE_SIZE,
    MODEL_OUT,
    MODEL_WIDTHS,
    SEED,
    SKIP_BROKEN,
    Number,
    example,
)
from oat_bench.cli.printing import command_line, plain_console, print_whole
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.calibration import Calibration, Goal
    from oat_bench.calibration.report import WidthCost
    from oat_bench.classifier import TunableClassifier
    from oat_bench.datasets import Split

#: held-out images, unless told otherwise
_N = 1000


class Share(click.ParamType[float]):
    """A share between 0 and 1, as a fraction or in percent."""

    name = "SHARE"

    def __init__(self, *, ends: bool = False) -> None:
        self._ends = ends

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            self.fail(f"{text!r} is not a number; expected such as 0.95 or 95%")
        if not text.endswith("%") and 1 < number <= 100:
            self.fail(f"{text!r} may be a share or percent; write {number / 100:g} or {number:g}%")
        share = number / 100 if text.endswith("%") else number
        if not (0 <= share <= 1 if self._ends else 0 < share < 1):
            ends = "from 0 to 1" if self._ends else "between 0 and 1, such as 0.95 or 95%"
            self.fail(f"{text} is out of range; expected a share {ends}")
        return share


class Amount(click.ParamType[float]):
    """A number above 0, with k, M or G for thousands, millions and billions."""

    name = "AMOUNT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written."""
        found = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*([kKMGT]?)", str(value).strip())
        try:
            number = float(found[1]) if found else 0.0
        except ValueError:
            number = 0.0
        if not found or not 0 < number < float("inf"):
            self.fail(f"{str(value).strip()!r}; expected a number above 0, such as 1e6 or 1.5M")
        return number * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2].replace("K", "k")]


@cli.command(
    epilog=example("oat-bench calibrate runs/fashion-12x12-seed0 --min-sa 75% --split test")
)
@click.argument("model")
@click.option("--min-sa", type=Share(), help="The highest RA whose SA is at least this.")
@click.option("--min-ra", type=Share(), help="The highest SA whose RA is at least this.")
@click.option(
    "--sa-weight", type=Share(ends=True), help="The highest W SA + (1 - W) RA; no guarantee."
)
@click.option(
    "--max-flops", type=Amount(), help="Widths of no more operations an image: 1e6, 1.5M."
)
@click.option("--max-latency", type=Amount(), help="Widths of no more milliseconds an image.")
@click.option(
    "--confidence",
    type=Share(),
    default="95%",
    show_default=True,
    help="Of the guarantee, and of all intervals.",
)
@click.option(
    "--dataset",
    metavar="NAME|FOLDER",
    help="A folder of your own images, all of them; or the one that the model was trained on.",
)
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="Of the model's data set.",
)
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@click.option(
    "--attack",
    metavar="NAME",
    help="Attack card, or path, that RA is under. [default: autoattack, or apgd, its gradient "
    "parts, where that would take longer than --budget]",
)
@click.option(
    "--budget",
    metavar="MINUTES",
    type=Number(min=0),
    default=10,
    show_default=True,
    help="What autoattack may take to be the default attack.",
)
@MODEL_WIDTHS
@click.option(
    "--n-examples",
    metavar="N",
    type=click.IntRange(2),
    help="Held-out images. [default: 1000, or all]",
)
@ATTACK_GRADIENTS
@SEED
@DEVICE
@MODEL_OUT
def calibrate(
    model: str,
    min_sa: float | None,
    min_ra: float | None,
    sa_weight: float | None,
    max_flops: float | None,
    max_latency: float | None,
    confidence: float,
    dataset: str | None,
    split: Literal["validation", "test"],
    data_dir: Path,
    skip_broken: bool,
    image_size: int | None,
    attack: str | None,
    budget: float,
    widths: list[float] | None,
    n_examples: int | None,
    gradients: Literal["float32", "bf16"],
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Choose lambda and width of a trained model for the accuracies that a use requires.

    MODEL is a run's folder or a checkpoint. The bar of --min-sa or --min-ra (RA under the attack
    that the report names) holds with the confidence asked for, over all points that were tried.
    Exit code 1: no point can be guaranteed.
    """
    goal = _goal(min_sa, min_ra, sa_weight)
    from oat_bench import calibration, checkpoint, datasets, figures
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.attacks.card import attack_card
    from oat_bench.attacks.engines import prepare
    from oat_bench.calibration import procedure, report
    from oat_bench.files import atomic_write, make_folder
    from oat_bench.progress import note
    from oat_bench.results.outcomes import OutcomeStore

    keep_freed_memory()
    where = runs.choose_device(device)
    trained = checkpoint.load(model, where)
    info = trained.info
    dataset = data_of(trained, model, dataset)
    shares = choose_widths(trained, widths)
    ready = None
    if attack is not None:
        ready = prepare(attack_card(attack), info.threat, n_classes=info.num_classes, seed=seed)
    images = calibration.held_out(
        info, dataset, split, data_dir, skip_broken=skip_broken, image_size=image_size
    )
    n = n_examples or min(_N, len(images.data))
    if n > len(images.data):
        raise UserError(f"{n} examples asked for; {images.name} has {len(images.data)}")
    procedure.split(n, goal, confidence)
    data = images.data.to(where)
    costs = _costs(trained, data, shares, max_flops, max_latency)
    fitting = [cost.width for cost in costs if cost.fits] if costs else shares
    examples = datasets.nested_order(images.data.labels)[:n]
    folder = make_folder(out or default_out(trained, model))
    if ready is None:
        ready, why = calibration.strongest(
            trained,
            data,
            goal,
            examples,
            confidence=confidence,
            widths=fitting,
            seed=seed,
            budget=60 * budget,
            gradients=gradients,
        )
        note(why)
    found = calibration.calibrate(
        trained,
        data,
        ready,
        goal,
        data_fingerprint=images.fingerprint,
        confidence=confidence,
        widths=fitting,
        examples=examples,
        store=OutcomeStore(make_folder(folder / "outcomes")),
        gradients=gradients,
        held_out=images.name,
        costs=costs,
        command=command_line(),
    )
    atomic_write(folder / "calibration.json", found.model_dump_json(indent=2) + "\n")
    atomic_write(folder / "calibration.md", report.markdown(found))
    figures.write(figures.calibration(found), folder / "calibration")
    _print(found, folder)
    if found.choice is None:
        click.get_current_context().exit(1)


def _goal(min_sa: float | None, min_ra: float | None, sa_weight: float | None) -> "Goal":
    given = {"min-sa": min_sa, "min-ra": min_ra, "sa-weight": sa_weight}
    kinds = [kind for kind, value in given.items() if value is not None]
    if len(kinds) != 1:
        got = " and ".join(f"--{kind}" for kind in kinds) or "none"
        raise UserError(f"got {got}; expected one of --min-sa, --min-ra and --sa-weight")
    from oat_bench.calibration import Goal

    (kind,) = kinds
    return Goal(kind, given[kind])  # type: ignore[arg-type]


def _costs(
    trained: "TunableClassifier",
    data: "Split",
    widths: list[float],
    max_flops: float | None,
    max_latency: float | None,
) -> "list[WidthCost]":
    """Measure the widths where there is a limit; nothing is measured without one."""
    if max_flops is None and max_latency is None:
        return []
    from oat_bench.calibration import affordable

    return affordable(trained, data, widths, max_flops=max_flops, max_latency=max_latency)


def _print(found: "Calibration", folder: Path) -> None:
    from oat_bench.calibration import report
    from oat_bench.reports import comparison

    console = plain_console()
    if not console.is_terminal:
        click.echo(report.markdown(found), nl=False)
        return
    console.print(report.title(found), style="italic")
    print_whole(console, comparison.terminal(report.table(found)))
    console.print()
    console.print(report.sentence(found), style="bold")
    if found.choice is not None:
        console.print(report.snippet(found), style="green")
    console.print()
    for paragraph in report.notes(found):
        console.print(paragraph, style="dim")
    console.print(f"report, picture and outcomes in {folder}", soft_wrap=True)
