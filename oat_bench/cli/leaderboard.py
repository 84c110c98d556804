"""`leaderboard`, a command for each thing that is done with entries."""

from oat_bench.cli.group import cli
from oat_bench.cli.options import example


@cli.group(epilog=example("oat-bench leaderboard validate leaderboards"))
def leaderboard() -> None:
    """Publish entries, check them, rank them."""
