"""Puts the cards and the published numbers at the top of the repository into the wheel."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CardsHook(BuildHookInterface):
    """An installed package finds cards in ``_cards``, a checkout at its top."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every card and every table of published numbers to the files of a wheel."""
        if version == "editable":
            return
        for pattern in ("attacks/*.toml", "benchmarks/*.toml", "benchmarks/published/*.csv"):
            for file in Path(self.root).glob(pattern):
                place = file.relative_to(self.root).as_posix()
                build_data["force_include"][str(file)] = f"oat_bench/_cards/{place}"
