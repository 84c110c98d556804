"""The command that all others hang on."""

import sys
from typing import Any

import click

from oat_bench import __version__
from oat_bench.cli.options import example


class Group(click.Group):
    """A group whose Ctrl-C leaves a clean line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if sys.stderr.isatty():
                click.echo(err=True)  # a line of its own for the ^C
            raise click.Abort from error


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=example("oat-bench run --dataset digits --attacks all"),
)
@click.version_option(__version__, package_name="oat-bench")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train, attack and compare classifiers whose trade-off is chosen at test time."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
