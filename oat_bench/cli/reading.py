"""`list`, `show`, `results`, `compare` and `figure`, which read what is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oat_bench.cli import options as shared
from oat_bench.cli.context import Context
from oat_bench.cli.group import cli, command, example, plain_console, show
from oat_bench.cli.options import FILE, PATH, flag, group, in_context, lambdas, option
from oat_bench.cli.values import Number
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oat_bench.zoo.published import Published

#: columns of `results` that are set to the right
_NUMBERS = {"lambda", "width", "eps", "seed", "n", "m", "SA", "RA"}
#: and those that tell rows apart
_KEYS = ("model", "lambda", "width", "attack", "attacked at", "where")


@command("list attacks")
@click.argument(
    "kind", type=click.Choice(["attacks", "benchmarks", "datasets", "methods", "models"])
)
def list_(kind: str) -> None:
    """List the cards, data sets and methods that ship with the package, and published models.

    Of a model SA and RA (worst case over its attacks) are in percent, at both ends of its lambda.
    """
    from oat_bench import cards, registry
    from oat_bench.attacks.card import attack_card
    from oat_bench.attacks.selection import RANDOM_SUITE
    from oat_bench.benchmark import benchmark_card
    from oat_bench.reports.table import Table

    rows: list[tuple[str, ...]]
    numbers = 0  # columns at the end that stand to the right
    if kind == "attacks":
        headers: tuple[str, ...] = ("attack", "engine", "in all", "what it is")
        found = [attack_card(name) for name in cards.names("attacks")]
        suite = {c.name: "yes" for c in found if c.default} | dict.fromkeys(RANDOM_SUITE, "random")
        rows = [(c.name, c.engine, suite.get(c.name, ""), c.description) for c in found]
    elif kind == "benchmarks":
        headers = ("benchmark", "data set", "network", "what it is")
        shipped = [benchmark_card(name) for name in cards.names("benchmarks")]
        rows = [(c.name, c.dataset, c.network.architecture, c.description) for c in shipped]
    elif kind == "methods":
        headers = ("method", "lambda", "what it is")
        rows = [
            (n, "any" if m.continuous else "trained", (m.__doc__ or "").splitlines()[0])
            for n, m in registry.METHODS.items()
        ]
    elif kind == "models":
        from oat_bench.zoo import published

        headers = ("model", "method", "lambda", "SA", "RA", "size")
        rows, numbers = [_published(model) for model in published.models()], 4
    else:
        headers = ("data set", "what it is")
        rows = [(n, (f.__doc__ or "").splitlines()[0]) for n, f in registry.DATASETS.items()]
    words = headers[: len(headers) - numbers]
    found_rows = [dict(zip(headers, row, strict=True)) for row in rows]
    Table(found_rows, words).draw(plain_console())


def _published(model: "Published") -> tuple[str, ...]:
    from oat_bench.results import records

    entry = records.read(model.entry).entry
    widest = [point for point in entry.operating_points if point.width == entry.widths[0]]
    by_lambda = {point.lam: point for point in widest}
    ends = [by_lambda[lam] for lam in sorted({min(by_lambda), max(by_lambda)})]
    robust = [list(point.robust.values())[-1:] for point in ends]
    columns = (
        [f"{point.lam:g}" for point in ends],
        [f"{point.clean_acc:.1f}" for point in ends],
        [f"{accuracy.value:.1f}" for last in robust for accuracy in last],
    )
    return (model.name, entry.method, *map(", ".join, columns), f"{model.bytes / 1e6:.1f} MB")


@cli.group("show", epilog=example("show card digits"))
def show_group() -> None:
    """Show what a name stands for."""


@command("show card digits --set training.epochs=3", show_group)
@click.argument("card", metavar="NAME|FILE")
@shared.THREAT_OPTIONS
def show_card(card: str, changes: dict[str, object]) -> None:
    """Print a card, all of it, with what each key means.

    Of a benchmark or an attack, by name or path, or of a run, by its folder. What is printed is a
    card itself, for --benchmark or --attacks.
    """
    from oat_bench import cards
    from oat_bench.attacks.card import AttackCard
    from oat_bench.benchmark import BenchmarkCard
    from oat_bench.card_text import as_toml
    from oat_bench.run_folder import CARD

    path = Path(card) / CARD
    found = cards.find_any(str(path) if path.is_file() else card, BenchmarkCard, AttackCard)
    if isinstance(found, BenchmarkCard):
        found = found.with_changes(changes)
    else:
        found = cards.changed(found, cards.settings(type(found), changes))
    click.echo(as_toml(found), nl=False)


@command("results runs --attack pgd-20 --lambda 0,1 --out all.csv")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=PATH)
@option("--dataset", "LIST", "Only these data sets.")
@option("--method", "LIST", "Only these methods.")
@option("--model", "LIST", "Only these fingerprints, or how they begin.")
@option("--attack", "LIST", "Only these attacks.")
@option("--seed", "LIST", "Only attacks of these seeds.")
@lambdas("Only these lambda values.")
@flag("--examples", "A row for each example, not a row for all.")
@option("--out", FILE, "Write a .csv or .parquet with all columns, and print nothing.")
def results(folders: tuple[Path, ...], examples: bool, out: Path | None, **only: Any) -> None:
    """List what was evaluated: every model, operating point and attack.

    A FOLDER is a run's, or one that holds runs. [default: runs]
    """
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {out}: expected a file that ends in .csv or .parquet")
    if examples and out is None:
        raise UserError("--examples is for a file; name one with --out, such as --out all.parquet")
    from oat_bench.files import atomic_write
    from oat_bench.progress import note
    from oat_bench.reports.table import Row, Table
    from oat_bench.results import listing as found
    from oat_bench.results.outcomes import write_parquet

    table = found.outcomes(found.stores(folders or (Path("runs"),)))
    # before some are chosen: attacks are run on what others left
    table = table.drop(columns="after") if examples else found.summarize(table)
    for column in ("dataset", "method", "attack", "seed", "model"):
        table = found.only(table, column, only[column], prefix=column == "model")
    if only["lambdas"] is not None:
        table = table[table["lam"].isin(only["lambdas"])]
    if out is not None:
        if out.suffix == ".csv":
            atomic_write(out, table.to_csv(index=False))
        else:
            write_parquet(out, table)
        note(f"{len(table)} rows in {out}")
    elif table.empty:
        click.echo("nothing was evaluated there, or nothing of what was asked", err=True)
    else:
        table, console = found.shown(table), plain_console()
        rows: list[Row] = table.to_dict("records")  # type: ignore[assignment]
        several = [name for name in _KEYS if name in table and table[name].nunique() > 1]
        drawn = Table(rows, set(table.columns) - _NUMBERS, foreign=False, keys=several, digits=0)
        if console.is_terminal:
            drawn.draw(console)
        else:
            click.echo(drawn.markdown())


@command("compare runs/fashion-12x12-seed0 runs/fashion-12x12-seed1")
@shared.RUNS
@option("--reference", "RUN", "The run to compare with. [default: the first]")
@option(
    "--reference-lambda",
    ("LAMBDA", Number(0, 1)),
    "Of one RUN: the lambda to compare with. [default: the one before]",
)
@shared.ATTACK
@option("--out", PATH, "Folder for tables and figure.", Path("runs") / "compare")
def compare(runs: tuple[str, ...], reference: str | None, out: Path, **asked: Any) -> None:
    """Compare runs: every lambda, and the frontiers.

    A row for each method and lambda, a row for each frontier, and their figure. A RUN is a run's
    folder, an entry.json, a checkpoint that was evaluated, or a published model. Where two runs
    have outcomes of the same examples, differences are tested in pairs. Of one RUN, the lambda
    values are compared with each other. Runs that differ in the seed alone are also summed up as
    mean and spread.
    """
    if reference is not None and reference not in runs:
        raise UserError(
            f"--reference {reference} is none of the runs; name one of {', '.join(runs)}"
        )
    from oat_bench import figures
    from oat_bench.files import atomic_write, make_folder
    from oat_bench.progress import note
    from oat_bench.reports import comparison as reports
    from oat_bench.results import comparison, published, records
    from oat_bench.zoo.evaluated import entry_of

    found = records.read_all(map(entry_of, runs))
    place = 0 if reference is None else runs.index(reference)
    lam = asked.pop("reference_lambda")
    result = comparison.compare(found, reference=place, reference_lam=lam, **asked)
    folder, page, written = make_folder(out), reports.page(result), reports.csv(result)
    if (table := folder / "compare.csv").is_file():
        had, has = (text.count("\n") - 1 for text in (table.read_text("utf-8"), written))
        if had > has:
            note(f"{table}: replaced; the earlier one had {had} rows, this one has {has}")
    atomic_write(folder / "compare.md", page.markdown())
    atomic_write(table, written)
    (folder / "seeds.csv").unlink(missing_ok=True)  # what an earlier comparison left
    if result.over_seeds:
        atomic_write(folder / "seeds.csv", reports.seeds_csv(result.over_seeds))
    entries = [record.entry for record in found]
    drawn = figures.frontier(entries, published.of_entries(entries), result.attack)
    figures.write(drawn, folder / "frontier")
    show(page, f"tables and figure in {folder}")


_OVER_FLOPS = "SA and RA over the FLOPs of an image, a line for each lambda."
#: kinds that are drawn of entries: the figure of the OAT paper, what it shows, an example's options
_OF_RUNS = {
    "frontier": ("4", "SA against RA, a curve for each run.", "runs/a runs/b --out f.png"),
    "attacks": ("7", "SA against RA, a panel for each attack.", "runs/a runs/b --out f.png"),
    "lambda": ("8", "SA and RA over lambda.", "runs/a --attack pgd-7"),
    "widths": ("6", "SA against RA, a panel for each width.", "runs/a runs/b --out f.png"),
    "cost": ("", _OVER_FLOPS, "runs/a --attack pgd-7"),
    "unseen": ("5", "Lambda values that were never trained, as stars.", "runs/a --out unseen.svg"),
}
_FILE = option(
    "--out",
    FILE,
    "An .svg, .png or .pdf; without ending both SVG and PNG. [default: the figure's name]",
)


@cli.group(epilog=example("figure frontier runs/fashion-12x12-seed0 --out frontier.png"))
def figure() -> None:
    """Draw one figure from one or several runs."""


def _add(kind: str, number: str, text: str, options: str) -> None:
    """Add a kind that is drawn of entries."""

    def draw(runs: str | tuple[str, ...], out: Path | None, **attack: Any) -> None:
        from oat_bench import figures
        from oat_bench.results import published, records
        from oat_bench.zoo.evaluated import entry_of

        found = records.read_all(map(entry_of, [runs] if isinstance(runs, str) else runs))
        entries = [record.entry for record in found]
        given: list[Any] = [entries[0] if kind == "cost" else entries]
        if kind not in ("cost", "unseen"):
            given.append(published.of_entries(entries))
        function = getattr(figures, "by_lambda" if kind == "lambda" else kind)
        _write(function(*given, **attack), out, kind)

    which = click.argument("runs", metavar="RUN") if kind == "cost" else shared.RUNS
    attacks = [] if kind == "attacks" else [shared.ATTACK]
    draw.__doc__ = f"{text}\n\nFigure {number} of the OAT paper." if number else text
    if kind == "frontier":
        draw.__doc__ += " Published numbers of the same experiment are drawn beside it."
    command(f"figure {kind} {options}", figure)(group(which, *attacks, _FILE)(draw))


for _kind, _about in _OF_RUNS.items():
    _add(_kind, *_about)


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
@shared.IMAGES
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
