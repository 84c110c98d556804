"""Puts the cards that lie at the top of the repository into the wheel."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CardsHook(BuildHookInterface):
    """An installed package finds cards in ``_cards``, a checkout at its top."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every card to the files of a wheel."""
        if version == "editable":
            return
        for kind in ("attacks", "benchmarks"):
            for card in Path(self.root, kind).glob("*.toml"):
                build_data["force_include"][str(card)] = f"oat_bench/_cards/{kind}/{card.name}"
