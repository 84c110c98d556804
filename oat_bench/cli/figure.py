"""`figure`, a command for each kind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oat_bench.cli.context import Context
from oat_bench.cli.group import cli, command, example
from oat_bench.cli.options import ATTACK, FILE, IMAGES, RUNS, group, in_context, lambdas, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: kinds that are drawn of entries: what is on their page, and the options of its example
_OF_RUNS = {
    "frontier": (
        "SA against RA, a curve for each run.\n\nFigure 4 of the OAT paper. Published numbers of "
        "the same experiment are drawn beside it.",
        "runs/a runs/b --out f.png",
    ),
    "attacks": (
        "SA against RA, a panel for each attack.\n\nFigure 7 of the OAT paper.",
        "runs/a runs/b --out f.png",
    ),
    "lambda": ("SA and RA over lambda.\n\nFigure 8 of the OAT paper.", "runs/a --attack pgd-7"),
    "widths": (
        "SA against RA, a panel for each width.\n\nFigure 6 of the OAT paper.",
        "runs/a runs/b --out f.png",
    ),
    "cost": (
        "SA and RA over the FLOPs of an image, a line for each lambda.",
        "runs/a --attack pgd-7",
    ),
    "unseen": (
        "Lambda that were never trained, as stars.\n\nFigure 5 of the OAT paper.",
        "runs/a --out unseen.svg",
    ),
}
_RUN = click.argument("runs", metavar="RUN", nargs=1)
_FILE = option(
    "--out",
    FILE,
    "An .svg, .png or .pdf; without ending both SVG and PNG. [default: the figure's name]",
)


@cli.group(epilog=example("figure frontier runs/fashion-12x12-seed0 --out frontier.png"))
def figure() -> None:
    """Draw one figure from one or several runs."""


def _add(kind: str, text: str, options: str) -> None:
    """Add a kind that is drawn of entries."""

    def draw(runs: str | tuple[str, ...], out: Path | None, **attack: Any) -> None:
        from oat_bench import figures
        from oat_bench.results import published, records

        found = records.read_all([runs] if isinstance(runs, str) else runs)
        entries = [record.entry for record in found]
        given: list[Any] = [entries[0] if kind == "cost" else entries]
        if kind not in ("cost", "unseen"):
            given.append(published.of_entries(entries))
        function = getattr(figures, "by_lambda" if kind == "lambda" else kind)
        _write(function(*given, **attack), out, kind)

    which = _RUN if kind == "cost" else RUNS
    parameters = group(which, _FILE) if kind == "attacks" else group(which, ATTACK, _FILE)
    draw.__doc__ = text
    command(f"figure {kind} {options}", figure)(parameters(draw))


for _kind, (_text, _options) in _OF_RUNS.items():
    _add(_kind, _text, _options)


@command("figure bn-statistics runs/a --layer norm", figure)
@click.argument("model", metavar="CHECKPOINT")
@option("--layer", "NAME", "Norm layer. [default: the last]")
@_FILE
def figure_bn_statistics(model: str, layer: str | None, out: Path | None) -> None:
    """Running mean and variance of batch norm.

    Figure 2 of the OAT paper: a point for each channel, a colour for each batch norm.
    """
    from oat_bench import figures

    trained = Context(model, device="cpu").checkpoint
    _write(figures.bn_statistics(trained, layer), out, "bn-statistics")


@command("figure saliency runs/a --lambda 0,0.1,1", figure)
@click.argument("model", metavar="CHECKPOINT")
@lambdas("Columns. [default: those trained]")
@option("--dataset", "FOLDER", "Folder of images, for a model that was trained on one.")
@IMAGES
@_FILE
@in_context
def figure_saliency(context: Context, lambdas: list[float] | None) -> None:
    """Gradient of the loss at test images.

    Figures 10 to 12 of the OAT paper.
    """
    from oat_bench import figures

    context.device = "cpu"
    drawn = figures.saliency(context.trained, context.data, context.lambdas(lambdas))
    _write(drawn, context.out, "saliency")


def _write(figure: "Figure", out: Path | None, name: str) -> None:
    from oat_bench import figures

    for path in figures.write(figure, Path(name) if out is None else out):
        click.echo(path)
