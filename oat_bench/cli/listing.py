"""`list`, which as a name of a module would hide Python's."""

import sys

import click

from oat_bench.cli.group import cli
from oat_bench.cli.options import example
from oat_bench.cli.printing import UNFOLDED


@cli.command("list", epilog=example("oat-bench list attacks"))
@click.argument("kind", type=click.Choice(["attacks", "benchmarks", "datasets", "methods"]))
def list_(kind: str) -> None:
    """List the cards, data sets and methods that ship with the package."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from oat_bench import cards
    from oat_bench.attacks.card import attack_card
    from oat_bench.benchmark import benchmark_card

    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
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
        from oat_bench.registry import METHODS

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
    Console(width=None if sys.stdout.isatty() else UNFOLDED).print(table)
