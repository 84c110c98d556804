"""`check`."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oat_bench.cli.group import cli
from oat_bench.cli.model import data_of
from oat_bench.cli.options import DATA_DIR, DEVICE, SEED, SKIP_BROKEN, Lambdas, example
from oat_bench.cli.printing import print_whole
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.regression import Check


@cli.command(epilog=example("oat-bench check runs/new --baseline runs/old --max-drop 1"))
@click.argument("model")
@click.option(
    "--baseline", metavar="ENTRY", required=True, help="A run's folder, or a published entry."
)
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=click.FloatRange(0, 100, max_open=True),
    default=1.0,
    show_default=True,
    help="Drop that is tolerated.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="That a model which kept within the tolerance passes, all rows together.",
)
@click.option("--attacks", metavar="LIST", help="Only these of the baseline. [default: all]")
@click.option("--lambda", "lambdas", type=Lambdas(), help="Only these of the baseline.")
@click.option(
    "--dataset", metavar="NAME|FOLDER", help="Of the model; needed where it is a folder of images."
)
@DATA_DIR
@SKIP_BROKEN
@SEED
@DEVICE
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "json", "junit", "github"]),
    default="text",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--update-baseline", is_flag=True, help="Make the model the baseline, unless it is worse."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for outcomes. [default: the run's folder, or under runs/]",
)
def check(
    model: str,
    baseline: str,
    max_drop: float,
    confidence: float,
    attacks: str | None,
    lambdas: list[float] | None,
    dataset: str | None,
    data_dir: Path,
    skip_broken: bool,
    seed: int,
    device: str,
    style: str,
    update_baseline: bool,
    out: Path | None,
) -> None:
    """Say whether a model is less robust than a baseline.

    MODEL is a run's folder or a checkpoint. Evaluates the examples, lambda and attacks of the
    baseline, and compares in pairs. Exit code 1: a drop beyond the tolerance is supported.
    """
    if update_baseline and (attacks is not None or lambdas is not None):
        raise UserError("--update-baseline replaces all of it; leave out --attacks and --lambda")
    from oat_bench import classifier, datasets, regression
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.evaluation.outcomes import OutcomeStore
    from oat_bench.files import make_folder

    keep_freed_memory()
    where = runs.choose_device(device)
    before = regression.read_baseline(baseline)
    names = [name.strip() for name in attacks.split(",") if name.strip()] if attacks else None
    before = before.only(names, lambdas)
    trained = classifier.load(model, where)
    data = datasets.load(data_of(trained, model, dataset), data_dir, skip_broken=skip_broken)
    runs.check_fits(trained.info, data)
    # a folder of its own: what lies in the run's own would be described by this command
    folder = out or Path("runs") / f"check-{trained.fingerprint()[:8]}"
    if out is None and Path(model).is_dir():
        folder = Path(model)
    now = regression.measure_again(
        before,
        trained.to(where),
        data,
        OutcomeStore(make_folder(folder / "outcomes")),
        seed=seed,
        device=where,
    )
    result = regression.compare(
        before.outcomes,
        now,
        before.record.worst_over(),
        max_drop=max_drop,
        confidence=confidence,
    )
    _print(result, style)
    if result.verdict == "worse":
        click.get_current_context().exit(1)
    if update_baseline:
        command = shlex.join(["oat-bench", *sys.argv[1:]])
        regression.update(before, trained, now, seed=seed, command=command)
        click.echo(f"{before.record.entry_path}: now this model", err=True)
    elif result.verdict == "better":
        again = shlex.join(["oat-bench", *sys.argv[1:], "--update-baseline"])
        click.echo(f"better than the baseline; to make it the new one: {again}", err=True)


def _print(result: "Check", style: str) -> None:
    from oat_bench.regression import formats

    if style == "json":
        click.echo(formats.as_json(result), nl=False)
    elif style == "junit":
        click.echo(formats.junit(result), nl=False)
    elif style == "github":
        click.echo(formats.github(result), nl=False)
        page = os.environ.get("GITHUB_STEP_SUMMARY")
        if page:
            with Path(page).open("a", encoding="utf-8") as file:
                file.write(formats.markdown(result))
        else:
            click.echo(formats.markdown(result), nl=False)
    elif style == "text" and sys.stdout.isatty():
        _print_text(result)
    else:
        click.echo(formats.markdown(result), nl=False)


def _print_text(result: "Check") -> None:
    from rich.console import Console

    from oat_bench.leaderboards import comparison
    from oat_bench.regression import formats

    console = Console(highlight=False, markup=False, emoji=False)
    print_whole(console, comparison.terminal(formats.table(result)))
    colour = {"worse": "bold red", "ok": "bold green", "better": "bold green"}[result.verdict]
    console.print(formats.summary(result), style=colour)
    for note in formats.notes(result):
        console.print(note, style="dim")
