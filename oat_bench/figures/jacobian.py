"""Jacobian saliency: the input gradient of the loss (OAT paper, figures 10 to 12)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchvision.utils import make_grid

from oat_bench.classifier import TunableClassifier
from oat_bench.datasets import Dataset, nested_order
from oat_bench.figures import style
from oat_bench.networks.drawn import steady

#: images in a grid, one of each class as far as there are so many
N_IMAGES = 6


@style.styled
def saliency(
    classifier: TunableClassifier, data: Dataset, lambdas: Sequence[float], width: float = 1.0
) -> Figure:
    """Draw test images, one a class, and beside each its loss gradient at several lambda values.

    As Tsipras et al. do (arXiv:1805.12152): clipped to three standard deviations of the image's
    gradient, grey where it is zero. The images are the first of the nested order.
    """
    order = nested_order(data.test.labels)
    labels = data.test.labels[order].tolist()
    index = order[[labels.index(label) for label in dict.fromkeys(labels)][:N_IMAGES]]
    images, targets = data.test.inputs(index).cpu(), data.test.labels[index].cpu()
    gradients = [input_gradient(classifier, images, targets, lam, width) for lam in lambdas]
    grid = torch.stack([images, *map(_shown, gradients)], 1)  # [rows, columns, C, H, W]
    rows, columns, _, height, across = grid.shape
    figure = Figure(figsize=(1.2 + columns, 0.7 + rows), layout="constrained")
    axes, gap = figure.subplots(), max(across // 12, 1)
    axes.imshow(_mosaic(grid, gap), vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([k * (across + gap) + (across - 1) / 2 for k in range(columns)])
    axes.set_xticklabels(["image", *(f"lambda {lam:g}" for lam in lambdas)])
    axes.set_yticks([k * (height + gap) + (height - 1) / 2 for k in range(rows)])
    names = [style.drawable(data.classes[int(target)]) for target in targets]
    axes.set_yticklabels([name if len(name) <= 12 else f"{name[:11]}." for name in names])
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    model = f"{classifier.info.architecture}, {classifier.info.method.upper()}"
    figure.suptitle(f"{data.name}, {model}: gradient of the loss", fontsize=9)
    return figure


def input_gradient(
    classifier: TunableClassifier, images: Tensor, labels: Tensor, lam: float, width: float = 1.0
) -> Tensor:
    """Return the gradient of the cross-entropy with respect to the clean images, [n, C, H, W]."""
    model = steady(classifier.at(lam, width))
    device = next((tensor.device for tensor in model.parameters()), images.device)
    x = images.detach().clone().to(device).requires_grad_()
    loss = F.cross_entropy(model(x), labels.to(device), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.cpu()


def _shown(gradient: Tensor) -> Tensor:
    """Bring each image's gradient to [0, 1], zero to the middle."""
    flat = gradient.flatten(1)
    scale = flat.std(dim=1).clamp_min(torch.finfo(flat.dtype).tiny)[:, None, None, None]
    return (gradient / (3 * scale)).clamp(-1, 1) / 2 + 0.5


def _mosaic(grid: Tensor, gap: int) -> NDArray[np.float32]:
    """Lay pictures [rows, columns, C, H, W] side by side on white: [H', W', 3]."""
    pictures = grid if grid.shape[2] == 3 else grid.mean(dim=2, keepdim=True)
    whole = make_grid(pictures.flatten(0, 1), nrow=grid.shape[1], padding=gap, pad_value=1)
    return np.asarray(whole[:, gap:-gap, gap:-gap].permute(1, 2, 0), dtype=np.float32)
