"""`list` and `results`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from oat_bench.cli.group import command, plain_console
from oat_bench.cli.options import FILE, PATH, flag, lambdas, option
from oat_bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

#: columns of `results` that are set to the right
_NUMBERS = {"lambda", "width", "eps", "seed", "n", "SA", "RA"}


@command("list attacks")
@click.argument("kind", type=click.Choice(["attacks", "benchmarks", "datasets", "methods"]))
def list_(kind: str) -> None:
    """List the cards, data sets and methods that ship with the package."""
    from oat_bench import cards, registry
    from oat_bench.attacks.card import attack_card
    from oat_bench.benchmark import benchmark_card
    from oat_bench.reports.table import Table

    rows: list[tuple[str, ...]]
    if kind == "attacks":
        headers: tuple[str, ...] = ("attack", "engine", "in all", "what it is")
        found = [attack_card(name) for name in cards.names("attacks")]
        rows = [(c.name, c.engine, "yes" if c.default else "", c.description) for c in found]
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
    else:
        headers = ("data set", "what it is")
        rows = [(n, (f.__doc__ or "").splitlines()[0]) for n, f in registry.DATASETS.items()]
    table = Table([dict(zip(headers, row, strict=True)) for row in rows], headers, fold=headers[-1])
    table.draw(plain_console())


@command("results runs --attack pgd-20 --lambda 0,1 --out all.csv")
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
    lambdas: list[float] | None,
    examples: bool,
    out: Path | None,
    **only: str | None,
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
    for column in ("dataset", "method", "attack", "seed", "model"):
        frame = found.only(frame, column, only[column], prefix=column == "model")
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
    from oat_bench.reports.table import Table

    if table.empty:
        click.echo("nothing was evaluated there, or nothing of what was asked", err=True)
        return
    rows: list[dict[str, str]] = table.to_dict("records")  # type: ignore[assignment]
    drawn = Table(rows, set(table.columns) - _NUMBERS, foreign=False)
    console = plain_console()
    if console.is_terminal:
        drawn.draw(console)
    else:
        click.echo(drawn.markdown())
