"""The command that all others hang on, and what they print and write down."""

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from oat_bench import __version__
from oat_bench.errors import Finished, UserError
from oat_bench.launch import launch

if TYPE_CHECKING:
    from rich.console import Console

    from oat_bench.reports.table import Page


def example(text: str) -> str:
    """Return the end of a help page."""
    return f"\b\nExample:\n  oat-bench {text}"


class Group(click.Group):
    """A group that ends in a clean line at Ctrl-C, and where there is no report."""

    group_class = type

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Finished as done:
            click.echo(str(done), err=True)
            return None
        except KeyboardInterrupt as error:
            if sys.stderr.isatty():
                click.echo(err=True)  # a line of its own for the ^C
            raise click.Abort from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their first sentences, none cut."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(n, self.commands[n].get_short_help_str(10**6)) for n in sorted(self.commands)]
            )


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=example("run --dataset digits --attacks all"),
)
@click.version_option(__version__, package_name="oat-bench")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train, attack and compare classifiers whose trade-off is chosen at test time."""
    name = context.invoked_subcommand
    if name is None:
        click.echo(context.get_help())
    elif launch().size > 1 and name not in ("run", "train"):
        raise UserError(f"torchrun is for train and run; start {name} without it")


def command(
    text: str, parent: click.Group | None = None, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a command that is named, and shown, by an example: the line after ``oat-bench``."""
    name = text.split()[0 if parent is None else 1]
    return (parent or cli).command(name, epilog=example(text), **settings)


def command_line(*options: str) -> str:
    """Return this command as a shell takes it, with further options, in valid UTF-8."""
    # options go before arguments, of which ``--`` may be one
    written = shlex.join(["oat-bench", *sys.argv[1:2], *options, *sys.argv[2:]])
    return written.encode(errors="backslashreplace").decode()


def plain_console() -> "Console":
    """Return a console that takes text for text: no markup, no colours of its own."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def show(page: "Page", where: str = "") -> None:
    """Draw a report in a terminal, in a pipe write it as Markdown; say where its files are."""
    from oat_bench.progress import note

    console = plain_console()
    if console.is_terminal:
        page.draw(console)
    else:
        click.echo(page.markdown(), nl=False)
    if where:
        note(where)
