"""`calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oat_bench.cli.context import Context, store_in, write_report
from oat_bench.cli.group import cli
from oat_bench.cli.options import (
    MODEL_WIDTHS,
    SEED,
    choice,
    count,
    example,
    gradients,
    model_options,
    option,
)
from oat_bench.cli.printing import command_line, plain_console, print_whole
from oat_bench.cli.values import AMOUNT, SHARE, SHARE_OR_ALL, Number
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.calibration import Calibration, Goal

#: held-out images, unless told otherwise
_N = 1000


@cli.command(
    epilog=example("oat-bench calibrate runs/fashion-12x12-seed0 --min-sa 75% --split test")
)
@option("--min-sa", SHARE, "The highest RA whose SA is at least this.")
@option("--min-ra", SHARE, "The highest SA whose RA is at least this.")
@option("--sa-weight", SHARE_OR_ALL, "The highest W SA + (1 - W) RA; no guarantee.")
@option("--max-flops", AMOUNT, "Widths of no more operations an image: 1e6, 1.5M.")
@option("--max-latency", AMOUNT, "Widths of no more milliseconds an image.")
@option("--confidence", SHARE, "Of the guarantee, and of all intervals.", "95%")
@option("--split", choice("validation", "test"), "Of the model's data set.", "validation")
@option(
    "--attack",
    "NAME",
    "Attack card, or path, that RA is under. [default: autoattack, or apgd, its gradient parts, "
    "where that would take longer than --budget]",
)
@option(
    "--budget", ("MINUTES", Number(min=0)), "What autoattack may take to be the default attack.", 10
)
@MODEL_WIDTHS
@count("--n-examples", f"Held-out images. [default: {_N}, or all]", least=2)
@gradients("float32")
@SEED
@model_options(
    "A folder of your own images, all of them; or the one that the model was trained on."
)
def calibrate(
    context: Context,
    min_sa: float | None,
    min_ra: float | None,
    sa_weight: float | None,
    max_flops: float | None,
    max_latency: float | None,
    confidence: float,
    split: Literal["validation", "test"],
    attack: str | None,
    budget: float,
    widths: list[float] | None,
    n_examples: int | None,
    gradients: Literal["float32", "bf16"],
    seed: int,
) -> None:
    """Choose lambda and width of a trained model for the accuracies that a use requires.

    MODEL is a run's folder or a checkpoint. The bar of --min-sa or --min-ra (RA under the attack
    that the report names) holds with the confidence asked for, over all points that were tried.
    Exit code 1: no point can be guaranteed.
    """
    goal = _goal(min_sa, min_ra, sa_weight)
    from oat_bench import calibration, datasets, figures
    from oat_bench.attacks.card import attack_card
    from oat_bench.attacks.engines import prepare
    from oat_bench.calibration import procedure, report
    from oat_bench.progress import note

    trained, dataset = context.checkpoint, context.dataset_name
    info = trained.info
    shares = context.widths(widths)
    ready = None
    if attack is not None:
        ready = prepare(attack_card(attack), info.threat, n_classes=info.num_classes, seed=seed)
    images = calibration.held_out(
        info,
        dataset,
        split,
        context.data_dir,
        skip_broken=context.skip_broken,
        image_size=context.image_size,
    )
    n = n_examples or min(_N, len(images.data))
    if n > len(images.data):
        raise UserError(f"{n} examples asked for; {images.name} has {len(images.data)}")
    procedure.split(n, goal, confidence)
    data = images.data.to(context.where)
    costs = []  # nothing is measured without a limit
    if max_flops is not None or max_latency is not None:
        costs = calibration.affordable(
            trained, data, shares, max_flops=max_flops, max_latency=max_latency
        )
    common: dict[str, Any] = {
        "confidence": confidence,
        "widths": [cost.width for cost in costs if cost.fits] if costs else shares,
        "gradients": gradients,
    }
    examples = datasets.nested_order(images.data.labels)[:n]
    folder = context.folder()
    if ready is None:
        ready, why = calibration.strongest(
            trained, data, goal, examples, seed=seed, budget=60 * budget, **common
        )
        note(why)
    found = calibration.calibrate(
        trained,
        data,
        ready,
        goal,
        data_fingerprint=images.fingerprint,
        examples=examples,
        store=store_in(folder),
        held_out=images.name,
        costs=costs,
        command=command_line(),
        **common,
    )
    write_report(folder / "calibration", found, md=report.markdown(found))
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
