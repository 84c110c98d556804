"""`integrity`, `transfer` and `corruptions`: what a model withstands."""

from functools import partial
from typing import Any

import click

from oat_bench.cli import options as shared
from oat_bench.cli.context import Context, hand_in
from oat_bench.cli.group import command
from oat_bench.cli.options import count, gradients, lambdas, model_options, option
from oat_bench.cli.values import COUNTS, NAMES, SEVERITIES, WEIGHTS
from oat_bench.errors import UserError, unknown

#: examples, unless told otherwise, of the attacks that take long, and of the comparison of lambda
_N = {"all": 200, "autoattack": 100, "dial": 500}
#: what takes longer at most is announced, in seconds
_LONG = 60


@command("integrity runs/fashion-12x12-seed0 --lambda 0,0.1,1")
@option(
    "--attacks",
    NAMES,
    "To put in order, of fgsm (of L2 fgm), pgd-7, pgd-20, pgd-50-10, autoattack. [default: these]",
)
@lambdas("Lambda to examine. [default: the trained ones]")
@shared.MODEL_WIDTHS
@option(
    "--n-examples",
    COUNTS,
    "Test images, fewer for some attacks. [default: 200,autoattack=100,dial=500]",
)
@shared.SEED
@shared.SCALE
@model_options()
def integrity(
    context: Context, attacks: list[str] | None, n_examples: Any, seed: int, **where: Any
) -> None:
    """Say whether the attacks on a model can be trusted, with the evidence.

    MODEL is what oat-bench evaluate takes. The attacks are those of its own threat model. Then many
    lambda values, trained or not, are compared: none may be worse than another in both SA and RA
    ("dial"). Exit code 1: a check failed, robust accuracies of this model are not what they seem,
    or its dial is not.
    """
    from oat_bench import datasets
    from oat_bench.classifier import OperatingPoint
    from oat_bench.evaluation import examination
    from oat_bench.progress import note, passes
    from oat_bench.reports import integrity as reports
    from oat_bench.results.integrity import IntegrityDial, IntegrityPoint, make_report

    trained = context.trained
    info, _ = trained.info, context.dataset_name
    ladder = None if attacks is None else tuple(filter(None, attacks))
    known: dict[str, Any] = {"n_classes": info.num_classes, "random": trained.random}
    suite = examination.make_suite(info.threat, seed=seed, ladder=ladder, **known)
    # a file of one lambda has no dial
    whole = examination.dial_lambdas(context.lambdas(None), continuous=trained.continuous)
    points = context.points(**where)
    shares = context.widths(where["widths"]) if len(whole) > 1 else []
    dials = [[OperatingPoint(lam, width) for lam in whole] for width in shares]
    labels = context.data.test.labels
    n, n_dial, fewer = _counts(n_examples, len(labels), suite.names)
    nested = datasets.nested_order(labels)
    if context.planned is not None:
        subject = context.subject(nested[:n], fewer=fewer, seed=seed)
        jobs = [(p, *run) for p in points for run in examination.runs(subject, suite)]
        jobs += [(point, suite.base, n_dial) for each in dials for point in each]
        context.plan(subject, jobs)
    folder = context.folder()
    kept: dict[str, Any] = {"store": context.outcomes(folder), "executor": context.executor()}
    subject = context.subject(nested[:n], fewer=fewer, seed=seed, **kept)
    examination.share_out(subject, points, dials, nested[:n_dial], suite)
    on_dials = n_dial * len(whole) * len(dials)
    most = examination.seconds(subject, points, suite, on_dials)
    if most > _LONG:
        note(
            f"{len(points)} operating points of {n} images: up to {most / 60:.0f} minutes on "
            f"{context.where}, less what breaks early or is in {folder / 'outcomes'}; fewer images "
            "with --n-examples"
        )
    found, compared = [], []
    expected = examination.passes(subject, suite, len(points), on_dials)
    with passes("examining", expected) as line:
        for point in points:
            checks = examination.examine(subject, point, suite, line)
            found.append(IntegrityPoint.of(point, checks))
        for each in dials:
            check = examination.examine_dial(subject, each, nested[:n_dial], suite, line)
            judged: dict[str, Any] = {"verdict": check.verdict, "checks": [check]}
            compared.append(IntegrityDial(width=each[0].width, n=n_dial, **judged))
    report = make_report(
        info,
        found,
        dials=compared,
        attacks=[attack.card.name for attack in suite.ladder],
        n=n,
        fewer_examples=fewer,
        seed=seed,
        **context.provenance(),
    )
    hand_in(folder / "integrity", report, reports.page(report), "report and outcomes")
    if report.verdict == "fail":
        click.get_current_context().exit(1)


