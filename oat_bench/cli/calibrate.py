"""`calibrate`."""

from typing import Any

import click

from oat_bench.cli import options as shared
from oat_bench.cli.context import Context, hand_in
from oat_bench.cli.group import command, command_line
from oat_bench.cli.options import MODEL_WIDTHS, SEED, count, gradients, model_options, option
from oat_bench.cli.values import AMOUNT, SHARE, SHARE_OR_ALL, Number
from oat_bench.errors import UserError

#: held-out images, unless told otherwise
_N = 1000
_MINUTES = ("MINUTES", Number(min=0))


@command("calibrate runs/fashion-12x12-seed0 --min-sa 75% --split test")
@option("--min-sa", SHARE, "The highest RA whose SA is at least this.")
@option("--min-ra", SHARE, "The highest SA whose RA is at least this.")
@option("--sa-weight", SHARE_OR_ALL, "The highest W SA + (1 - W) RA; no guarantee.")
@option("--max-flops", AMOUNT, "Widths of no more operations an image: 1e6, 1.5M.")
@option("--max-latency", AMOUNT, "Widths of no more milliseconds an image.")
@option("--confidence", SHARE, "Of the guarantee, and of all intervals.", "95%")
@option("--split", ["validation", "test"], "Of the model's data set.", "validation")
@option(
    "--attack",
    "NAME",
    "Attack card, or path, that RA is under. [default: autoattack, or apgd, its gradient parts, "
    "where that would take longer than --budget]",
)
@option("--budget", _MINUTES, "What autoattack may take to be the default attack.", 10)
@MODEL_WIDTHS
@shared.THREAT_OPTIONS
@shared.BATCH_SIZE
@count("--n-examples", f"Held-out images. [default: {_N}, or all]", least=2)
@gradients("float32")
@SEED
@shared.STORE
@model_options(
    "A folder of your own images, all of them; or the one that the model was trained on."
)
def calibrate(
    context: Context,
    split: Any,
    attack: str | None,
    n_examples: int | None,
    changes: dict[str, object],
    **asked: Any,
) -> None:
    """Choose lambda and width of a trained model for the accuracies that a use requires.

    MODEL is what oat-bench evaluate takes. The bar of --min-sa or --min-ra (RA under the attack
    that the report names) holds with the confidence asked for, over all points that were tried.
    Exit code 1: no point can be guaranteed.
    """
    shared.check_trained(changes, "threat")
    limits = {bar: asked.pop(bar) for bar in ("max_flops", "max_latency")}
    kinds = ("min-sa", "min-ra", "sa-weight")
    given = {kind: asked.pop(kind.replace("-", "_")) for kind in kinds}
    bars: dict[Any, float] = {kind: bar for kind, bar in given.items() if bar is not None}
    if len(bars) != 1:
        got = " and ".join(f"--{kind}" for kind in bars) or "none"
        raise UserError(f"got {got}; expected one of --min-sa, --min-ra and --sa-weight")
    from oat_bench import calibration, datasets, figures
    from oat_bench.attacks.card import attack_card
    from oat_bench.attacks.engines import prepare
    from oat_bench.benchmark import card_for
    from oat_bench.calibration import procedure
    from oat_bench.progress import note
    from oat_bench.reports import calibration as reports

    goal = calibration.Goal(*bars.popitem())
    trained, dataset = context.checkpoint, context.dataset_name
    if trained.random:
        raise UserError(
            f"{context.name} answers at random (method {trained.info.method}), and a guarantee is "
            "of one network; calibrate a model of another method"
        )
    info, seed, confidence = trained.info, asked["seed"], asked["confidence"]
    shares = context.widths(asked["widths"])
    card = card_for(dataset).model_copy(update={"threat": info.threat})
    threat, ready = card.with_changes(changes).threat, None
    if attack is not None:
        ready = prepare(attack_card(attack), threat, n_classes=info.num_classes, seed=seed)
    if context.planned is not None:
        whole = ready or prepare(
            attack_card("autoattack"), threat, n_classes=info.num_classes, seed=seed
        )
        n = n_examples or min(_N, len(context.data.splits[split]))
        jobs = calibration.jobs(trained, whole, goal, n, confidence=confidence, widths=shares)
        context.plan(context.subject(context.examples(1, 1)), jobs)
    reading: dict[str, Any] = {one: getattr(context, one) for one in ("skip_broken", "image_size")}
    images = calibration.held_out(info, dataset, split, context.data_dir, **reading)
    n = n_examples or min(_N, len(images.data))
    if n > len(images.data):
        raise UserError(f"{n} examples asked for; {images.name} has {len(images.data)}")
    procedure.split(n, goal, confidence)
    data = images.data.to(context.where)
    costs = []  # nothing is measured without a limit
    if any(limit is not None for limit in limits.values()):
        costs = calibration.affordable(trained, data, shares, **limits)
    common: dict[str, Any] = {
        "confidence": confidence,
        "widths": [cost.width for cost in costs if cost.fits] if costs else shares,
        "gradients": asked["gradients"],
        "batch_size": asked["batch_size"],
    }
    examples = datasets.nested_order(images.data.labels)[:n]
    folder = context.folder()
    if ready is None:
        ready, why = calibration.strongest(
            trained,
            data,
            goal,
            examples,
            seed=seed,
            budget=60 * asked["budget"],
            threat=threat,
            **common,
        )
        note(why)
    found = calibration.calibrate(
        trained,
        data,
        ready,
        goal,
        data_fingerprint=images.fingerprint,
        examples=examples,
        store=context.outcomes(folder),
        held_out=images.name,
        costs=costs,
        command=command_line(),
        **common,
    )
    figures.write(figures.calibration(found), folder / "calibration")
    page = reports.page(found)
    hand_in(folder / "calibration", found, page, "report, picture and outcomes")
    if found.choice is None:
        click.get_current_context().exit(1)
