"""Building the site: reads entries, attacks examples, draws figures, writes every page."""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath

from oat_bench.errors import UserError
from oat_bench.escape import one_line
from oat_bench.files import atomic_write, make_folder, read_bounded
from oat_bench.leaderboards.site import examples, pages
from oat_bench.leaderboards.site.plan import Board, Model, plan
from oat_bench.progress import note
from oat_bench.results import published

#: lists what a build wrote, so that the next one removes what it does not write again
_LIST = ".oat-bench-site.json"
_MAX_BYTES = 1 << 24
_ASSETS = ("site.css", "icon.svg", "site.js", "chart.js", "board.js", "model.js")
_PLOTLY = "plotly.min.js"


@dataclass
class Site:
    """What a build made.

    Attributes:
        folder: holds ``index.html``.
        boards: number of data sets and threat models.
        models: number of models.
        without_examples: why models have no attacked images, by data set and name.
    """

    folder: Path
    boards: int = 0
    models: int = 0
    without_examples: dict[str, str] = field(default_factory=dict)


class _Writer:
    """Writes files below a folder, and remembers which."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: set[str] = set()

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file; one that is the same stays untouched."""
        self.written.add(name)
        path, data = self.folder / name, content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != data:
            atomic_write(path, data)


def build(
    leaderboards: Path,
    out: Path,
    *,
    data_dir: Path | None = None,
    with_examples: bool = True,
    robustbench: Path | None = None,
) -> Site:
    """Build the site; the same entries give the same files.

    Args:
        leaderboards: holds entries, at any depth.
        out: a folder that is empty, absent or of an earlier build.
        data_dir: where data sets lie whose images are to be shown; those of `datasets.BUNDLED` need
            none.
        with_examples: whether to attack images where there are checkpoints.
        robustbench: a clone of RobustBench whose models are shown beside ours.

    Raises:
        UserError: if entries are damaged or missing, the folder holds anything else, or the
            package of the charts is not installed.
    """
    plotly = _plotly()
    found = plan(leaderboards, robustbench)
    writer, before = _open(out)
    site = Site(out, len(found), sum(len(board.models) for board in found))
    for name in _ASSETS:
        asset = files("oat_bench.leaderboards.site").joinpath("assets", name)
        writer.write(f"assets/{name}", asset.read_bytes())
    writer.write(f"assets/{_PLOTLY}", plotly)
    for board in found:
        for model in board.models:
            note(one_line(f"{board.title}: {model.entry.name}"))
            _model(writer, board, model, data_dir, with_examples, site)
        writer.write(f"{board.slug}/index.html", pages.board(board))
    writer.write("index.html", pages.index(found))
    for name in before - writer.written:
        (out / name).unlink(missing_ok=True)
    atomic_write(out / _LIST, json.dumps(sorted(writer.written), indent=0) + "\n")
    return site


def _plotly() -> bytes:
    try:
        return files("plotly").joinpath("package_data", _PLOTLY).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UserError(
            "the site's charts need plotly; install it with pip install 'oat-bench[site]'"
        ) from error


def _open(out: Path) -> tuple[_Writer, set[str]]:
    """Prepare the folder; return what an earlier build wrote.

    Raises:
        UserError: if it holds what no build wrote.
    """
    before: set[str] = set()
    listed = out / _LIST
    if listed.is_file():
        try:
            names = json.loads(read_bounded(listed, _MAX_BYTES, "a list of files"))
            before = {str(name) for name in names}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{listed}: damaged; remove the folder, and build again") from error
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; choose a folder for the site alone with --out")
    make_folder(out)
    atomic_write(listed, json.dumps(sorted(before), indent=0) + "\n")
    # a list that names a file outside the folder is not one of ours
    inside = {n for n in before if not PurePosixPath(n).is_absolute() and ".." not in n.split("/")}
    return _Writer(out), inside


def _model(
    writer: _Writer,
    board: Board,
    model: Model,
    data_dir: Path | None,
    with_examples: bool,
    site: Site,
) -> None:
    from oat_bench import figures

    entry, stem = model.entry, f"{board.slug}/{model.slug}"
    loaded, shown, reason = None, None, ""
    if not with_examples:
        reason = "the site was built without (--no-examples)"
    else:
        try:
            loaded = examples.load_model(model.record, data_dir)
            shown = examples.attack(entry, *loaded)
        except UserError as error:
            reason = str(error)
            site.without_examples[one_line(f"{board.title}: {entry.name}")] = reason
    writer.write(f"{stem}.json", model.record.entry_path.read_bytes())
    links = {"JSON": f"{model.slug}.json"}
    outcomes = model.record.outcomes_path
    if outcomes.is_file():
        writer.write(f"{stem}.parquet", outcomes.read_bytes())
        links["Parquet"] = f"{model.slug}.parquet"
    captions = {}
    known = published.of_entries([entry])
    for name, figure in figures.of_run(entry, loaded, known):
        writer.write(f"{stem}-{name}.svg", figures.svg(figure))
        captions[f"{model.slug}-{name}.svg"] = figures.CAPTIONS[name]
    page = pages.model(board, model, examples=shown, reason=reason, figures=captions, files=links)
    writer.write(f"{stem}.html", page)
