"""The backbones: wide residual networks and residual networks with a 3x3 stem.

Each takes its norm layers from a factory ``norm(channels, film)``, where ``film`` says whether the
published networks have a FiLM layer there: not after a shortcut's batch norm, nor after the last
batch norm of a wide residual network. Convolutions and the classification head are of the classes
that it is given; a slimmable one is told the condition (`run_layer`), a plain one is not.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.card import RESNETS, check_architecture
from oat_bench.networks.conditioning import Condition, Folded
from oat_bench.networks.slimmable import run_layer, share
from oat_bench.registry import ARCHITECTURES

NormFactory = Callable[[int, bool], nn.Module]
Conv = type[nn.Conv2d]
LinearFactory = Callable[[int, int], nn.Linear]
AnyCondition = Condition | Folded | None


def _conv(kind: Conv, c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = kind(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _classify(linear: nn.Linear, h: Tensor, condition: AnyCondition) -> Tensor:
    """Pool and classify in float32: rounded logits tie, and losses are made of differences."""
    with torch.autocast(h.device.type, enabled=False):
        features = h.mean(dim=(2, 3), dtype=linear.weight.dtype)
        return run_layer(linear, features, condition)


class PreActivationBlock(nn.Module):
    """Basic block of a wide residual network: norm, ReLU, conv, twice (arXiv:1605.07146)."""

    #: convolutions whose output goes to one norm layer and nowhere else
    conv_norm_pairs: ClassVar = (("conv1", "norm2"),)

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        project: bool,
        norm: NormFactory,
        conv: Conv,
        drop: float,
    ) -> None:
        super().__init__()
        self.norm1 = norm(c_in, True)
        self.conv1 = _conv(conv, c_in, c_out, 3, stride)
        self.norm2 = norm(c_out, True)
        self.dropout = nn.Dropout(drop)
        self.conv2 = _conv(conv, c_out, c_out, 3)
        self.shortcut = _conv(conv, c_in, c_out, 1, stride) if project else None

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

    def __init__(
        self, c_in: int, c_out: int, stride: int, project: bool, norm: NormFactory, conv: Conv
    ) -> None:
        super().__init__()
        self.conv1 = _conv(conv, c_in, c_out, 3, stride)
        self.norm1 = norm(c_out, True)
        self.conv2 = _conv(conv, c_out, c_out, 3)
        self.norm2 = norm(c_out, True)
        self.shortcut = _conv(conv, c_in, c_out, 1, stride) if project else None
        self.shortcut_norm = norm(c_out, False) if project else None

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


class WideResNet(nn.Module):
    """WRN-depth-widen_factor (arXiv:1605.07146), for any input size.

    Args:
        depth: 6n + 4.
        widen_factor: the width of the stages is 16, 32 and 64 times this.
        num_classes: number of logits.
        in_channels: channels of the images.
        norm: makes the norm layers.
        dropout: probability, between the convolutions of a block.
        conv: class of the convolutions.
        linear: makes the classification head.
        width: share of the channels of each layer.
    """

    conv_norm_pairs: ClassVar = ()

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        num_classes: int,
        in_channels: int,
        norm: NormFactory,
        dropout: float = 0.0,
        conv: Conv = nn.Conv2d,
        linear: LinearFactory = nn.Linear,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        per_stage = (depth - 4) // 6
        full = (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        widths = [share(channels, width) for channels in full]
        stages = []
        for number, stride in enumerate((1, 2, 2)):
            c_in, c_out = widths[number : number + 2]
            # every width of an architecture has the same shortcuts
            project = stride != 1 or full[number] != full[number + 1]
            first = PreActivationBlock(c_in, c_out, stride, project, norm, conv, dropout)
            rest = [
                PreActivationBlock(c_out, c_out, 1, False, norm, conv, dropout)
                for _ in range(per_stage - 1)
            ]
            stages.append(Stage([first, *rest]))
        self.conv1 = _conv(conv, in_channels, widths[0], 3)
        self.stage1, self.stage2, self.stage3 = stages
        self.norm = norm(widths[-1], False)
        self.linear = linear(widths[-1], num_classes)

    def forward(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images [n, in_channels, H, W] in [0, 1] to logits [n, num_classes]."""
        h = run_layer(self.conv1, x, condition)
        for stage in (self.stage1, self.stage2, self.stage3):
            h = stage(h, condition)
        h = F.relu(self.norm(h, condition))
        return _classify(self.linear, h, condition)


class ResNet(nn.Module):
    """ResNet-18 or ResNet-34 with a 3x3 stem of 64 channels and no max pooling, for any input size.

    Args:
        blocks_per_stage: (2, 2, 2, 2) or (3, 4, 6, 3).
        num_classes: number of logits.
        in_channels: channels of the images.
        norm: makes the norm layers.
        conv: class of the convolutions.
        linear: makes the classification head.
        width: share of the channels of each layer.
    """

    conv_norm_pairs: ClassVar = (("conv1", "norm1"),)

    def __init__(
        self,
        blocks_per_stage: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        norm: NormFactory,
        conv: Conv = nn.Conv2d,
        linear: LinearFactory = nn.Linear,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [share(channels, width) for channels in (64, 64, 128, 256, 512)]
        stages = []
        for number, count in enumerate(blocks_per_stage):
            c_in, c_out = widths[number : number + 2]
            halves = number > 0
            first = PostActivationBlock(c_in, c_out, 1 + halves, halves, norm, conv)
            rest = [
                PostActivationBlock(c_out, c_out, 1, False, norm, conv) for _ in range(count - 1)
            ]
            stages.append(Stage([first, *rest]))
        self.conv1 = _conv(conv, in_channels, widths[0], 3)
        self.norm1 = norm(widths[0], True)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.linear = linear(widths[-1], num_classes)

    def forward(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images [n, in_channels, H, W] in [0, 1] to logits [n, num_classes]."""
        h = F.relu(self.norm1(run_layer(self.conv1, x, condition), condition))
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            h = stage(h, condition)
        return _classify(self.linear, h, condition)


def build_backbone(
    name: str,
    num_classes: int,
    in_channels: int,
    norm: NormFactory,
    dropout: float = 0.0,
    *,
    conv: Conv = nn.Conv2d,
    linear: LinearFactory = nn.Linear,
    width: float = 1.0,
) -> nn.Module:
    """Build the backbone called ``name`` (see `check_architecture`) with freshly drawn weights."""
    check_architecture(name)
    if name in ARCHITECTURES:
        build: Callable[..., nn.Module] = ARCHITECTURES[name]
        return build(num_classes, in_channels, norm, conv=conv, linear=linear, width=width)
    if name in RESNETS:
        if dropout:
            raise ValueError(f"{name} has no dropout; set dropout = 0")
        return ResNet(RESNETS[name], num_classes, in_channels, norm, conv, linear, width)
    _, depth, widen_factor = name.split("-")
    return WideResNet(
        int(depth),
        int(widen_factor),
        num_classes,
        in_channels,
        norm,
        dropout,
        conv,
        linear,
        width,
    )
