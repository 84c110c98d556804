"""The attacked images of an evaluation, kept: ``--save-images``."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oat_bench.attacks.saved import Header, Images, read, write
from oat_bench.files import make_folder
from oat_bench.progress import note
from oat_bench.results.outcomes import CellInfo

#: what takes more bytes is announced
_LARGE = 1e9


class ImageFolder:
    """Where images go: a file for each attack and operating point.

    Args:
        folder: its place.
        png: whether to write PNGs too, a folder for each file; they round to 8 bits.
    """

    def __init__(self, folder: Path, *, png: bool = False) -> None:
        self.folder, self.png = make_folder(folder), png
        self._noted = False

    def announce(self, images: int, example: Tensor) -> None:
        """Say how large the files become, where they are large.

        Args:
            images: how many.
            example: one of them.
        """
        size = images * example.numel() * 4
        if size > _LARGE:
            note(
                f"the attacked images take {size / 1e9:.1f} GB in {self.folder}; fewer with "
                "--n-examples, --attacks or --lambda"
            )

    def note_again(self) -> None:
        """Say once that images are attacked again."""
        if not self._noted:
            note("outcomes that were stored without their images are computed again, for these")
            self._noted = True


class Kept:
    """The images of one attack at one operating point.

    Args:
        folder: where they go.
        cell: names the file.
    """

    def __init__(self, folder: ImageFolder, cell: str) -> None:
        self.folder, self._path = folder, folder.folder / f"{cell}.safetensors"
        self._images: dict[int, Tensor] = {}
        if self._path.is_file():
            content = read(self._path)
            self._images = dict(zip(content.example.tolist(), content.images, strict=True))
        #: the examples whose images an earlier evaluation wrote
        self.before = np.array(sorted(self._images), dtype=np.int64)

    def holds(self, examples: np.ndarray) -> bool:
        """Whether an earlier evaluation wrote the images of all these examples."""
        return bool(np.isin(examples, self.before).all())

    def add(self, ids: Tensor, x_adv: Tensor) -> None:
        """Keep images of examples, in the place of those of before."""
        self._images |= zip(ids.tolist(), x_adv.detach().cpu(), strict=True)

    def write(self, about: CellInfo, examples: np.ndarray, labels: Tensor) -> None:
        """Write the images of examples, and those that an earlier evaluation wrote."""
        ids = np.union1d(examples, self.before)
        if len(ids) > len(self.before):
            fields = set(Header.model_fields)
            header = Header.model_validate(about.model_dump(include=fields))
            example = torch.from_numpy(ids)
            images = torch.stack([self._images[number] for number in ids.tolist()])
            write(self._path, Images(header, example, labels.cpu()[example], images))
        if self.folder.png:
            _write_pngs(self._path.with_suffix(""), read(self._path))


def _write_pngs(folder: Path, content: Images) -> None:
    folder.mkdir(exist_ok=True)
    rows = zip(content.example.tolist(), content.label.tolist(), content.images, strict=True)
    for example, label, image in rows:
        pixels = (255 * image).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        path = folder / f"{example:05d}-label{label}.png"
        if not path.exists():
            Image.fromarray(pixels if len(image) == 3 else pixels[:, :, 0]).save(path)
