"""`leaderboard`, a command for each thing that is done with entries."""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oat_bench.cli.group import cli, command, example, plain_console
from oat_bench.cli.options import FILE, FOLDER, PATH, flag, option
from oat_bench.cli.values import Number
from oat_bench.errors import UserError, unknown
from oat_bench.run_folder import ENTRY

if TYPE_CHECKING:
    from oat_bench.results.records import Record

#: the form of a file, by its ending
_FORMS = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
_PERCENT = ("PERCENT", Number(0, 100))
_CLONE = ("CLONE|package", PATH)


@cli.group(epilog=example("leaderboard table digits"))
def leaderboard() -> None:
    """Publish entries, check them, rank them."""


@command("leaderboard add runs/fashion-12x12-seed0 --with-checkpoint", leaderboard)
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
def add(run: str, to: Path, **options: Any) -> None:
    """Check the entry of a run and copy it to its place.

    That is DATASET/THREAT MODEL/NAME.json; beside it go the run's report of attack integrity, which
    oat-bench integrity RUN writes, and its outcomes.
    """
    from oat_bench.leaderboards import publishing
    from oat_bench.results import records

    asked = {key: options.pop(key) for key in ("with_checkpoint", "with_tables", "replace")}
    changes = {key: value for key, value in options.items() if value is not None}
    written, warnings = publishing.add(records.read(run), to, changes=changes, **asked)
    for warning in warnings:
        click.echo(warning, err=True)
    for path in written:
        click.echo(path)


@command("leaderboard validate leaderboards", leaderboard)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
def validate(paths: tuple[Path, ...]) -> None:
    """Say what is wrong with entries, a line each.

    A PATH is an entry, a run's folder, or a folder of entries. [default: leaderboards] Checked are
    the numbers, and whether checkpoint, outcomes and report beside an entry are its own. Exit code
    1: an entry is not valid. Warnings do not count.
    """
    from oat_bench import escape as text
    from oat_bench.results import validation

    entries, severities = 0, []
    for path in paths or (Path("leaderboards"),):
        files, found = validation.validate(path)
        entries += len(files)
        for problem in found:
            click.echo(text.one_line(str(problem)))
            severities.append(problem.severity)
    counts = [_count(severities.count(kind), kind) for kind in ("error", "warning")]
    click.echo(", ".join([_count(entries, "entry", "entries"), *counts]))
    if "error" in severities:
        click.get_current_context().exit(1)


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number} {one if number == 1 else more or f'{one}s'}"


@command("leaderboard table digits --sort ra-at-sa --min-sa 97 --format latex", leaderboard)
@click.argument("what", metavar="[DATASET|ENTRY]", required=False)
@option("--from", PATH, "Folder of the leaderboards.", "leaderboards", "folder")
@option(
    "--sort",
    ["hypervolume", "ra-at-sa", "cost"],
    "Hypervolume of the SA-RA frontier; RA at a required SA; cost at a required SA and RA.",
    "hypervolume",
)
@option(
    "--min-sa",
    _PERCENT,
    "The required SA. [default: what more than half of a board's models reach, in steps of 5]",
)
@option("--min-ra", _PERCENT, "The required RA, where sorted by cost.", 0)
@option("--cost", ["flops", "latency", "parameters"], "Which cost.", "flops", "resource")
@option("--attack", "NAME", "Whose RA. [default: the worst case, or what most have]")
@option("--robustbench", _CLONE, "Show the models of a clone of RobustBench, or of our copy, too.")
@option(
    "--format",
    ["terminal", "markdown", "csv", "latex"],
    "[default: terminal; Markdown in a pipe; that of the file's ending]",
    None,
    "form",
)
@option("--out", FILE, "Write it there: .md, .csv, .tex")
def table(
    what: str | None,
    folder: Path,
    attack: str | None,
    robustbench: Path | None,
    form: str | None,
    out: Path | None,
    min_sa: float | None,
    **rule: Any,
) -> None:
    """Rank the models of each data set; or show one entry, lambda by lambda.

    Models are ranked by their frontier of SA and RA, a row for each width. Ranks are shared where
    chance may explain a difference. Unreliable entries are marked, and last.
    """
    from oat_bench.reports import per_lambda
    from oat_bench.reports import ranking as boards
    from oat_bench.results import ranking, records
    from oat_bench.results.robustbench import robustbench_points

    console = plain_console()
    if form is None and out is not None and out.suffix not in _FORMS:
        raise UserError(f"--out {out}: expected a file that ends in .md, .csv or .tex, or --format")
    by_place = "terminal" if console.is_terminal else "markdown"
    form = form or (_FORMS[out.suffix] if out is not None else by_place)
    if what is not None and (Path(what).is_file() or (Path(what) / ENTRY).is_file()):
        entry = records.read(what).entry
        pages = [per_lambda.of_entry(entry)]
        csv = per_lambda.csv(entry.operating_points, per_lambda.trained_of(entry))
    else:
        found, theirs = [], []
        for group in ranking.groups(_records(folder, what), attack):
            sa = ranking.fitting_sa(group) if min_sa is None else min_sa
            scale = ranking.Rule(min_sa=sa, **rule)
            board = ranking.rank(group, attack=attack, rule=scale)
            if robustbench is not None:
                theirs = robustbench_points(robustbench, board.dataset, board.threat_model)
            found.append((board, boards.fixed_points(board, theirs)))
        pages, csv = [boards.page(*board) for board in found], boards.csv(found)
    if form != "terminal":
        written = {"markdown": [p.markdown() for p in pages], "latex": [p.latex() for p in pages]}
        _write("\n".join(written.get(form, [csv])), out)
        return
    if out is not None:
        raise UserError(f"--out {out}: --format terminal is for a terminal")
    for place, page in enumerate(pages):
        if place:
            console.print()
        page.draw(console)


