"""`check`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oat_bench.cli.context import default_out, load_data, load_model
from oat_bench.cli.group import cli
from oat_bench.cli.options import (
    DATA_DIR,
    DEVICE,
    IMAGE_SIZE,
    MODEL_DATASET,
    MODEL_OUT,
    SKIP_BROKEN,
    Lambdas,
    Number,
    example,
)
from oat_bench.cli.printing import command_line, plain_console
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.reports.check import Report


@cli.command(
    epilog=example("oat-bench check runs/new --baseline baselines/digits.json --max-drop 2")
)
@click.argument("model", metavar="MODEL")
@click.option(
    "--baseline", metavar="ENTRY", required=True, help="A run's folder, or an entry's JSON file."
)
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=Number(0, 100, max_open=True),
    default=1.0,
    show_default=True,
    help="The drop that is tolerated, of each accuracy.",
)
@click.option(
    "--confidence",
    metavar="SHARE",
    type=Number(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="How sure a verdict must be, all together.",
)
@click.option(
    "--attacks", metavar="LIST", help="Some of the baseline's attacks, by name. [default: all]"
)
@click.option(
    "--lambda", "lambdas", type=Lambdas(), help="Some of the baseline's lambda. [default: all]"
)
@MODEL_DATASET
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**31 - 1),
    help="Of the attacks. [default: the baseline's]",
)
@DEVICE
@MODEL_OUT
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json", "junit", "github"]),
    default="text",
    show_default=True,
    help="Of what is printed. text: a table in a terminal, Markdown in a pipe.",
)
@click.option(
    "--update-baseline", is_flag=True, help="Make MODEL the baseline, unless the check fails."
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
    image_size: int | None,
    seed: int | None,
    device: str,
    out: Path | None,
    form: str,
    update_baseline: bool,
) -> None:
    """Fail if a model is less accurate or robust than a baseline.

    Attacks MODEL as the baseline was attacked, on the same examples, and compares them one by one.
    MODEL is a run, a checkpoint, or a file of `oat-bench export`.
    Exit code 0: no drop beyond the tolerance is supported; 1: one is; 2: bad input.
    """
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.files import make_folder
    from oat_bench.regression import baseline as baselines
    from oat_bench.regression import check as checks
    from oat_bench.reports import check as formats
    from oat_bench.results.outcomes import OutcomeStore

    whole = baselines.read(baseline)
    names = None if attacks is None else [name.strip() for name in attacks.split(",")]
    keep_freed_memory()
    where = runs.choose_device(device)
    trained = load_model(model, where)
    against = whole.part_for(trained, names, lambdas)
    kept_because = checks.kept_because(against, trained)
    if update_baseline and kept_because is not None:
        raise UserError(kept_because)
    data = load_data(
        trained, model, dataset, data_dir, skip_broken=skip_broken, image_size=image_size
    )
    checks.prepare(trained, against, data, seed)
    folder = out or default_out(trained, model, "check")
    done = checks.check(
        trained,
        against,
        data,
        max_drop=max_drop,
        confidence=confidence,
        seed=seed,
        device=where,
        store=OutcomeStore(make_folder(folder / "outcomes")),
    )
    verdict, updated = done.comparison.verdict, []
    if update_baseline and verdict != "worse":
        updated = checks.renew(done, data, command_line())
    update = command_line("--update-baseline") if kept_because is None else None
    _print(formats.Report(done, model, baseline, update, tuple(map(str, updated))), form)
    click.get_current_context().exit(1 if verdict == "worse" else 0)


def _print(report: "Report", form: str) -> None:
    from oat_bench.reports import check as formats

    console = plain_console()
    if form == "text" and console.is_terminal:
        formats.page(report).draw(console)
        console.print(formats.verdict(report), style="bold", soft_wrap=True)
        for line in formats.offer(report):
            console.print(line, soft_wrap=True)
        return
    write = {"json": formats.as_json, "junit": formats.junit, "github": formats.github}
    click.echo(write.get(form, formats.markdown)(report), nl=False)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if form == "github" and summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(formats.markdown(report) + "\n")
