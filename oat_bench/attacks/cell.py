"""What outcomes on disk, and files of attacked images, say that they are of."""

from typing import ClassVar, Literal

from pydantic import Field

from oat_bench.cards import Name, Norm
from oat_bench.written import Written


class CellInfo(Written):
    """One model at one operating point under one attack."""

    what: ClassVar[str] = "the description of a cell"
    mend: ClassVar[str] = "; remove the file, the next evaluation writes it again"
    max_bytes: ClassVar[int] = 1 << 20

    format_version: Literal[1] = 1
    dataset: str
    data: str = Field(description="fingerprint of every image and label")
    method: str
    architecture: str
    model: str = Field(description="fingerprint of the weights and their description")
    lam: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    attack: Name
    part: int = Field(default=1, ge=1, description="of an attack that is several in turn")
    parts: int = Field(default=1, ge=1)
    crafted: str = Field(default="", description="where images were attacked, if not at lam alone")
    engine: str
    norm: Norm
    eps: float = Field(ge=0)
    seed: int
    card: str = Field(description="fingerprint of the attack card")
    gradients: str = Field(description="precision that the attack computed in")
