"""The backbones: wide residual networks and residual networks, with the stem of their name."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.card import RESNETS, STEMS, check_architecture, split_stem
from oat_bench.networks.conditioning import AnyCondition
from oat_bench.networks.slimmable import run_layer, share
from oat_bench.registry import ARCHITECTURES


@dataclass(frozen=True)
class Layers:
    """What a backbone makes its layers with."""

    #: of channels and whether the published networks have FiLM there: not after a shortcut's batch
    #: norm, nor after the last one of a wide residual network
    norm: Callable[[int, bool], nn.Module]
    conv: type[nn.Conv2d] = nn.Conv2d
    linear: Callable[[int, int], nn.Linear] = nn.Linear
    dropout: float = 0.0  # between the convolutions of a wide residual network's block

    def convolution(self, c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
        """Make a convolution, its weights drawn (He et al.) by their fan-out."""
        conv = self.conv(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return conv

    def stem(self, stem: str, c_in: int, c_out: int) -> tuple[nn.Conv2d, nn.Module]:
        """Make the first convolution, and the pooling before the stages."""
        size, stride, pools = STEMS[stem]
        pool = nn.MaxPool2d(3, stride=2, padding=1) if pools else nn.Identity()
        return self.convolution(c_in, c_out, size, stride), pool


class PreActivationBlock(nn.Module):
    """Basic block of a wide residual network: norm, ReLU, conv, twice (arXiv:1605.07146)."""

    # a convolution, and the norm layer that alone takes its output
    conv_norm_pairs: ClassVar = (("conv1", "norm2"),)

    def __init__(self, c_in: int, c_out: int, stride: int, project: bool, make: Layers) -> None:
        super().__init__()
        self.norm1 = make.norm(c_in, True)
        self.conv1 = make.convolution(c_in, c_out, 3, stride)
        self.norm2 = make.norm(c_out, True)
        self.dropout = nn.Dropout(make.dropout)
        self.conv2 = make.convolution(c_out, c_out, 3)
        self.shortcut = make.convolution(c_in, c_out, 1, stride) if project else None

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:
        """Map [n, c_in, H, W] to [n, c_out, H / stride, W / stride]."""
        active = F.relu(self.norm1(h, condition))
        out = F.relu(self.norm2(run_layer(self.conv1, active, condition), condition))
        shortcut = h if self.shortcut is None else run_layer(self.shortcut, active, condition)
        return shortcut + run_layer(self.conv2, self.dropout(out), condition)


class PostActivationBlock(nn.Module):
    """Basic block of a residual network: conv, norm, ReLU (arXiv:1512.03385)."""

    conv_norm_pairs: ClassVar = (
        ("conv1", "norm1"),
        ("conv2", "norm2"),
        ("shortcut", "shortcut_norm"),
    )

    def __init__(self, c_in: int, c_out: int, stride: int, project: bool, make: Layers) -> None:
        super().__init__()
        self.conv1 = make.convolution(c_in, c_out, 3, stride)
        self.norm1 = make.norm(c_out, True)
        self.conv2 = make.convolution(c_out, c_out, 3)
        self.norm2 = make.norm(c_out, True)
        self.shortcut = make.convolution(c_in, c_out, 1, stride) if project else None
        self.shortcut_norm = make.norm(c_out, False) if project else None

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:
        """Map [n, c_in, H, W] to [n, c_out, H / stride, W / stride]."""
        out = F.relu(self.norm1(run_layer(self.conv1, h, condition), condition))
        out = self.norm2(run_layer(self.conv2, out, condition), condition)
        if self.shortcut is not None and self.shortcut_norm is not None:
            h = self.shortcut_norm(run_layer(self.shortcut, h, condition), condition)
        return F.relu(out + h)


class Stage(nn.Module):
    """Blocks of one resolution, one after the other."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:
        """Run the blocks."""
        for block in self.blocks:
            h = block(h, condition)
        return h