def _records(folder: Path, dataset: str | None) -> "list[Record]":
    """Read the entries of one data set, or of all; leave out what is not valid, and say so."""
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


def _write(written: str, out: Path | None) -> None:
    from oat_bench.files import atomic_write, make_folder
    from oat_bench.progress import note

    if out is None:
        click.echo(written, nl=False)
    else:
        atomic_write(make_folder(out.parent) / out.name, written)
        note(f"written to {out}")


@command("leaderboard export runs/fashion-12x12-seed0 --lambda 0.4 --out model.json", leaderboard)
@click.argument("entry")
@option("--lambda", ("NUMBER", Number(0, 1)), "Of the operating point.", None, "lam", required=True)
@option("--width", ("NUMBER", Number(0, 1, min_open=True)), "Of the operating point.", 1.0)
@option("--out", FILE, "Write it there. [default: print it]")
def export(entry: str, lam: float, width: float, out: Path | None) -> None:
    """Write an operating point as a model_info of RobustBench.

    ENTRY is a run's folder or an entry. RobustBench's own code makes a leaderboard of what lies
    under model_info/DATASET/THREAT MODEL/ of a clone.
    """
    from oat_bench.progress import note
    from oat_bench.results import records, reliability, robustbench

    record = records.read(entry)
    doubts = reliability.doubts(record, "autoattack")
    examined = doubts or reliability.verdict_of(record) is not None
    info = robustbench.model_info(record.entry, lam, width, doubts if examined else None)
    if record.entry.dataset not in robustbench.DATASETS:
        known = ", ".join(robustbench.DATASETS)
        note(f"RobustBench has no leaderboard of {record.entry.dataset}; it has {known}")
    _write(json.dumps(info, indent=2) + "\n", out)


@command("leaderboard push runs/fashion-12x12-seed0 owner/name", leaderboard)
@click.argument("model")
@click.argument("repository", metavar="OWNER/NAME")
@option("--license", "NAME", "Of the weights, as the hub names licenses.", "apache-2.0")
@flag("--private", "Make a private repository, if there is none.")
@option("--out", FOLDER, "Write there what would be pushed, and push nothing.")
def push(model: str, repository: str, license: str, private: bool, out: Path | None) -> None:
    """Put a model on the Hugging Face hub: checkpoint, entry and a model card.

    MODEL is a run's folder, an entry with its checkpoint beside it, or a published model, such as
    digits/oat-wrn-10-1. Log in before, with hf auth login. Anybody then loads hf:OWNER/NAME.
    """
    from oat_bench.files import atomic_write_all, make_folder
    from oat_bench.leaderboards import hub
    from oat_bench.results import records
    from oat_bench.run_folder import CHECKPOINT
    from oat_bench.zoo import published

    if Path(model).exists() or not published.is_name(model):
        record = records.read(model)
        weights = record.beside(CHECKPOINT)
    else:
        weights = published.find(model)
        record = records.read(published.named(model).entry)
    contents = hub.files(record, weights, repository, license)
    if out is None:
        click.echo(hub.push(contents, repository, private=private))
        return
    folder = make_folder(out)
    atomic_write_all({folder / name: content for name, content in contents.items()})
    for name in contents:
        click.echo(folder / name)


@command("leaderboard schema", leaderboard)
def schema() -> None:
    """Print the JSON schema of an entry."""
    from oat_bench.results import entries

    click.echo(json.dumps(entries.schema(), indent=2))


@command("leaderboard build --out site", leaderboard)
@option("--leaderboards", FOLDER, "Holds the entries, at any depth.", "leaderboards")
@option("--out", FOLDER, "Where the pages go: an empty folder, or one of an earlier build.", "site")
@option(
    "--data-dir",
    FOLDER,
    "Where data sets lie whose attacked images are shown. [default: only those that come with the "
    "package]",
)
@flag("--no-examples", "Attack no images.")
@option("--robustbench", _CLONE, "Show the models of a clone of RobustBench, or of our copy, too.")
@click.option(
    "--link",
    "links",
    metavar="NAME=ADDRESS",
    multiple=True,
    help="Linked from the first page, such as Code=https://...; may be repeated. [default: what "
    "the package's metadata has]",
)
def build(
    leaderboards: Path, out: Path, no_examples: bool, links: tuple[str, ...], **options: Path | None
) -> None:
    """Build a static site of all entries.

    A page a data set and threat model, a page a model; open index.html in a browser, or put the
    folder on any web server. Where a checkpoint lies beside an entry (model.safetensors beside
    model.json), images are attacked at each lambda and shown.
    """
    try:
        from oat_bench.leaderboards import site
    except ModuleNotFoundError as error:
        if error.name != "jinja2":
            raise
        raise UserError(
            "the site's pages need jinja2; install it with pip install 'oat-bench[site]'"
        ) from error
    from oat_bench.progress import note

    for link in links:
        if not re.fullmatch(r"[^=]+=https?://\S+", link):
            raise UserError(f"--link {link!r}: expected NAME=ADDRESS, such as Code=https://...")
    named = _project_links() | dict(link.split("=", 1) for link in links)
    made = site.build(leaderboards, out, with_examples=not no_examples, links=named, **options)
    for model, reason in made.without_examples.items():
        note(f"{model}: no attacked images: {reason}")
    models = _count(made.models, "model")
    click.echo(f"{made.folder / 'index.html'}: {models}, {_count(made.boards, 'leaderboard')}")


def _project_links() -> dict[str, str]:
    """Return the addresses of ``[project.urls]``, by name."""
    urls = importlib.metadata.metadata("oat-bench").get_all("Project-URL") or []
    return dict(url.split(", ", 1) for url in urls)
