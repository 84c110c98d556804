"""`check`."""

import os
from pathlib import Path
from typing import Any

import click

from oat_bench.cli import options as shared
from oat_bench.cli.context import Context
from oat_bench.cli.group import command, command_line, plain_console
from oat_bench.cli.options import flag, lambdas, model_options, option, seed
from oat_bench.cli.values import NAMES, Number
from oat_bench.errors import UserError

_POINTS = ("POINTS", Number(0, 100, max_open=True))
_SURE = ("SHARE", Number(0.5, 1, max_open=True))


@command("check runs/new --baseline baselines/digits.json --max-drop 2")
@option("--baseline", "ENTRY", "A run's folder, or an entry's JSON file.", required=True)
@option("--max-drop", _POINTS, "The drop that is tolerated, of each accuracy.", 1.0)
@option("--confidence", _SURE, "Family-wise confidence of the verdicts.", 0.95)
@option("--attacks", NAMES, "Some of the baseline's attacks, by name. [default: all]")
@lambdas("Some of the baseline's lambda. [default: all]")
@option(
    "--format",
    ["text", "markdown", "json", "junit", "github"],
    "Of what is printed. text: a table in a terminal, Markdown in a pipe.",
    "text",
    "form",
)
@flag("--strict", "Fail unless every interval lies within the tolerance.")
@flag("--update-baseline", "Make MODEL the baseline, unless the check fails.")
@seed("Of the attacks. [default: the baseline's]")
@shared.SCALE
@model_options()
def check(context: Context, baseline: str, form: str, update_baseline: bool, **asked: Any) -> None:
    """Fail if a model is less accurate or robust than a baseline.

    Attacks MODEL as the baseline was attacked, on the same examples, and compares them one by one.
    MODEL is a run, a checkpoint, or a file of `oat-bench export`.
    Exit code 0: no drop beyond the tolerance is supported; 1: one is, or with --strict one is not
    excluded; 2: bad input.
    """
    from oat_bench.progress import note
    from oat_bench.regression import baseline as baselines
    from oat_bench.regression import check as checks
    from oat_bench.reports import check as formats

    whole, trained = baselines.read(baseline), context.trained
    against = whole.part_for(trained, asked.pop("attacks"), asked.pop("lambdas"))
    kept_because = checks.kept_because(against, trained)
    if update_baseline and kept_because is not None:
        raise UserError(kept_because)
    data = context.data
    if context.planned is not None:
        attacks = against.prepare(trained.info.num_classes, asked["seed"])
        few = {label: sample.most for label, sample in against.samples().items()}
        jobs = [
            (point, attack, few.get(attack.label, int)(len(ids)))
            for ids, names in against.shares()
            for point in against.points
            for attack in attacks
            if attack.label in names
        ]
        context.plan(context.subject(context.examples(None, 1)), jobs)
    checks.prepare(trained, against, data, asked["seed"])
    folder = context.folder("check")
    done = checks.check(
        trained,
        against,
        data,
        device=context.where,
        store=context.outcomes(folder),
        executor=context.executor(),
        **asked,
    )
    failed, updated = done.comparison.failed, []
    if update_baseline and not failed:
        updated = checks.renew(done, data, command_line())
    update = command_line("--update-baseline") if kept_because is None else None
    report = formats.Report(done, context.name, baseline, update, tuple(map(str, updated)))
    console = plain_console()
    if form == "text" and console.is_terminal:
        formats.page(report).draw(console)
        console.print(formats.verdict(report), style="bold")
        for line in formats.offer(report):
            console.print(line, soft_wrap=True)
    else:
        write = {"json": formats.as_json, "junit": formats.junit, "github": formats.github}
        click.echo(write.get(form, formats.markdown)(report), nl=False)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if form == "github" and summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(formats.markdown(report) + "\n")
    note(f"outcomes in {context.store or folder}")
    click.get_current_context().exit(1 if failed else 0)
