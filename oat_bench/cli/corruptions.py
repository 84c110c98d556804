"""`corruptions`."""

from oat_bench.cli.context import Context, write_report
from oat_bench.cli.group import command, show
from oat_bench.cli.options import MODEL_WIDTHS, count, lambdas, model_options, option
from oat_bench.cli.values import SEVERITIES


@command("corruptions runs/fashion-12x12-seed0 --lambda 0,0.2,1 --severities 3")
@lambdas("Lambda to evaluate. [default: the trained ones]")
@MODEL_WIDTHS
@count("--n-examples", "Test images. [default: 1000, or all]")
@option("--severities", SEVERITIES, "Of each corruption, 1 the mildest.", "1,2,3,4,5")
@model_options()
def corruptions(
    context: Context,
    lambdas: list[float] | None,
    widths: list[float] | None,
    n_examples: int | None,
    severities: list[int],
) -> None:
    """Measure accuracy under common corruptions: noise, blur, contrast, JPEG.

    MODEL is a run's folder, a checkpoint or an exported file. No adversary chooses the images. For
    CIFAR-10 and CIFAR-100 they are the authors', if the folder CIFAR-10-C or CIFAR-100-C is in
    --data-dir; else eight corruptions are computed.
    """
    from oat_bench.datasets import cifar_c
    from oat_bench.evaluation import corruptions as evaluation
    from oat_bench.reports import corruptions as reports

    trained, name = context.trained, context.dataset_name
    points, data = context.points(lambdas, widths), context.data
    examples = context.examples(n_examples, 1000)
    published = None
    if name in cifar_c.PUBLISHED:
        published = cifar_c.find(name, context.data_dir, data.test.labels)
    names = cifar_c.CORRUPTIONS if published else tuple(evaluation.CORRUPTIONS)
    folder = context.folder()
    images = published or evaluation.computed(data.test)
    subject = context.subject(examples)
    outcomes, digest = evaluation.evaluate(subject, points, images, names, severities)
    report = reports.make_report(
        trained.info,
        outcomes,
        names,
        severities,
        source=cifar_c.PUBLISHED[name][0] if published else "computed",
        images_sha256=digest,
        **context.provenance(),
    )
    page = reports.page(report)
    write_report(folder / "corruptions", report, md=page.markdown(), csv=reports.csv(report))
    show(page, f"tables in {folder}")
