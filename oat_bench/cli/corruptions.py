"""`corruptions`."""

from pathlib import Path

import click

from oat_bench.cli.context import (
    choose_lambdas,
    choose_widths,
    data_of,
    default_out,
    load_data,
    load_model,
)
from oat_bench.cli.group import cli
from oat_bench.cli.options import (
    DATA_DIR,
    DEVICE,
    IMAGE_SIZE,
    MODEL_DATASET,
    MODEL_OUT,
    MODEL_WIDTHS,
    SKIP_BROKEN,
    Lambdas,
    Severities,
    example,
)
from oat_bench.cli.printing import command_line, show
from oat_bench.errors import UserError


@cli.command(
    epilog=example("oat-bench corruptions runs/fashion-12x12-seed0 --lambda 0,0.2,1 --severities 3")
)
@click.argument("model")
@MODEL_DATASET
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@click.option(
    "--lambda", "lambdas", type=Lambdas(), help="Lambda to evaluate. [default: the trained ones]"
)
@MODEL_WIDTHS
@click.option(
    "--n-examples",
    metavar="N",
    type=click.IntRange(1),
    help="Test images. [default: 1000, or all]",
)
@click.option(
    "--severities",
    type=Severities(),
    default="1,2,3,4,5",
    show_default=True,
    help="Of each corruption, 1 the mildest.",
)
@DEVICE
@MODEL_OUT
def corruptions(
    model: str,
    dataset: str | None,
    data_dir: Path,
    skip_broken: bool,
    image_size: int | None,
    lambdas: list[float] | None,
    widths: list[float] | None,
    n_examples: int | None,
    severities: list[int],
    device: str,
    out: Path | None,
) -> None:
    """Measure accuracy under common corruptions: noise, blur, contrast, JPEG.

    MODEL is a run's folder, a checkpoint or an exported file. No adversary chooses the images. For
    CIFAR-10 and CIFAR-100 they are the authors', if the folder CIFAR-10-C or CIFAR-100-C is in
    --data-dir; else eight corruptions are computed.
    """
    from oat_bench import datasets
    from oat_bench import run as runs
    from oat_bench.classifier import OperatingPoint
    from oat_bench.datasets import cifar_c
    from oat_bench.evaluation import corruptions as evaluation
    from oat_bench.files import atomic_write, make_folder
    from oat_bench.reports import corruptions as reports

    where = runs.choose_device(device)
    trained = load_model(model, where)
    name = data_of(trained, model, dataset)
    lambdas, widths = choose_lambdas(trained, lambdas), choose_widths(trained, widths)
    points = [OperatingPoint(lam, width) for width in widths for lam in lambdas]
    data = load_data(trained, model, name, data_dir, skip_broken=skip_broken, image_size=image_size)
    n = n_examples or min(1000, len(data.test))
    if n > len(data.test):
        raise UserError(f"{n} examples asked for; the test set has {len(data.test)}")
    published = None
    if name in cifar_c.PUBLISHED:
        published = cifar_c.find(name, data_dir, data.test.labels)
    names = cifar_c.CORRUPTIONS if published else tuple(evaluation.CORRUPTIONS)
    folder = make_folder(out or default_out(trained, model))
    outcomes, digest = evaluation.evaluate(
        trained.to(where),
        data.test.to(where),
        points,
        published or evaluation.computed(data.test),
        names,
        severities,
        datasets.nested_order(data.test.labels)[:n],
    )
    report = reports.make_report(
        trained.info,
        outcomes,
        names,
        severities,
        source=cifar_c.PUBLISHED[name][0] if published else "computed",
        model_fingerprint=trained.fingerprint(),
        data_fingerprint=data.fingerprint(),
        images_sha256=digest,
        command=command_line(),
    )
    atomic_write(folder / "corruptions.json", report.as_json())
    page = reports.page(report)
    atomic_write(folder / "corruptions.md", page.markdown())
    atomic_write(folder / "corruptions.csv", reports.csv(report))
    show(page, f"tables in {folder}")