def _counts(
    asked: dict[str, int] | None, available: int, known: list[str]
) -> tuple[int, int, dict[str, int]]:
    """Return how many examples, how many to compare lambda on, and for which attacks fewer."""
    counts = asked or {}
    for name in counts:
        if name not in ("all", "dial") and name not in known:
            raise unknown("attack with fewer examples", name, [*known, "dial"])
    n = counts.get("all", min(_N["all"], available))
    n_dial = counts.get("dial", counts.get("all", min(_N["dial"], available)))
    if max(n, n_dial) > available:
        raise UserError(f"{max(n, n_dial)} examples asked for; the test set has {available}")
    wanted = {name: count for name, count in (_N | counts).items() if name in known}
    return n, n_dial, {name: count for name, count in wanted.items() if count < n}


@command("transfer runs/fashion-12x12-seed0 --attack pgd-7 --lambda 0,0.1,1")
@option("--attack", "NAME", "Attack card, or path.", "pgd-20")
@lambdas("Lambda values that images are classified at. [default: the trained ones]")
@lambdas(
    "Lambda values that images are attacked at. [default: those of --lambda]",
    "--crafted",
    "crafted",
)
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
    "Lambda values that this defender draws, with weights: 0=1,1=3. [default: --lambda, all alike]",
    None,
    "weights",
)
@shared.BATCH_SIZE
@gradients("float32")
@shared.SEED
@shared.SCALE
@model_options()
def transfer(
    context: Context,
    attack: str,
    n_examples: int | None,
    drawn: bool | None,
    weights: dict[float, float] | None,
    seed: int,
    **asked: Any,
) -> None:
    """Attack at one lambda, classify at another.

    MODEL is what oat-bench evaluate takes. Says which lambda is the best to attack at, whether
    gradients are masked, and what is left of a defender who draws lambda at random.
    """
    from oat_bench import figures
    from oat_bench.attacks.card import attack_card
    from oat_bench.attacks.engines import prepare
    from oat_bench.classifier import OperatingPoint
    from oat_bench.evaluation import random_lambda
    from oat_bench.evaluation import transfer as evaluation
    from oat_bench.evaluation.sharing import finish
    from oat_bench.files import atomic_write
    from oat_bench.reports import transfer as reports
    from oat_bench.results.outcomes import write_parquet

    trained = context.trained
    info, _ = trained.info, context.dataset_name
    tested = context.lambdas(asked.pop("lambdas"))
    crafted, width = asked.pop("crafted"), asked.pop("width")
    sources = tested if crafted is None else context.lambdas(crafted, "--crafted")
    (share,) = context.widths([info.widths[0] if width is None else width])
    ready = prepare(attack_card(attack), info.threat, n_classes=info.num_classes, seed=seed)
    if weights is not None and drawn is False:
        raise UserError("--draw is for the attack that --no-random-lambda leaves out")
    for lam in (lam for lam in weights or () if lam not in tested):
        known = ", ".join(f"{one:g}" for one in tested)
        raise UserError(f"--draw has lambda {lam:g}; expected some of --lambda: {known}")
    if drawn is None:
        drawn = weights is not None or (len(tested) > 1 and random_lambda.applies(ready))
    if drawn:
        random_lambda.check_attack(ready)
    odds = weights or dict.fromkeys(tested, 1.0)
    draw = random_lambda.Draw.of(list(odds), list(odds.values()))
    examples = context.examples(n_examples, 500)
    if context.planned is not None:
        jobs = [(OperatingPoint(lam, share), ready, len(examples)) for lam in sources]
        # the attack on the expectation passes through all networks
        jobs += [(OperatingPoint(lam, share), ready, len(examples)) for lam in odds if drawn]
        context.plan(context.subject(examples, seed=seed, **asked), jobs)
    folder = context.folder()
    kept: dict[str, Any] = {"store": context.outcomes(folder), "executor": context.executor()}
    subject = context.subject(examples, seed=seed, **kept, **asked)
    frame = evaluation.transfer(subject, sources, tested, ready, width=share)
    expectation = random_lambda.evaluate(subject, draw, ready, width=share) if drawn else None
    finish(subject)
    report = reports.make_report(
        info,
        frame,
        expectation,
        draw,
        attack=ready,
        gradients=subject.gradients,
        **context.provenance(),
    )
    write_parquet(folder / "transfer.parquet", frame)
    figures.write(figures.transfer(report), folder / "transfer")
    if report.drawn is not None and expectation is not None:
        atomic_write(folder / "random-lambda.csv", reports.random_csv(report.drawn))
        write_parquet(folder / "random-lambda.parquet", expectation)
    page, csv = reports.page(report), reports.csv(report)
    hand_in(folder / "transfer", report, page, "tables, outcomes and figure", csv=csv)


