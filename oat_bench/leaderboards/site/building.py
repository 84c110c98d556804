"""Building the site: reads entries, attacks examples, draws figures, writes every page."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath

from oat_bench.errors import UserError
from oat_bench.escape import one_line
from oat_bench.files import atomic_write, make_folder, read_bounded
from oat_bench.leaderboards.site import charts, examples, pages
from oat_bench.leaderboards.site.plan import Board, Model, plan
from oat_bench.progress import note
from oat_bench.run_folder import CHECKPOINT

#: lists what a build wrote, so that the next one removes what it does not write again
_LIST = ".oat-bench-site.json"
_ASSETS = ("site.css", "icon.svg", "site.js", "chart.js", "board.js", "model.js")
_FIGURES = ("cost", "bn-statistics", "saliency")  # what the chart of a page does not show
_Files = Iterator[tuple[str, bytes | str]]  # their names below the folder of the site


@dataclass
class Site:
    """What a build made."""

    folder: Path
    boards: int
    models: int
    without_examples: dict[str, str] = field(default_factory=dict)  # why, by data set and name


def build(
    leaderboards: Path,
    out: Path,
    *,
    data_dir: Path | None = None,  # of data sets that are not bundled
    with_examples: bool = True,
    robustbench: Path | None = None,  # whose models are shown too: see `plan`
    links: Mapping[str, str] | None = None,  # addresses that the first page names, such as the code
) -> Site:
    """Build the site, always the same, in a folder that is empty, absent or of an earlier build."""
    boards, before = plan(leaderboards, robustbench), _open(out)
    site = Site(out, len(boards), sum(len(board.models) for board in boards))
    written = set()
    for name, content in _files(boards, site, data_dir, with_examples, links or {}):
        written.add(name)
        path, data = out / name, content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != data:
            atomic_write(path, data)
    for name in before - written:
        (out / name).unlink(missing_ok=True)
    atomic_write(out / _LIST, json.dumps(sorted(written), indent=0) + "\n")
    return site


def _open(out: Path) -> set[str]:
    """Prepare a folder that nothing but a build wrote to; return what an earlier one wrote."""
    before: set[str] = set()
    listed = out / _LIST
    if listed.is_file():
        try:
            before = set(map(str, json.loads(read_bounded(listed, 1 << 24, "a list of files"))))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{listed}: damaged; remove the folder, and build again") from error
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; choose a folder for the site alone with --out")
    make_folder(out)
    atomic_write(listed, json.dumps(sorted(before), indent=0) + "\n")
    # a list that names a file outside the folder is not one of ours
    return {n for n in before if not PurePosixPath(n).is_absolute() and ".." not in n.split("/")}


def _files(
    boards: list[Board],
    site: Site,
    data_dir: Path | None,
    with_examples: bool,
    links: Mapping[str, str],
) -> _Files:
    folder = files("oat_bench.leaderboards.site") / "assets"
    for name in _ASSETS:
        yield f"assets/{name}", folder.joinpath(name).read_bytes()
    methods = sorted({model.entry.method for board in boards for model in board.models})
    for board in boards:
        for model in board.models:
            note(one_line(f"{board.title}: {model.entry.name}"))
            yield from _model(board, model, site, data_dir, with_examples)
        yield f"{board.slug}/index.html", pages.board(board, charts.of_board(board, methods))
    boards.sort(key=lambda board: -len(board.models))  # the main one first
    plots = [plot for plot in charts.of_board(boards[0], methods) if plot.key == boards[0].attack]
    yield "index.html", pages.index(boards, plots, links)


def _model(
    board: Board, model: Model, site: Site, data_dir: Path | None, with_examples: bool
) -> _Files:
    from oat_bench import figures

    entry, stem = model.entry, f"{board.slug}/{model.slug}"
    loaded, shown, reason = None, None, "the site was built without (--no-examples)"
    if with_examples:
        try:
            loaded = examples.load_model(model.record, data_dir)
            shown = examples.attack(entry, *loaded)
        except examples.NotAtHandError:
            reason = ""
        except UserError as error:
            reason = str(error)
            site.without_examples[one_line(f"{board.title}: {entry.name}")] = reason
    yield f"{stem}.json", model.record.entry_path.read_bytes()
    links = {"JSON": f"{model.slug}.json"}
    outcomes = model.record.outcomes_path
    if outcomes.is_file():
        yield f"{stem}.parquet", outcomes.read_bytes()
        links["Parquet"] = f"{model.slug}.parquet"
    weights = model.record.beside(CHECKPOINT)
    if weights.is_file():
        yield f"{stem}.safetensors", (content := weights.read_bytes())
        links[f"checkpoint ({len(content) / 1e6:.1f} MB)"] = f"{model.slug}.safetensors"
    captions = {}
    for name, figure in figures.of_run(entry, loaded, (), kinds=_FIGURES):
        yield f"{stem}-{name}.svg", figures.svg(figure)
        captions[f"{model.slug}-{name}.svg"] = figures.CAPTIONS[name]
    yield f"{stem}.html", pages.model(board, model, shown, reason, captions, links)
