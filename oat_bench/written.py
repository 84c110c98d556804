"""Results that are written as JSON and read back."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from oat_bench.complaints import explain
from oat_bench.errors import UserError
from oat_bench.files import read_bounded


class Written(BaseModel):
    """Base of results: no unknown keys, no changes, finite numbers (not so in free dicts)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=False
    )
    what: ClassVar[str] = "a result of oat-bench"  #: what a file of it is, in errors
    mend: ClassVar[str] = ""
    max_bytes: ClassVar[int] = 1 << 26  #: a larger file is a mistake

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file, or raise a `UserError` that says what it should be."""
        return cls.parse(read_bounded(path, cls.max_bytes, cls.what), path)

    @classmethod
    def parse(cls, content: bytes, path: Path | str) -> Self:
        """Read what a file holds, likewise."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise UserError(f"{path}: not {cls.what}: {explain(error, cls)}{cls.mend}") from error

    def as_json(self) -> str:
        """Return what a file of it holds."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"
