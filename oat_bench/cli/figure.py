"""`figure`, a command for each kind."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from oat_bench.cli.context import load_data
from oat_bench.cli.group import cli
from oat_bench.cli.options import (
    ATTACK,
    DATA_DIR,
    FILE,
    IMAGE_SIZE,
    RUNS,
    SKIP_BROKEN,
    Lambdas,
    example,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oat_bench.results.entries import Entry
    from oat_bench.results.published import Published


@cli.group(epilog=example("oat-bench figure frontier runs/fashion-12x12-seed0 --out frontier.png"))
def figure() -> None:
    """Draw one figure from one or several runs."""


@figure.command("frontier", epilog=example("oat-bench figure frontier runs/a runs/b --out f.png"))
@RUNS
@ATTACK
@FILE
def figure_frontier(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """SA against RA, a curve for each run.

    Figure 4 of the OAT paper. Published numbers of the same experiment are drawn beside it.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.frontier(entries, quoted, attack), out, "frontier")


@figure.command("attacks", epilog=example("oat-bench figure attacks runs/a runs/b --out f.png"))
@RUNS
@FILE
def figure_attacks(runs: tuple[str, ...], out: Path | None) -> None:
    """SA against RA, a panel for each attack.

    Figure 7 of the OAT paper.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.attacks(entries, quoted), out, "attacks")


@figure.command("lambda", epilog=example("oat-bench figure lambda runs/a --attack pgd-7"))
@RUNS
@ATTACK
@FILE
def figure_lambda(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """SA and RA over lambda.

    Figure 8 of the OAT paper.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.by_lambda(entries, quoted, attack), out, "lambda")


@figure.command("widths", epilog=example("oat-bench figure widths runs/a runs/b --out f.png"))
@RUNS
@ATTACK
@FILE
def figure_widths(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """SA against RA, a panel for each width.

    Figure 6 of the OAT paper.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.widths(entries, quoted, attack), out, "widths")


@figure.command("cost", epilog=example("oat-bench figure cost runs/a --attack pgd-7"))
@click.argument("run_folder", metavar="RUN")
@ATTACK
@FILE
def figure_cost(run_folder: str, attack: str | None, out: Path | None) -> None:
    """SA and RA over the FLOPs of an image, a line for each lambda."""
    from oat_bench import figures

    entries, _ = _entries((run_folder,))
    _write(figures.cost(entries[0], attack), out, "cost")


@figure.command("unseen", epilog=example("oat-bench figure unseen runs/a --out unseen.svg"))
@RUNS
@ATTACK
@FILE
def figure_unseen(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """Lambda that were never trained, as stars.

    Figure 5 of the OAT paper.
    """
    from oat_bench import figures

    entries, _ = _entries(runs)
    _write(figures.unseen(entries, attack), out, "unseen")


@figure.command(
    "bn-statistics", epilog=example("oat-bench figure bn-statistics runs/a --layer norm")
)
@click.argument("model", metavar="CHECKPOINT")
@click.option("--layer", metavar="NAME", help="Norm layer. [default: the last]")
@FILE
def figure_bn_statistics(model: str, layer: str | None, out: Path | None) -> None:
    """Running mean and variance of batch norm.

    Figure 2 of the OAT paper: a point for each channel, a colour for each batch norm.
    """
    from oat_bench import checkpoint, figures

    _write(figures.bn_statistics(checkpoint.load(model), layer), out, "bn-statistics")


@figure.command("saliency", epilog=example("oat-bench figure saliency runs/a --lambda 0,0.1,1"))
@click.argument("model", metavar="CHECKPOINT")
@click.option("--lambda", "lambdas", type=Lambdas(), help="Columns. [default: those trained]")
@click.option(
    "--dataset", metavar="FOLDER", help="Folder of images, for a model that was trained on one."
)
@DATA_DIR
@SKIP_BROKEN
@IMAGE_SIZE
@FILE
def figure_saliency(
    model: str,
    lambdas: list[float] | None,
    dataset: str | None,
    data_dir: Path,
    skip_broken: bool,
    image_size: int | None,
    out: Path | None,
) -> None:
    """Gradient of the loss at test images.

    Figures 10 to 12 of the OAT paper.
    """
    from oat_bench import checkpoint, figures

    trained = checkpoint.load(model)
    data = load_data(
        trained, model, dataset, data_dir, skip_broken=skip_broken, image_size=image_size
    )
    columns = lambdas or trained.info.trained_lambdas
    _write(figures.saliency(trained, data, columns), out, "saliency")


def _entries(runs: tuple[str, ...]) -> "tuple[list[Entry], list[Published]]":
    from oat_bench.results import published, records

    entries = [record.entry for record in records.read_all(runs)]
    return entries, published.of_entries(entries)


def _write(figure: "Figure", out: Path | None, name: str) -> None:
    from oat_bench import figures

    for path in figures.write(figure, Path(name) if out is None else out):
        click.echo(path)