def _stages(
    block: type[PreActivationBlock | PostActivationBlock],
    counts: tuple[int, ...],
    channels: tuple[int, ...],
    width: float,
    make: Layers,
) -> list[Stage]:
    stages = []
    for number, count in enumerate(counts):
        stride = 2 if number else 1
        c_in, c_out = (share(c, width) for c in channels[number : number + 2])
        # by the full width's channels: every width of an architecture has the same shortcuts
        project = stride != 1 or channels[number] != channels[number + 1]
        first = block(c_in, c_out, stride, project, make)
        rest = [block(c_out, c_out, 1, False, make) for _ in range(count - 1)]
        stages.append(Stage([first, *rest]))
    return stages


class Backbone(nn.Module):
    """Features, then the classification head; for any input size."""

    if TYPE_CHECKING:  # torch.jit would take the annotation for an interface's
        linear: nn.Linear

    def forward(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images [n, in_channels, H, W] in [0, 1] to logits [n, num_classes]."""
        h = self.features(x, condition)
        # the head in float32: rounded logits tie, and losses are made of differences
        with torch.autocast(h.device.type, enabled=False):
            pooled = h.mean(dim=(2, 3), dtype=self.linear.weight.dtype)
            return run_layer(self.linear, pooled, condition)

    @abstractmethod
    def features(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images to the maps that the head pools, [n, c, H, W]."""


class WideResNet(Backbone):
    """WRN-depth-widen_factor (arXiv:1605.07146)."""

    def __init__(
        self, name: str, num_classes: int, in_channels: int, width: float, make: Layers
    ) -> None:
        super().__init__()
        base, stem = split_stem(name)
        depth, widen = (int(number) for number in base.split("-")[1:])
        channels = (16, 16 * widen, 32 * widen, 64 * widen)
        counts = ((depth - 4) // 6,) * 3
        stages = _stages(PreActivationBlock, counts, channels, width, make)
        self.conv1, self.pool = make.stem(stem, in_channels, share(channels[0], width))
        self.stage1, self.stage2, self.stage3 = stages
        last = share(channels[-1], width)
        self.norm = make.norm(last, False)
        self.linear = make.linear(last, num_classes)

    def features(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images to the maps that the head pools."""
        # max pooling gives the same before a norm of positive scale and ReLU as after them
        h = self.pool(run_layer(self.conv1, x, condition))
        for stage in (self.stage1, self.stage2, self.stage3):
            h = stage(h, condition)
        return F.relu(self.norm(h, condition))


class ResNet(Backbone):
    """ResNet-18 or ResNet-34 (arXiv:1512.03385); with ``stem7`` as for ImageNet."""

    conv_norm_pairs: ClassVar = (("conv1", "norm1"),)

    def __init__(
        self, name: str, num_classes: int, in_channels: int, width: float, make: Layers
    ) -> None:
        super().__init__()
        channels = (64, 64, 128, 256, 512)
        base, stem = split_stem(name)
        stages = _stages(PostActivationBlock, RESNETS[base], channels, width, make)
        self.conv1, self.pool = make.stem(stem, in_channels, share(channels[0], width))
        self.norm1 = make.norm(share(channels[0], width), True)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.linear = make.linear(share(channels[-1], width), num_classes)

    def features(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images to the maps that the head pools."""
        active = F.relu(self.norm1(run_layer(self.conv1, x, condition), condition))
        h: Tensor = self.pool(active)
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            h = stage(h, condition)
        return h


def build_backbone(
    name: str, num_classes: int, in_channels: int, make: Layers, width: float = 1.0
) -> nn.Module:
    """Build a backbone of a share of the channels, weights drawn.

    One of another package is a function as called below. Its module takes images and a condition,
    hands the condition to every norm layer, and calls convolutions and head by `run_layer`.
    """
    check_architecture(name)
    if name in ARCHITECTURES:
        build: Callable[..., nn.Module] = ARCHITECTURES[name]
        kinds = {"conv": make.conv, "linear": make.linear}
        return build(num_classes, in_channels, make.norm, width=width, **kinds)
    kind = ResNet if name.startswith("resnet") else WideResNet
    return kind(name, num_classes, in_channels, width, make)
