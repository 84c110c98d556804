"""`results`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from oat_bench.cli.group import cli
from oat_bench.cli.options import FILE, PATH, example, flag, lambdas, option
from oat_bench.cli.printing import plain_console, print_whole
from oat_bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@cli.command(epilog=example("oat-bench results runs --attack pgd-20 --lambda 0,1 --out all.csv"))
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=PATH)
@option("--dataset", "LIST", "Only these data sets.")
@option("--method", "LIST", "Only these methods.")
@option("--model", "LIST", "Only these fingerprints, or how they begin.")
@option("--attack", "LIST", "Only these attacks.")
@option("--seed", "LIST", "Only attacks of these seeds.")
@lambdas("Only these lambda.")
@flag("--examples", "A row for each example, not a row for all.")
@option("--out", FILE, "Write a .csv or .parquet with all columns, and print nothing.")
def results(
    folders: tuple[Path, ...],
    dataset: str | None,
    method: str | None,
    model: str | None,
    attack: str | None,
    seed: str | None,
    lambdas: list[float] | None,
    examples: bool,
    out: Path | None,
) -> None:
    """List what was evaluated: every model, operating point and attack.

    A FOLDER is a run's, or one that holds runs. [default: runs]
    """
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {out}: expected a file that ends in .csv or .parquet")
    if examples and out is None:
        raise UserError("--examples is for a file; name one with --out, such as --out all.parquet")
    from oat_bench.files import atomic_write
    from oat_bench.results import listing as found
    from oat_bench.results.outcomes import write_parquet

    frame = found.outcomes(found.stores(folders or (Path("runs"),)))
    for column, chosen in (("dataset", dataset), ("method", method), ("attack", attack)):
        frame = found.only(frame, column, chosen)
    frame = found.only(frame, "seed", seed)
    frame = found.only(frame, "model", model, prefix=True)
    if lambdas is not None:
        frame = frame[frame["lam"].isin(lambdas)]
    table = frame if examples else found.summarize(frame)
    if out is None:
        _print(found.shown(table))
    elif out.suffix == ".csv":
        atomic_write(out, table.to_csv(index=False))
    else:
        write_parquet(out, table)


def _print(table: "pd.DataFrame") -> None:
    from oat_bench.reports import comparison

    if table.empty:
        click.echo("nothing was evaluated there, or nothing of what was asked", err=True)
        return
    console = plain_console()
    if console.is_terminal:
        print_whole(console, comparison.terminal(table))
    else:
        click.echo(table.to_markdown(index=False, disable_numparse=True))
