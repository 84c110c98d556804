"""`leaderboard`, a command for each thing that is done with entries."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oat_bench.cli.group import cli
from oat_bench.cli.options import FILE, FOLDER, PATH, choice, example, flag, option
from oat_bench.cli.values import Number
from oat_bench.errors import UserError

if TYPE_CHECKING:
    from oat_bench.results.ranking import Board, Resource, Sort
    from oat_bench.results.robustbench import RobustBenchPoint

Form = Literal["terminal", "markdown", "csv", "latex"]
#: the form of a file, by its ending
_FORMS: dict[str, Form] = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


@cli.group(epilog=example("oat-bench leaderboard table digits"))
def leaderboard() -> None:
    """Publish entries, check them, rank them."""


@leaderboard.command(
    epilog=example("oat-bench leaderboard add runs/fashion-12x12-seed0 --with-checkpoint")
)
@click.argument("run", metavar="RUN")
@option("--to", PATH, "Folder of the leaderboards.", "leaderboards")
@option("--name", "TEXT", "Of the model, and of the files. [default: method and network]")
@option("--authors", "TEXT", "Of the model.")
@option("--venue", "TEXT", "Where it was published, such as 'NeurIPS 2020'.")
@option("--link", "TEXT", "To the paper or the code.")
@option("--reported", "RA", "RA in percent that the authors report.")
@option("--footnote", "TEXT", "What else a reader must know.")
@click.option("--additional-data", is_flag=True, default=None, help="It was trained on other data.")
@click.option(
    "--unreliable/--reliable", default=None, help="Whether its accuracies are not to be trusted."
)
@flag("--with-checkpoint", "Publish the weights too.")
@flag("--with-tables", "Publish the tables too.")
@flag("--replace", "Overwrite an entry of this name.")
def add(
    run: str, to: Path, with_checkpoint: bool, with_tables: bool, replace: bool, **about: Any
) -> None:
    """Check the entry of a run and copy it to its place.

    That is DATASET/THREAT MODEL/NAME.json; beside it go the run's report of attack integrity, which
    oat-bench integrity RUN writes, and its outcomes.
    """
    from oat_bench.leaderboards import publishing
    from oat_bench.results import records

    written, warnings = publishing.add(
        records.read(run),
        to,
        changes={key: value for key, value in about.items() if value is not None},
        with_checkpoint=with_checkpoint,
        with_tables=with_tables,
        replace=replace,
    )
    for warning in warnings:
        click.echo(warning, err=True)
    for path in written:
        click.echo(path)


@leaderboard.command(epilog=example("oat-bench leaderboard validate leaderboards"))
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
def validate(paths: tuple[Path, ...]) -> None:
    """Say what is wrong with entries, a line each.

    A PATH is an entry, a run's folder, or a folder of entries. [default: leaderboards] Checked are
    the numbers, and whether checkpoint, outcomes and report beside an entry are its own. Exit code
    1: an entry is not valid. Warnings do not count.
    """
    from oat_bench import escape as text
    from oat_bench.results import validation

    entries, errors, warnings = 0, 0, 0
    for path in paths or (Path("leaderboards"),):
        files, found = validation.validate(path)
        entries += len(files)
        for problem in found:
            click.echo(text.one_line(str(problem)))
        errors += sum(problem.severity == "error" for problem in found)
        warnings += sum(problem.severity == "warning" for problem in found)
    counts = (
        _count(entries, "entr", "y", "ies"),
        _count(errors, "error"),
        _count(warnings, "warning"),
    )
    click.echo(", ".join(counts))
    if errors:
        click.get_current_context().exit(1)


def _count(number: int, stem: str, one: str = "", more: str = "s") -> str:
    return f"{number} {stem}{one if number == 1 else more}"


@leaderboard.command(
    epilog=example("oat-bench leaderboard table digits --sort ra-at-sa --min-sa 97 --format latex")
)
@click.argument("what", metavar="[DATASET|ENTRY]", required=False)
@option("--from", PATH, "Folder of the leaderboards.", "leaderboards", "folder")
@option(
    "--sort",
    choice("hypervolume", "ra-at-sa", "cost"),
    "Hypervolume of the SA-RA frontier; RA at a required SA; cost at a required SA and RA.",
    "hypervolume",
)
@option("--min-sa", ("PERCENT", Number(0, 100)), "The required SA.", 90)
@option("--min-ra", ("PERCENT", Number(0, 100)), "The required RA, where sorted by cost.", 0)
@option("--cost", choice("flops", "latency", "parameters"), "Which cost.", "flops", "resource")
@option("--attack", "NAME", "Whose RA. [default: the worst case, or what most have]")
@option(
    "--robustbench", ("CLONE", PATH), "A clone of RobustBench, whose models are shown beside ours."
)
@option(
    "--format",
    choice("terminal", "markdown", "csv", "latex"),
    "[default: terminal; Markdown in a pipe; that of the file's ending]",
    None,
    "form",
)
@option("--out", FILE, "Write it there: .md, .csv, .tex")
def table(
    what: str | None,
    folder: Path,
    sort: "Sort",
    min_sa: float,
    min_ra: float,
    resource: "Resource",
    attack: str | None,
    robustbench: Path | None,
    form: Form | None,
    out: Path | None,
) -> None:
    """Rank the models of each data set; or show one entry, lambda by lambda.

    Models are ranked by their frontier of SA and RA, a row for each width. Ranks are shared where
    chance may explain a difference. Unreliable entries are marked, and last.
    """
    from rich.console import Console

    from oat_bench.reports import ranking as boards
    from oat_bench.results import ranking

    console = Console(highlight=False, markup=False, emoji=False)
    form = form or _form(out, terminal=console.is_terminal)
    if what is not None and (Path(what).is_file() or (Path(what) / "entry.json").is_file()):
        _show(_entry(what, form), form, out)
        return
    rule = ranking.Rule(sort, min_sa, min_ra, resource)
    ranked = ranking.boards(_records(folder, what), attack=attack, rule=rule)
    found = [(board, _fixed(board, robustbench)) for board in ranked]
    if form == "csv":
        _show([boards.csv(found)], form, out)
    elif form == "terminal":
        _show([part for board in found for part in _drawn(*board)], form, out)
    else:
        write = boards.markdown if form == "markdown" else boards.latex
        _show([write(*board) for board in found], form, out)


def _form(out: Path | None, *, terminal: bool) -> Form:
    if out is None:
        return "terminal" if terminal else "markdown"
    if out.suffix not in _FORMS:
        raise UserError(f"--out {out}: expected a file that ends in .md, .csv or .tex, or --format")
    return _FORMS[out.suffix]


def _records(folder: Path, dataset: str | None) -> "list[Any]":
    """Read the entries of one data set, or of all; leave out what is not valid, and say so."""
    from oat_bench.errors import unknown
    from oat_bench.progress import note
    from oat_bench.results import records

    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name that of the leaderboards with --from")
    found = []
    for path in records.find(folder):
        try:
            found.append(records.read(path))
        except UserError as error:
            note(f"left out: {error}")
    if not found:
        raise UserError(f"no valid entry in {folder}; see oat-bench leaderboard validate {folder}")
    names = {record.entry.dataset for record in found}
    if dataset is not None and dataset not in names:
        raise unknown("data set in these leaderboards", dataset, names)
    return [record for record in found if dataset in (None, record.entry.dataset)]


def _fixed(board: "Board", clone: Path | None) -> "list[RobustBenchPoint]":
    from oat_bench.reports import ranking as boards
    from oat_bench.results.robustbench import robustbench_points

    if clone is None:
        return []
    points = robustbench_points(clone, board.dataset, board.threat_model)
    return boards.fixed_points(board, points)


def _drawn(board: "Board", fixed: "list[RobustBenchPoint]") -> list[Any]:
    """Return a leaderboard as what is printed to a terminal."""
    from rich.text import Text

    from oat_bench import escape as text
    from oat_bench.reports import ranking as boards

    notes = [Text(note, style="dim") for note in boards.notes(board, fixed)]
    title = Text(text.one_line(boards.title(board)), style="italic")
    return [title, boards.terminal(board, fixed), *notes, Text()]


def _entry(path: str, form: Form) -> list[Any]:
    """Return the tables of one entry."""
    from rich.text import Text

    from oat_bench import escape as text
    from oat_bench.reports import per_lambda as tables
    from oat_bench.results import entries, records

    entry = records.read(path).entry
    results, summaries = entries.results(entry), entries.summaries(entry)
    trained = [point.lam for point in entry.operating_points if point.trained]
    title = (
        f"{entry.dataset}, {entry.architecture}, {entry.method.upper()}, {entry.threat_model} "
        f"eps {entry.eps}"
    )
    if form == "csv":
        return [tables.csv(results, trained)]
    if form == "markdown":
        return [tables.markdown(results, trained, title, (), summaries, entry.attacks)]
    if form == "latex":
        return [tables.latex(results, trained, title, (), summaries, entry.attacks)]
    parts: list[Any] = [Text(text.one_line(title), style="italic")]
    for heading, group in tables.by_width(results):
        parts += [*([Text(text.one_line(heading))] if heading else [])]
        parts += [tables.terminal(group, trained), Text()]
    below = (tables.NOTE, *tables.notes((), summaries, entry.attacks))
    return [*parts, *[Text(text.one_line(note), style="dim") for note in below]]


def _show(parts: list[Any], form: Form, out: Path | None) -> None:
    """Write to a file, print to a pipe or draw in a terminal."""
    if form == "terminal":
        from rich.console import Console
        from rich.table import Table

        from oat_bench.cli.printing import print_whole

        if out is not None:
            raise UserError(f"--out {out}: --format terminal is for a terminal")
        console = Console(highlight=False, markup=False, emoji=False)
        for part in parts:
            if isinstance(part, Table):
                print_whole(console, part)
            else:
                console.print(part)
        return
    _write("\n".join(parts), out)


def _write(written: str, out: Path | None) -> None:
    from oat_bench.files import atomic_write, make_folder

    if out is None:
        click.echo(written, nl=False)
        return
    make_folder(out.parent)
    atomic_write(out, written)


@leaderboard.command(
    epilog=example(
        "oat-bench leaderboard export runs/fashion-12x12-seed0 --lambda 0.4 --out model.json"
    )
)
@click.argument("entry")
@click.option(
    "--lambda",
    "lam",
    metavar="NUMBER",
    type=Number(0, 1),
    required=True,
    help="Of the operating point.",
)
@option("--width", ("NUMBER", Number(0, 1, min_open=True)), "Of the operating point.", 1.0)
@option("--out", FILE, "Write it there. [default: print it]")
def export(entry: str, lam: float, width: float, out: Path | None) -> None:
    """Write an operating point as a model_info of RobustBench.

    ENTRY is a run's folder or an entry. RobustBench's own code makes a leaderboard of what lies
    under model_info/DATASET/THREAT MODEL/ of a clone.
    """
    import json

    from oat_bench.progress import note
    from oat_bench.results import records, reliability, robustbench

    record = records.read(entry)
    doubts = reliability.doubts(record, "autoattack")
    examined = doubts or reliability.verdict_of(record) is not None
    info = robustbench.model_info(record.entry, lam, width, doubts if examined else None)
    if record.entry.dataset not in robustbench.DATASETS:
        note(
            f"RobustBench has no leaderboard of {record.entry.dataset}; it has "
            f"{', '.join(robustbench.DATASETS)}"
        )
    _write(json.dumps(info, indent=2) + "\n", out)


@leaderboard.command(epilog=example("oat-bench leaderboard schema"))
def schema() -> None:
    """Print the JSON schema of an entry."""
    import json

    from oat_bench.results import entries

    click.echo(json.dumps(entries.schema(), indent=2))


@leaderboard.command(epilog=example("oat-bench leaderboard build --out site"))
@option("--leaderboards", FOLDER, "Holds the entries, at any depth.", "leaderboards")
@option("--out", FOLDER, "Where the pages go: an empty folder, or one of an earlier build.", "site")
@option(
    "--data-dir",
    FOLDER,
    "Where data sets lie whose attacked images are shown. [default: only those that come with the "
    "package]",
)
@flag("--no-examples", "Attack no images.")
@option(
    "--robustbench", ("CLONE", PATH), "Show the models of a clone of RobustBench as fixed points."
)
def build(
    leaderboards: Path,
    out: Path,
    data_dir: Path | None,
    no_examples: bool,
    robustbench: Path | None,
) -> None:
    """Build a static site of all entries.

    A page a data set and threat model, a page a model; open index.html in a browser, or put the
    folder on any web server. Where a checkpoint lies beside an entry (model.safetensors beside
    model.json), images are attacked at each lambda and shown.
    """
    from oat_bench.leaderboards import site
    from oat_bench.progress import note

    made = site.build(
        leaderboards, out, data_dir=data_dir, with_examples=not no_examples, robustbench=robustbench
    )
    for model, reason in made.without_examples.items():
        note(f"{model}: no attacked images: {reason}")
    models = _count(made.models, "model")
    click.echo(f"{made.folder / 'index.html'}: {models}, {_count(made.boards, 'leaderboard')}")
