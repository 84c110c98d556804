"""A run's report: tables, summary numbers, flags and figures on one page of Markdown."""

from collections.abc import Mapping

from oat_bench import escape as text
from oat_bench.results.entries import Entry


def page(entry: Entry, table: str, figures: Mapping[str, str]) -> str:
    """Write the page; ``table`` is Markdown, ``figures`` are captions by name, in ``figures/``."""
    pictures = [f"![{name}](figures/{name}.png)\n\n{text}" for name, text in figures.items()]
    attacks = ", ".join(f"{attack.name} ({attack.engine})" for attack in entry.attacks)
    versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
    fence = "```" if "```" not in entry.command else "~~~~"
    made = (
        f"{fence}sh\n{entry.command}\n{fence}\n\n"
        f"* weights: {entry.selection}; seed {entry.seed}\n"
        f"* attacks: {attacks}\n"
        f"* precision: attacks {entry.gradients}, predictions {entry.predictions}\n"
        f"* versions: {versions}\n"
        f"* every example under every attack: `outcomes.parquet`; all numbers: `entry.json`, "
        "`table.csv`, `table.tex`"
    )
    found = [f"* {text.markdown(flag.text)}" for flag in entry.flags or ()] or ["None was raised."]
    sections = [
        f"# {entry.name} on {entry.dataset}",
        table.rstrip("\n"),
        "## Flags",
        "\n".join(found),
    ]
    return "\n\n".join([*sections, "## Figures", *pictures, "## How this was made", made]) + "\n"
