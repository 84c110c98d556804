"""What tests of pages share."""

import click

from oat_bench import cli


def check_command(words: list[str]) -> None:
    """Parse what stands after ``oat-bench``, and run nothing; what is no command fails here."""
    command: click.Command = cli.cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    parent = click.Context(cli.cli, **cli.cli.context_settings)
    command.make_context("oat-bench", words, parent)
