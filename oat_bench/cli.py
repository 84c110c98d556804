"""The command line: parses, calls, prints. Heavy imports wait until a command runs."""

import errno
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from oat_bench import __version__
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

    from oat_bench.cards import BenchmarkCard
    from oat_bench.leaderboards.entries import Entry
    from oat_bench.leaderboards.published import Published
    from oat_bench.networks.conditioning import Interpolation
    from oat_bench.run import Report

#: what a full disk looks like, by quota or by limit too
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: how torch says that there is no memory left, on a GPU and on a CPU
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
#: the width of a table where nothing needs to be folded, as in a pipe
_UNFOLDED = 10_000


class _Lambdas(click.ParamType[list[float]]):
    """A comma-separated list of numbers in [0, 1]."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        lambdas = []
        for part in str(value).split(","):
            try:
                lam = float(part)
            except ValueError:
                self.fail(f"{part.strip()!r} is not a number; expected such as 0,0.1,0.4,1")
            if not 0 <= lam <= 1:
                self.fail(f"lambda {part.strip()} is outside [0, 1]")
            lambdas.append(lam)
        return sorted(set(lambdas))


class _Widths(click.ParamType[list[float]]):
    """A comma-separated list of numbers in (0, 1]."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        widths = []
        for part in str(value).split(","):
            try:
                width = float(part)
            except ValueError:
                self.fail(f"{part.strip()!r} is not a number; expected such as 1,0.75,0.5")
            if not 0 < width <= 1:
                self.fail(f"width {part.strip()} is outside (0, 1]")
            widths.append(width)
        return sorted(set(widths), reverse=True)


def _example(text: str) -> str:
    return f"\b\nExample:\n  {text}"


_DATASET = click.option(
    "--dataset",
    metavar="NAME|FOLDER",
    help="Data set, and the benchmark of its name; or a folder of images.",
)
_BENCHMARK = click.option(
    "--benchmark",
    metavar="NAME|FILE",
    help="Benchmark card, by name or path. [default: digits; image-folder for a folder]",
)
_DATA_DIR = click.option(
    "--data-dir",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default="data",
    show_default=True,
    help="Where data sets are looked for, and downloaded to.",
)
_SKIP_BROKEN = click.option(
    "--skip-broken", is_flag=True, help="Leave out images of a folder that cannot be read."
)
_METHOD = click.option(
    "--method", metavar="NAME", help="Method that makes the classifier. [default: the card's]"
)
_ATTACKS = click.option(
    "--attacks", metavar="LIST", help="Attack cards, by name or path, or all. [default: the card's]"
)
_LAMBDAS = click.option(
    "--lambda", "lambdas", type=_Lambdas(), help="Lambda to evaluate. [default: the card's]"
)
_WIDTHS = click.option(
    "--widths",
    type=_Widths(),
    help="Shares of the channels: of the network to train, or to evaluate. [default: the card's]",
)
_MODEL = click.option("--model", metavar="CHECKPOINT", help="Evaluate this one; do not train.")
_INTERPOLATION = click.option(
    "--interpolation",
    type=click.Choice(["linear-codes", "spherical-codes", "film"]),
    help="Rule for lambda that were not trained. [default: the checkpoint's]",
)
_N_EXAMPLES = click.option(
    "--n-examples",
    metavar="N",
    type=click.IntRange(min=1),
    help="Test images. [default: the card's]",
)
_GRADIENTS = click.option(
    "--gradients",
    type=click.Choice(["float32", "bf16"]),
    help="Precision that attacks differentiate in; predictions are float32. [default: the card's]",
)
_SEED = click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Of all randomness.",
)
_DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for results. [default: under runs/]"
)

