"""`compare`."""

from pathlib import Path

from oat_bench.cli.group import command, show
from oat_bench.cli.options import ATTACK, PATH, RUNS, option
from oat_bench.cli.values import Number
from oat_bench.errors import UserError


@command("compare runs/fashion-12x12-seed0 runs/fashion-12x12-seed1")
@RUNS
@option("--reference", "RUN", "What differences are to. [default: the first]")
@option(
    "--reference-lambda",
    ("LAMBDA", Number(0, 1)),
    "Of one RUN alone, what its lambda are compared to. [default: each to the one before]",
)
@ATTACK
@option("--out", PATH, "Folder for tables and figure.", Path("runs") / "compare")
def compare(
    runs: tuple[str, ...],
    reference: str | None,
    reference_lambda: float | None,
    attack: str | None,
    out: Path,
) -> None:
    """Compare runs: every lambda, and the frontiers.

    A row for each method and lambda, a row for each frontier, and their figure. A RUN is a run's
    folder or an entry.json. Where two runs have outcomes of the same examples, differences are
    tested in pairs. Of one RUN alone, its lambda are compared with each other. Runs that differ in
    the seed alone are also summed up as mean and spread.
    """
    if reference is not None and reference not in runs:
        raise UserError(
            f"--reference {reference} is none of the runs; name one of {', '.join(runs)}"
        )
    from oat_bench import figures
    from oat_bench.files import atomic_write, make_folder
    from oat_bench.reports import comparison as reports
    from oat_bench.results import comparison, published, records

    found = records.read_all(runs)
    place = 0 if reference is None else runs.index(reference)
    result = comparison.compare(
        found, attack=attack, reference=place, reference_lam=reference_lambda
    )
    folder = make_folder(out)
    page = reports.page(result)
    atomic_write(folder / "compare.md", page.markdown())
    atomic_write(folder / "compare.csv", reports.csv(result))
    (folder / "seeds.csv").unlink(missing_ok=True)  # what an earlier comparison left
    if result.over_seeds:
        atomic_write(folder / "seeds.csv", reports.seeds_csv(result.over_seeds))
    entries = [record.entry for record in found]
    drawn = figures.frontier(entries, published.of_entries(entries), result.attack)
    figures.write(drawn, folder / "frontier")
    show(page, f"tables and figure in {folder}")
