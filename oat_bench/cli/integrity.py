"""`integrity`."""

import click

from oat_bench.cli.context import Context, store_in, write_report
from oat_bench.cli.group import cli
from oat_bench.cli.options import MODEL_WIDTHS, SEED, example, lambdas, model_options, option
from oat_bench.cli.printing import command_line, show
from oat_bench.cli.values import COUNTS
from oat_bench.errors import UserError

#: examples, unless told otherwise, of the attacks that take long, and of the comparison of lambda
_N = {"all": 200, "autoattack": 100, "dial": 500}
#: what takes longer at most is announced, in seconds
_LONG = 60


@cli.command(epilog=example("oat-bench integrity runs/fashion-12x12-seed0 --lambda 0,0.1,1"))
@option(
    "--attacks",
    "LIST",
    "To put in order, of fgsm, pgd-7, pgd-20, pgd-50-10, autoattack. [default: these]",
)
@lambdas("Lambda to examine. [default: the trained ones]")
@MODEL_WIDTHS
@option(
    "--n-examples",
    COUNTS,
    "Test images, fewer for some attacks. [default: 200,autoattack=100,dial=500]",
)
@SEED
@model_options()
def integrity(
    context: Context,
    attacks: str | None,
    lambdas: list[float] | None,
    widths: list[float] | None,
    n_examples: dict[str, int] | None,
    seed: int,
) -> None:
    """Say whether the attacks on a model can be trusted, with the evidence.

    MODEL is a run's folder, a checkpoint or an exported file. The attacks are those of its own
    threat model. Then many lambda values, trained or not, are compared: none may be worse than
    another in both SA and RA ("dial"). Exit code 1: a check failed, robust accuracies of this model
    are not what they seem, or its dial is not.
    """
    from oat_bench import datasets
    from oat_bench.classifier import OperatingPoint
    from oat_bench.evaluation import examination
    from oat_bench.evaluation.subject import Subject
    from oat_bench.progress import bar, note
    from oat_bench.reports import integrity as reports
    from oat_bench.results.checks import LADDER
    from oat_bench.results.integrity import IntegrityDial, IntegrityPoint, make_report

    trained = context.trained
    info, _ = trained.info, context.dataset_name
    ladder: tuple[str, ...] = LADDER
    if attacks is not None:
        ladder = tuple(name.strip() for name in attacks.split(",") if name.strip())
    suite = examination.make_suite(
        info.threat, n_classes=info.num_classes, seed=seed, ladder=ladder
    )
    # a file of one lambda has no dial
    whole = examination.dial_lambdas(context.lambdas(None), continuous=trained.continuous)
    points = context.points(lambdas, widths)
    dials = [
        [OperatingPoint(lam, width) for lam in whole]
        for width in context.widths(widths)
        if len(whole) > 1
    ]
    data = context.data
    n, n_dial, fewer = _counts(n_examples, len(data.test), suite.names)
    folder = context.folder()
    nested = datasets.nested_order(data.test.labels)
    subject = Subject(
        trained,
        data.test.to(context.where),
        data.fingerprint(),
        nested[:n],
        fewer,
        store_in(folder),
    )
    on_dials = n_dial * len(whole) * len(dials)
    most = examination.seconds(subject, points, suite, on_dials)
    if most > _LONG:
        note(
            f"{len(points)} operating points of {n} images: up to {most / 60:.0f} minutes on "
            f"{context.where}, less what breaks early or is in {folder / 'outcomes'}; fewer images "
            "with --n-examples"
        )
    found, compared = [], []
    stages = len(points) * examination.stages(subject, suite) + len(whole) * len(dials)
    with bar("examining", stages) as line:
        for point in points:
            checks = examination.examine(subject, point, suite, line)
            found.append(IntegrityPoint.of(point, checks))
        for each in dials:
            check = examination.examine_dial(subject, each, nested[:n_dial], suite, line)
            compared.append(
                IntegrityDial(width=each[0].width, n=n_dial, verdict=check.verdict, checks=[check])
            )
    report = make_report(
        info,
        found,
        dials=compared,
        attacks=[attack.card.name for attack in suite.ladder],
        n=n,
        fewer_examples=fewer,
        seed=seed,
        model_fingerprint=trained.fingerprint(),
        data_fingerprint=data.fingerprint(),
        command=command_line(),
    )
    page = reports.page(report)
    write_report(folder / "integrity", report, md=page.markdown())
    show(page, f"report and outcomes in {folder}")
    if report.verdict == "fail":
        click.get_current_context().exit(1)


def _counts(
    asked: dict[str, int] | None, available: int, known: list[str]
) -> tuple[int, int, dict[str, int]]:
    """Return how many examples, how many to compare lambda on, and for which attacks fewer.

    Raises:
        UserError: if there are not as many, or no such attack.
    """
    from oat_bench.errors import unknown

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