_RUNS = click.argument("runs", metavar="RUN...", nargs=-1, required=True)
_ATTACK = click.option(
    "--attack", metavar="NAME", help="Whose RA. [default: the worst case, or the last all have]"
)
_FILE = click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="An .svg, .png or .pdf; without ending both SVG and PNG. [default: the figure's name]",
)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if sys.stderr.isatty():
                click.echo(err=True)  # a line of its own for the ^C
            raise click.Abort from error


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_example("oat-bench run --dataset digits --attacks all"),
)
@click.version_option(__version__, package_name="oat-bench")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train, attack and compare classifiers whose trade-off is chosen at test time."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(epilog=_example("oat-bench run --dataset digits --attacks pgd-20 --lambda 0,0.5,1"))
@_DATASET
@_BENCHMARK
@_DATA_DIR
@_SKIP_BROKEN
@_METHOD
@_ATTACKS
@_LAMBDAS
@_WIDTHS
@_MODEL
@_N_EXAMPLES
@_GRADIENTS
@_SEED
@_DEVICE
@_OUT
def run(
    dataset: str | None,
    benchmark: str | None,
    data_dir: Path,
    skip_broken: bool,
    method: str | None,
    attacks: str | None,
    lambdas: list[float] | None,
    widths: list[float] | None,
    model: str | None,
    n_examples: int | None,
    gradients: str | None,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Train if there is no checkpoint, attack at every lambda, print the table.

    What a run finished is kept: the same command goes on from there.
    """
    data = (data_dir, skip_broken)
    _evaluate(
        dataset,
        benchmark,
        attacks,
        lambdas,
        widths,
        model,
        method,
        n_examples,
        gradients,
        seed,
        device,
        out,
        data,
        None,
    )


@cli.command(epilog=_example("oat-bench evaluate --model runs/digits-seed0 --lambda 0,0.15,0.5"))
@click.option(
    "--model", metavar="CHECKPOINT", required=True, help="A checkpoint or a run's folder."
)
@_DATASET
@_BENCHMARK
@_DATA_DIR
@_SKIP_BROKEN
@_ATTACKS
@_LAMBDAS
@_WIDTHS
@_INTERPOLATION
@_N_EXAMPLES
@_GRADIENTS
@_SEED
@_DEVICE
@_OUT
def evaluate(
    model: str,
    dataset: str | None,
    benchmark: str | None,
    data_dir: Path,
    skip_broken: bool,
    attacks: str | None,
    lambdas: list[float] | None,
    widths: list[float] | None,
    interpolation: "Interpolation | None",
    n_examples: int | None,
    gradients: str | None,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Attack a trained checkpoint at every lambda, print the table."""
    data = (data_dir, skip_broken)
    _evaluate(
        dataset,
        benchmark,
        attacks,
        lambdas,
        widths,
        model,
        None,
        n_examples,
        gradients,
        seed,
        device,
        out,
        data,
        interpolation,
    )


@cli.command(epilog=_example("oat-bench train --dataset digits --seed 1"))
@_DATASET
@_BENCHMARK
@_WIDTHS
@_DATA_DIR
@_SKIP_BROKEN
@_METHOD
@_SEED
@_DEVICE
@_OUT
def train(
    dataset: str | None,
    benchmark: str | None,
    widths: list[float] | None,
    data_dir: Path,
    skip_broken: bool,
    method: str | None,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Train by a benchmark card; go on where a killed run stopped."""
    card = _card(dataset, benchmark, method)
    if widths is not None:
        card = card.with_widths(widths)
    from oat_bench import datasets
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.files import make_folder
    from oat_bench.progress import note

    keep_freed_memory()
    data = datasets.load(card.dataset, data_dir, skip_broken=skip_broken)
    folder = make_folder(out or _default_out(card, seed))
    runs.train(card, data, folder, seed=seed, device=runs.choose_device(device))
    note(f"checkpoint and log in {folder}")


@cli.command("list", epilog=_example("oat-bench list attacks"))
@click.argument("kind", type=click.Choice(["attacks", "benchmarks", "datasets", "methods"]))
def list_(kind: str) -> None:
    """List the cards, data sets and methods that ship with the package."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from oat_bench import cards

    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    rows: list[tuple[str, ...]]
    if kind == "attacks":
        headers: tuple[str, ...] = ("attack", "engine", "in all", "what it is")
        found = [cards.attack(name) for name in cards.names("attacks")]
        rows = [(c.name, c.engine, "yes" if c.default else "", c.description) for c in found]
    elif kind == "benchmarks":
        headers = ("benchmark", "data set", "network", "what it is")
        shipped = [cards.benchmark(name) for name in cards.names("benchmarks")]
        rows = [(c.name, c.dataset, c.network.architecture, c.description) for c in shipped]
    elif kind == "methods":
        from oat_bench.methods import METHODS

        headers = ("method", "lambda", "what it is")
        rows = [
            (n, "any" if m.continuous else "trained", (m.__doc__ or "").splitlines()[0])
            for n, m in METHODS.items()
        ]
    else:
        from oat_bench.datasets import DATASETS

        headers = ("data set", "what it is")
        rows = [(n, (f.__doc__ or "").splitlines()[0]) for n, f in DATASETS.items()]
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _UNFOLDED).print(table)


@cli.command(epilog=_example("oat-bench compare runs/digits-seed0 runs/digits-seed1"))
@_RUNS
@click.option("--reference", metavar="RUN", help="What differences are to. [default: the first]")
@_ATTACK
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs") / "compare",
    show_default=True,
    help="Folder for tables and figure.",
)
def compare(runs: tuple[str, ...], reference: str | None, attack: str | None, out: Path) -> None:
    """Compare runs: every lambda, and the frontiers.

    A row for each method and lambda, a row for each frontier, and their figure. A RUN is a run's
    folder or an entry.json. Where two runs have outcomes of the same examples, differences are
    tested in pairs.
    """
    if reference is not None and reference not in runs:
        raise UserError(
            f"--reference {reference} is none of the runs; name one of {', '.join(runs)}"
        )
    from rich.console import Console

    from oat_bench import figures
    from oat_bench.files import atomic_write, make_folder
    from oat_bench.leaderboards import comparison, published, records

    found = records.read_all(runs)
    place = 0 if reference is None else runs.index(reference)
    result = comparison.compare(found, attack=attack, reference=place)
    folder = make_folder(out)
    text = comparison.markdown(result)
    atomic_write(folder / "compare.md", text)
    atomic_write(folder / "compare.csv", comparison.csv(result))
    entries = [record.entry for record in found]
    drawn = figures.frontier(entries, published.of_entries(entries), result.attack)
    figures.write(drawn, folder / "frontier")
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        click.echo(text, nl=False)
        return
    console.print(result.title, style="italic")
    for frame in (comparison.points_table(result), comparison.totals_table(result)):
        _print_whole(console, comparison.terminal(frame))
        console.print()
    for note in comparison.notes(result):
        console.print(note, style="dim")
    console.print(f"tables and figure in {folder}", soft_wrap=True)