@command("corruptions runs/fashion-12x12-seed0 --lambda 0,0.2,1 --severities 3")
@lambdas("Lambda to evaluate. [default: the trained ones]")
@shared.MODEL_WIDTHS
@count("--n-examples", "Test images. [default: 1000, or all]")
@option("--severities", SEVERITIES, "Of each corruption, 1 the mildest.", "1,2,3,4,5")
@model_options()
def corruptions(
    context: Context, n_examples: int | None, severities: list[int], **where: Any
) -> None:
    """Measure accuracy under common corruptions: noise, blur, contrast, JPEG.

    MODEL is what oat-bench evaluate takes. No adversary chooses the images. For CIFAR-10 and
    CIFAR-100 they are the authors', if the folder CIFAR-10-C or CIFAR-100-C is in --data-dir; else
    eight corruptions are computed.
    """
    from oat_bench.datasets import cifar_c
    from oat_bench.evaluation import corruptions as evaluation
    from oat_bench.reports import corruptions as reports

    name = context.dataset_name
    points, data = context.points(**where), context.data
    examples = context.examples(n_examples, 1000)
    if context.planned is not None:
        from oat_bench import planning

        plan, subject = planning.Plan(context.where), context.subject(examples)
        times = len(evaluation.CORRUPTIONS) * len(severities)
        planning.add_predictions(plan, subject, points, times)
        context.planned.show(plan)
    published = None
    if name in cifar_c.PUBLISHED:
        published = cifar_c.find(name, context.data_dir, data.test.labels)
    names = cifar_c.CORRUPTIONS if published else tuple(evaluation.CORRUPTIONS)
    images = published or partial(evaluation.computed, data.test)
    folder, subject = context.folder(), context.subject(examples)
    outcomes, digest = evaluation.evaluate(subject, points, images, names, severities)
    report = reports.make_report(
        context.trained.info,
        outcomes,
        names,
        severities,
        source=cifar_c.PUBLISHED[name][0] if published else "computed",
        images_sha256=digest,
        **context.provenance(),
    )
    page, csv = reports.page(report), reports.csv(report)
    hand_in(folder / "corruptions", report, page, "tables", csv=csv)
