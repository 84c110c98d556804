"""`transfer`."""

from typing import TYPE_CHECKING

import click

from oat_bench.cli.context import Context, store_in, write_report
from oat_bench.cli.group import command, show
from oat_bench.cli.options import (
    BATCH_SIZE,
    SEED,
    count,
    gradients,
    lambdas,
    model_options,
    option,
)
from oat_bench.cli.values import WEIGHTS
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.acceleration import Precision


@command("transfer runs/fashion-12x12-seed0 --attack pgd-7 --lambda 0,0.1,1")
@option("--attack", "NAME", "Attack card, or path.", "pgd-20")
@lambdas("Lambda that images are classified at. [default: the trained ones]")
@lambdas("Lambda that images are attacked at. [default: those of --lambda]", "--crafted", "crafted")
@option("--width", float, "Share of the channels. [default: the widest]")
@count("--n-examples", "Test images. [default: 500, or all]")
@click.option(
    "--random-lambda/--no-random-lambda",
    "drawn",
    default=None,
    help="Attack a defender who draws lambda for each query. [default: if the attack is PGD]",
)
@option(
    "--draw",
    WEIGHTS,
    "Lambda that this defender draws, with weights: 0=1,1=3. [default: --lambda, all alike]",
    None,
    "weights",
)
@BATCH_SIZE
@gradients("float32")
@SEED
@model_options()
def transfer(
    context: Context,
    attack: str,
    lambdas: list[float] | None,
    crafted: list[float] | None,
    width: float | None,
    n_examples: int | None,
    drawn: bool | None,
    weights: dict[float, float] | None,
    batch_size: int | None,
    gradients: "Precision",
    seed: int,
) -> None:
    """Attack at one lambda, classify at another.

    MODEL is a run's folder, a checkpoint or an exported file. Says which lambda is the best to
    attack at, whether gradients are masked, and what is left of a defender who draws lambda at
    random.
    """
    from oat_bench import figures
    from oat_bench.attacks.card import attack_card
    from oat_bench.attacks.engines import prepare
    from oat_bench.evaluation import random_lambda
    from oat_bench.evaluation import transfer as evaluation
    from oat_bench.files import atomic_write
    from oat_bench.reports import transfer as reports
    from oat_bench.results.outcomes import write_parquet

    trained = context.trained
    info, _ = trained.info, context.dataset_name
    tested = context.lambdas(lambdas)
    sources = tested if crafted is None else context.lambdas(crafted, "--crafted")
    (share,) = context.widths([info.widths[0] if width is None else width])
    ready = prepare(attack_card(attack), info.threat, n_classes=info.num_classes, seed=seed)
    if weights is not None:
        _check_draw(weights, tested, drawn)
    if drawn is None:
        drawn = weights is not None or (len(tested) > 1 and random_lambda.applies(ready))
    if drawn:
        random_lambda.check_attack(ready)
    odds = weights or dict.fromkeys(tested, 1.0)
    draw = random_lambda.Draw.of(list(odds), list(odds.values()))
    examples, folder = context.examples(n_examples, 500), context.folder()
    subject = context.subject(
        examples, store=store_in(folder), batch_size=batch_size, gradients=gradients
    )
    frame = evaluation.transfer(subject, sources, tested, ready, width=share)
    expectation = random_lambda.evaluate(subject, draw, ready, width=share) if drawn else None
    report = reports.make_report(
        info,
        frame,
        expectation,
        draw,
        attack=ready,
        gradients=gradients,
        **context.provenance(),
    )
    page = reports.page(report)
    write_report(folder / "transfer", report, md=page.markdown(), csv=reports.csv(report))
    write_parquet(folder / "transfer.parquet", frame)
    figures.write(figures.transfer(report), folder / "transfer")
    if report.drawn is not None and expectation is not None:
        atomic_write(folder / "random-lambda.csv", reports.random_csv(report.drawn))
        write_parquet(folder / "random-lambda.parquet", expectation)
    show(page, f"tables, outcomes and figure in {folder}")


def _check_draw(weights: dict[float, float], tested: list[float], drawn: bool | None) -> None:
    """Refuse a draw that nothing attacks, or of lambda that nothing is classified at."""
    if drawn is False:
        raise UserError("--draw is for the attack that --no-random-lambda leaves out")
    for lam in weights:
        if lam not in tested:
            known = ", ".join(f"{one:g}" for one in tested)
            raise UserError(f"--draw has lambda {lam:g}; expected some of --lambda: {known}")