@cli.group(epilog=_example("oat-bench figure frontier runs/digits-seed0 --out frontier.png"))
def figure() -> None:
    """Draw one figure from one or several runs."""


@figure.command("frontier", epilog=_example("oat-bench figure frontier runs/a runs/b --out f.png"))
@_RUNS
@_ATTACK
@_FILE
def figure_frontier(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """SA against RA, a curve for each run.

    Figure 4 of the OAT paper. Published numbers of the same experiment are drawn beside it.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.frontier(entries, quoted, attack), out, "frontier")


@figure.command("attacks", epilog=_example("oat-bench figure attacks runs/a runs/b --out f.png"))
@_RUNS
@_FILE
def figure_attacks(runs: tuple[str, ...], out: Path | None) -> None:
    """SA against RA, a panel for each attack.

    Figure 7 of the OAT paper.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.attacks(entries, quoted), out, "attacks")


@figure.command("lambda", epilog=_example("oat-bench figure lambda runs/a --attack pgd-7"))
@_RUNS
@_ATTACK
@_FILE
def figure_lambda(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """SA and RA over lambda.

    Figure 8 of the OAT paper.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.by_lambda(entries, quoted, attack), out, "lambda")


@figure.command("widths", epilog=_example("oat-bench figure widths runs/a runs/b --out f.png"))
@_RUNS
@_ATTACK
@_FILE
def figure_widths(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """SA against RA, a panel for each width.

    Figure 6 of the OAT paper.
    """
    from oat_bench import figures

    entries, quoted = _entries(runs)
    _write(figures.widths(entries, quoted, attack), out, "widths")


@figure.command("cost", epilog=_example("oat-bench figure cost runs/a --attack pgd-7"))
@click.argument("run_folder", metavar="RUN")
@_ATTACK
@_FILE
def figure_cost(run_folder: str, attack: str | None, out: Path | None) -> None:
    """SA and RA over the FLOPs of an image, a line for each lambda."""
    from oat_bench import figures

    entries, _ = _entries((run_folder,))
    _write(figures.cost(entries[0], attack), out, "cost")


@figure.command("unseen", epilog=_example("oat-bench figure unseen runs/a --out unseen.svg"))
@_RUNS
@_ATTACK
@_FILE
def figure_unseen(runs: tuple[str, ...], attack: str | None, out: Path | None) -> None:
    """Lambda that were never trained, as stars.

    Figure 5 of the OAT paper.
    """
    from oat_bench import figures

    entries, _ = _entries(runs)
    _write(figures.unseen(entries, attack), out, "unseen")


@figure.command(
    "bn-statistics", epilog=_example("oat-bench figure bn-statistics runs/a --layer norm")
)
@click.argument("model", metavar="CHECKPOINT")
@click.option("--layer", metavar="NAME", help="Norm layer. [default: the last]")
@_FILE
def figure_bn_statistics(model: str, layer: str | None, out: Path | None) -> None:
    """Running mean and variance of batch norm.

    Figure 2 of the OAT paper: a point for each channel, a colour for each batch norm.
    """
    from oat_bench import classifier, figures

    _write(figures.bn_statistics(classifier.load(model), layer), out, "bn-statistics")


@figure.command("saliency", epilog=_example("oat-bench figure saliency runs/a --lambda 0,0.1,1"))
@click.argument("model", metavar="CHECKPOINT")
@click.option("--lambda", "lambdas", type=_Lambdas(), help="Columns. [default: those trained]")
@click.option(
    "--dataset", metavar="FOLDER", help="Folder of images, for a model that was trained on one."
)
@_DATA_DIR
@_FILE
def figure_saliency(
    model: str,
    lambdas: list[float] | None,
    dataset: str | None,
    data_dir: Path,
    out: Path | None,
) -> None:
    """Gradient of the loss at test images.

    Figures 10 to 12 of the OAT paper.
    """
    from oat_bench import classifier, datasets, figures
    from oat_bench import run as runs

    trained = classifier.load(model)
    data = datasets.load(dataset or trained.info.dataset, data_dir)
    runs.check_fits(trained.info, data)
    columns = lambdas or trained.info.trained_lambdas
    _write(figures.saliency(trained, data, columns), out, "saliency")


def _entries(runs: tuple[str, ...]) -> "tuple[list[Entry], list[Published]]":
    from oat_bench.leaderboards import published, records

    entries = [record.entry for record in records.read_all(runs)]
    return entries, published.of_entries(entries)


def _write(figure: "Figure", out: Path | None, name: str) -> None:
    from oat_bench import figures

    for path in figures.write(figure, Path(name) if out is None else out):
        click.echo(path)


def _card(dataset: str | None, benchmark: str | None, method: str | None = None) -> "BenchmarkCard":
    """Read the card named, or that of the data set; a folder of images goes with any card."""
    from oat_bench import cards, datasets

    folder = dataset is not None and datasets.is_folder(dataset)
    if dataset is not None and not folder:
        datasets.check_known(dataset)
    named = dataset if benchmark is None else benchmark
    if folder and benchmark is None:
        named = "image-folder"
    card = cards.benchmark("digits" if named is None else named)
    if folder:
        assert dataset is not None
        card = card.for_folder(dataset, named=benchmark is not None)
    elif dataset is not None and dataset != card.dataset:
        raise UserError(f"benchmark {card.name!r} is of data set {card.dataset!r}, not {dataset!r}")
    return card if method is None else card.with_method(method)


def _default_out(card: "BenchmarkCard", seed: int) -> Path:
    return Path("runs") / f"{card.name}-seed{seed}"


def _evaluate(
    dataset: str | None,
    benchmark: str | None,
    attacks: str | None,
    lambdas: list[float] | None,
    widths: list[float] | None,
    model: str | None,
    method: str | None,
    n_examples: int | None,
    gradients: str | None,
    seed: int,
    device_name: str,
    out: Path | None,
    where: tuple[Path, bool],
    interpolation: "Interpolation | None",
) -> None:
    if model is not None and method is not None:
        raise UserError("--method is for training; a checkpoint given by --model has its own")
    named = dataset is not None or benchmark is not None
    card = _card(dataset, benchmark, method) if named or model is None else None
    from oat_bench import classifier, datasets
    from oat_bench import run as runs
    from oat_bench.acceleration import keep_freed_memory
    from oat_bench.files import make_folder

    if widths is not None and model is None:
        assert card is not None
        card, widths = card.with_widths(widths), None
    keep_freed_memory()
    device = runs.choose_device(device_name)
    trained = classifier.load(model, device) if model is not None else None
    if interpolation is not None:
        assert trained is not None
        trained = runs.with_interpolation(trained, interpolation)
    if card is None:
        assert trained is not None
        if trained.info.dataset not in datasets.DATASETS:
            raise UserError(
                f"{model} is of data set {trained.info.dataset!r}; name its folder with --dataset"
            )
        card = _card(trained.info.dataset, None)
    changes = {
        "lambdas": lambdas,
        "widths": widths,
        "attacks": attacks,
        "n_examples": n_examples,
        "gradients": gradients,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    card = card.model_copy(update={"evaluation": card.evaluation.model_copy(update=given)})
    data_dir, skip_broken = where
    data = datasets.load(card.dataset, data_dir, skip_broken=skip_broken)
    if n_examples is None and dataset is not None and datasets.is_folder(dataset):
        # the card may have been written for a larger test set
        limit = min(card.evaluation.n_examples or len(data.test), len(data.test))
        smaller = card.evaluation.model_copy(update={"n_examples": limit})
        card = card.model_copy(update={"evaluation": smaller})
    if trained is not None:
        runs.check_fits(trained.info, data)
    runs.choose_examples(card, data)
    runs.choose_widths(card, (card.network if trained is None else trained.info.network).widths)
    if trained is not None:
        runs.check_lambdas(trained.info.method, trained.info.trained_lambdas, card)
    else:
        runs.check_lambdas(card.method, card.training.lambdas, card)
    ready = runs.prepare_attacks(card, len(data.classes), seed)
    if out is None:
        out = _default_out(card, seed)
        if trained is not None:
            out = Path("runs") / f"{card.name}-{trained.fingerprint()[:8]}"
    folder = make_folder(out)
    if trained is None:
        trained = runs.train(card, data, folder, seed=seed, device=device)
    command = shlex.join(["oat-bench", *sys.argv[1:]]).encode(errors="backslashreplace").decode()
    report = runs.evaluate_and_report(
        trained, card, data, ready, folder, command=command, device=device
    )
    _print(report)


def _print(report: "Report") -> None:
    from rich.console import Console

    from oat_bench.leaderboards import tables

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(report.title, style="italic")
        for heading, results in tables.by_width(report.results):
            if heading:
                console.print(heading)
            _print_whole(console, tables.terminal(results, report.trained, report.published))
        for note in (tables.NOTE, *tables.notes(report.published, report.frontiers)):
            console.print(note, style="dim")
        console.print(f"table, entry, outcomes and figure in {report.folder}", soft_wrap=True)
    else:
        shown = (report.results, report.trained, report.title, report.published, report.frontiers)
        click.echo(tables.markdown(*shown), nl=False)


def _print_whole(console: "Console", table: "Table") -> None:
    """Print a table whose numbers are never cut: one wider than the terminal runs over."""
    from rich.console import Console

    whole = console.measure(table, options=console.options.update(width=_UNFOLDED)).maximum
    Console(width=max(whole, console.width)).print(table)


def _fail(message: str, code: int = 2) -> NoReturn:
    with suppress(OSError):  # nobody reads, or the disk behind stdout is full
        click.echo(f"oat-bench: {' '.join(message.split())}", err=True)
        sys.stdout.flush()
    # a hard exit: threads of a library that is still loading must not add a traceback
    os._exit(code)


def _explain(error: Exception) -> str | None:
    """Say in one line what the user can mend; None of a bug."""
    if isinstance(error, click.ClickException):
        return f"{error.format_message()} (see oat-bench --help)"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in _DISK_FULL:
            return f"the disk is full ({error.strerror}); make room, the same command goes on"
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out of memory; lower batch_size in the benchmark card, or take a smaller network"
    return None


def _watch_interrupts() -> list[int]:
    """Note each Ctrl-C, which a library that is loading may turn into another error."""
    seen: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        seen.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return seen


def main() -> None:
    """Run the command line; turn every error of the user's into one line and exit code 2."""
    interrupts = _watch_interrupts()
    try:
        sys.exit(cli(standalone_mode=False))
    except Exception as error:
        if interrupts or isinstance(error, click.Abort):
            _fail("stopped; what was finished is kept, the same command goes on from there", 130)
        message = _explain(error)
        if message is None:
            raise
        _fail(message)
