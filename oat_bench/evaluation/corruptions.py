"""Accuracy under common corruptions (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261).

Eight of them can be computed, with the parameters of the authors' script for CIFAR
(``make_cifar_c.py`` of hendrycks/robustness) whatever the size of the images. What is random is
drawn for the example and the corruption; a higher severity scales the same draws.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import poisson
from torch import Tensor

from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Split
from oat_bench.evaluation.subject import Subject
from oat_bench.progress import bar
from oat_bench.randomness import normal, uniform
from oat_bench.statistics.accuracy import Accuracy
from oat_bench.statistics.frontier import mean_accuracy

Floats = NDArray[np.float64]
_SEED = 1903_12261  # of everybody's images


def _gaussian_noise(x: Floats, std: float, ids: Tensor) -> Floats:
    return x + std * normal(ids, x.shape[1:], _SEED, 0).double().numpy()


def _shot_noise(x: Floats, photons: float, ids: Tensor) -> Floats:
    """Replace an intensity by a Poisson count of mean ``photons * x``, by inversion."""
    levels, place = np.unique(x, return_inverse=True)
    place = place.reshape(x.shape)
    counts = np.arange(int(poisson.isf(1e-12, photons)) + 2)
    chances = np.asarray(poisson.cdf(counts, photons * levels[:, None]))
    chances[:, -1] = 1
    # one ascending list: the distribution of level k lies between k and k + 1
    ascending = (chances + np.arange(len(levels))[:, None]).ravel()
    drawn = place + uniform(ids, x.shape[1:], _SEED, 1).double().numpy()
    found: Floats = np.searchsorted(ascending, drawn, side="right") - place * len(counts)
    return found / photons


def _impulse_noise(x: Floats, share: float, ids: Tensor) -> Floats:
    """Set a share of the values to black or to white, all alike."""
    hit, white = uniform(ids, (2, *x.shape[1:]), _SEED, 2).double().numpy().swapaxes(0, 1)
    return np.where(hit < share, np.where(white < 0.5, 1.0, 0.0), x)


def _gaussian_blur(x: Floats, std: float, _ids: Tensor) -> Floats:
    return np.asarray(gaussian_filter(x, (0, 0, std, std), mode="nearest", truncate=4))


def _brightness(x: Floats, more: float, _ids: Tensor) -> Floats:
    """Raise the value of HSV: hue and saturation stay, so all channels grow by one factor."""
    value = x.max(axis=1, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.asarray(np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised))


def _contrast(x: Floats, factor: float, _ids: Tensor) -> Floats:
    mean: Floats = x.mean(axis=(2, 3), keepdims=True)
    return mean + factor * (x - mean)


def _pixelate(image: Image.Image, factor: float) -> Image.Image:
    small = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    box = Image.Resampling.BOX
    return image.resize(small, box).resize(image.size, box)


def _jpeg(image: Image.Image, quality: float) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(quality))
    return Image.open(buffer, formats=["JPEG"])


def _with_pillow(
    change: Callable[[Image.Image, float], Image.Image], x: Floats, level: float, _ids: Tensor
) -> Floats:
    pixels = np.rint(255 * x).astype(np.uint8).transpose(0, 2, 3, 1)
    shown = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(image), level)) for image in shown])
    return changed.reshape(pixels.shape).transpose(0, 3, 1, 2) / 255


#: what changes images, and its parameter at the severities 1 to 5
CORRUPTIONS: dict[str, tuple[Callable[[Floats, float, Tensor], Floats], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": (partial(_with_pillow, _pixelate), (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (partial(_with_pillow, _jpeg), (80, 65, 58, 50, 40)),
}


def corrupt(x: Floats, corruption: str, severity: int, ids: Tensor) -> NDArray[np.uint8]:
    """Corrupt images [n, C, H, W] in [0, 1], C 1 or 3, to 0 ... 255, by severity 1 to 5."""
    function, levels = CORRUPTIONS[corruption]
    changed = np.clip(function(x, levels[severity - 1], ids), 0, 1)
    # rounded down as the authors' are; k / 255 * 255 may be just below k
    return np.floor(255 * changed + 1e-6).astype(np.uint8)


# from a corruption, a severity and ids to images [n, C, H, W]
Source = Callable[[str, int, Tensor], NDArray[np.uint8]]


def computed(test: Split, corruption: str, severity: int, ids: Tensor) -> NDArray[np.uint8]:
    """Corrupt images of a split in main memory; a `Source` once the split is given."""
    return corrupt(test.images[ids].numpy() / test.levels, corruption, severity, ids)


@dataclass(frozen=True)
class Outcomes:
    """What is right at one point: clean [n], corrupted [corruptions, severities, n]."""

    point: OperatingPoint
    clean: NDArray[np.bool_]
    right: NDArray[np.bool_]

    def mean(self) -> Accuracy:
        """Average over corruptions and severities; the interval is by bootstrap over images."""
        return mean_accuracy(self.right.mean(axis=(0, 1)))


def evaluate(
    subject: Subject,
    points: Sequence[OperatingPoint],
    source: Source,
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    show: bool = True,
) -> tuple[list[Outcomes], str]:
    """Classify corrupted images; return the outcomes by point, and the SHA-256 of all images."""
    ids, device = subject.ids, subject.data.labels.device
    cases = [(c, s) for c in corruptions for s in severities]
    at = [subject.at(point, len(cases) * len(points) * len(ids)) for point in points]
    labels = subject.data.labels[ids.to(device)]
    right = np.zeros((len(points), len(cases), len(ids)), np.bool_)
    size, digest = min(one.batch_size for one in at), hashlib.sha256()
    with bar("corrupting", len(cases), show=show) as line:
        for place, (corruption, severity) in enumerate(cases):
            line.note(f"{corruption}, severity {severity}")
            for batch in torch.split(torch.arange(len(ids)), size):
                pixels = source(corruption, severity, ids[batch])
                digest.update(pixels.tobytes())
                x = torch.from_numpy(pixels).to(device).float() / 255
                for k, one in enumerate(at):
                    hits = one.predict(x, ids[batch].to(device)) == labels[batch.to(device)]
                    right[k, place, batch.numpy()] = hits.cpu().numpy()
            line.advance()
    by_case = right.reshape(len(points), len(corruptions), len(severities), len(ids))
    clean = [one.right(ids.to(device)).cpu().numpy() for one in at]
    return [Outcomes(*one) for one in zip(points, clean, by_case, strict=True)], digest.hexdigest()
