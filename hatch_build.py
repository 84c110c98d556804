"""Puts the cards, published numbers and models at the top of the repository into the wheel."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SMALL = 1_000_000  # bytes of a checkpoint that comes with the package; larger ones are downloaded


class CardsHook(BuildHookInterface):
    """An installed package finds cards in ``_cards``, a checkout at its top."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add cards, tables of published numbers, and models with an index to a wheel's files."""
        if version == "editable":
            return
        root, index = Path(self.root), {}
        patterns = ("attacks/*.toml", "benchmarks/*.toml", "benchmarks/published/*.csv")
        files = [file for pattern in patterns for file in root.glob(pattern)]
        for file in sorted(root.glob("leaderboards/*/*/*.safetensors")):
            content = file.read_bytes()
            place = file.relative_to(root / "leaderboards").with_suffix("").as_posix()
            sha256 = hashlib.sha256(content).hexdigest()
            index[place] = {"bytes": len(content), "sha256": sha256}
            files += [file] if len(content) < _SMALL else []
            files += [file.with_suffix(".json"), *file.parent.glob(f"{file.stem}.integrity.json")]
        included = build_data["force_include"]
        included |= {str(f): f"oat_bench/_cards/{f.relative_to(root).as_posix()}" for f in files}
        self._made = TemporaryDirectory()  # until the wheel is written
        models = Path(self._made.name) / "models.json"
        models.write_text(json.dumps(index, indent=2) + "\n")
        included[str(models)] = "oat_bench/_cards/leaderboards/models.json"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made for the wheel alone."""
        if version != "editable":
            self._made.cleanup()
