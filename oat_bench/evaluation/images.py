"""The attacked images of an evaluation, kept: ``--save-images``."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.saved import Images, read, write
from oat_bench.files import make_folder
from oat_bench.progress import note

_LARGE = 1e9  # what takes more bytes is announced


class ImageFolder:
    """A file of images for each attack and operating point, and PNGs, which round to 8 bits."""

    def __init__(self, folder: Path, *, png: bool = False) -> None:
        self.folder, self.png = make_folder(folder), png
        self._noted = False

    def announce(self, images: int, example: Tensor) -> None:
        """Say how large the files become, where so many images like one are large."""
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
    """The images of one attack at one operating point, by the ids of their examples."""

    def __init__(self, folder: ImageFolder, name: str) -> None:
        self.folder, self._path = folder, folder.folder / f"{name}.safetensors"
        self._images: dict[int, Tensor] = {}
        if self._path.is_file():
            content = read(self._path)
            self._images = dict(zip(content.example.tolist(), content.images, strict=True))
        self._before = torch.tensor(sorted(self._images), dtype=torch.int64)

    def there(self, examples: Tensor) -> Tensor:
        """Say of which examples an earlier evaluation wrote the images: bool, shape [n]."""
        return torch.isin(examples, self._before)

    def holds(self, examples: Tensor) -> Tensor:
        """Say of which examples there are images by now: bool, shape [n]."""
        return torch.isin(examples, torch.tensor(list(self._images), dtype=torch.int64))

    def add(self, ids: Tensor, x_adv: Tensor) -> None:
        """Keep images of examples, in the place of those of before."""
        self._images |= zip(ids.tolist(), x_adv.detach().cpu(), strict=True)

    def write(self, about: CellInfo, examples: Tensor, labels: Tensor) -> None:
        """Write the images of examples, and those that an earlier evaluation wrote."""
        if not self.there(examples).all():
            ids = torch.unique(torch.cat([examples, self._before]))
            images = torch.stack([self._images[number] for number in ids.tolist()])
            write(self._path, Images(about, ids, labels.cpu()[ids], images))
        if self.folder.png:
            content, folder = read(self._path), self._path.with_suffix("")
            folder.mkdir(exist_ok=True)
            columns = content.example.tolist(), content.label.tolist(), content.images
            for example, label, image in zip(*columns, strict=True):
                path = folder / f"{example:05d}-label{label}.png"
                pixels = (255 * image).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
                if not path.exists():
                    Image.fromarray(pixels if len(image) == 3 else pixels[:, :, 0]).save(path)
