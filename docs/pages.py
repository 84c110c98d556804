"""What the documentation site makes itself: its front page, and pages of commands and of cards."""

import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from oat_bench import card_text, cards, cli
from oat_bench.attacks.card import attack_card
from oat_bench.benchmark import benchmark_card

ROOT = Path(__file__).parents[1]
CARDS = """# Cards

A benchmark, and an attack, is a TOML file. `oat-bench show card NAME` prints any of them as below:
each key with its type, its default and what it means. `--benchmark FILE` and `--attacks FILE` take
yours, which states only where it differs: `extends = "cifar10-small"`.
"""
_LINK = re.compile(r'(\]\(|src="|href="|\]: )(?!https?:|#|mailto:)([^)\s"]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the README, of ``--help`` and of the cards."""
    made = {
        "index.md": (ROOT / "README.md").read_text(),
        "reference/commands.md": commands(),
        "reference/cards.md": card_pages(),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Lead links within docs/ to its pages, and those to other files to the repository."""
    folder = ROOT if page.file.src_uri == "index.md" else (ROOT / "docs" / page.file.src_uri).parent
    here = (ROOT / "docs" / page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        before, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path:
            return match[0]
        file = (folder / path).resolve()
        if file.is_relative_to(ROOT / "docs"):
            relative = file.relative_to(here) if folder != here else path
            return f"{before}{relative}{hash_}{anchor}"
        if not file.exists() and folder == here:
            return match[0]  # a page that is made here, or a mistake that the build reports
        there = f"{config.extra['repository']}/{'tree' if file.is_dir() else 'blob'}/main"
        return f"{before}{there}/{file.relative_to(ROOT)}{hash_}{anchor}"

    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def commands() -> str:
    """Write the help of every command."""
    text = "# Commands\n\nWhat `--help` says. Bad input ends in one line, with exit code 2.\n"
    for names, command in _walk(cli.cli, ()):
        context = click.Context(
            command, info_name=" ".join(["oat-bench", *names]), max_content_width=90
        )
        context.terminal_width = 90
        text += f"\n## oat-bench {' '.join(names)}\n\n```text\n{command.get_help(context)}\n```\n"
    return text


def _walk(
    command: click.Command, names: tuple[str, ...]
) -> list[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        return [(names, command)]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        found += _walk(below, (*names, name))
    return found


def card_pages() -> str:
    """Write what ships, and each key of a card with its type, default and meaning."""
    text = CARDS + "\n## Benchmarks that ship\n\n| card | what it is |\n| --- | --- |\n"
    for name in cards.names("benchmarks"):
        text += f"| `{name}` | {benchmark_card(name).description} |\n"
    text += "\n## Attacks that ship\n\n| card | what it is |\n| --- | --- |\n"
    for name in cards.names("attacks"):
        text += f"| `{name}` | {attack_card(name).description} |\n"
    shown = (("benchmark", benchmark_card("fashion-12x12-oats")), ("attack", attack_card("pgd-20")))
    for kind, card in shown:
        text += f"\n## Keys of a card: {kind}\n\n```toml\n{card_text.as_toml(card)}```\n"
    return text
