"""The backbones: wide residual networks and residual networks with a 3x3 stem.

Each takes its norm layers from a factory ``norm(channels, film)``, where ``film`` says whether the
published networks have a FiLM layer there: not after a shortcut's batch norm, nor after the last
batch norm of a wide residual network.
"""

import re
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.conditioning import Condition, Folded

NormFactory = Callable[[int, bool], nn.Module]
AnyCondition = Condition | Folded | None


def _conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _classify(linear: nn.Linear, h: Tensor) -> Tensor:
    """Pool and classify in float32: rounded logits tie, and losses are made of differences."""
    with torch.autocast(h.device.type, enabled=False):
        logits: Tensor = linear(h.mean(dim=(2, 3), dtype=linear.weight.dtype))
    return logits


class PreActivationBlock(nn.Module):
    """Basic block of a wide residual network: norm, ReLU, conv, twice (arXiv:1605.07146)."""

    #: convolutions whose output goes to one norm layer and nowhere else
    conv_norm_pairs: ClassVar = (("conv1", "norm2"),)

    def __init__(self, c_in: int, c_out: int, stride: int, norm: NormFactory, drop: float) -> None:
        super().__init__()
        self.norm1 = norm(c_in, True)
        self.conv1 = _conv(c_in, c_out, 3, stride)
        self.norm2 = norm(c_out, True)
        self.dropout = nn.Dropout(drop)
        self.conv2 = _conv(c_out, c_out, 3)
        self.shortcut = _conv(c_in, c_out, 1, stride) if c_in != c_out or stride != 1 else None

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:
        """Map [n, c_in, H, W] to [n, c_out, H / stride, W / stride]."""
        active = F.relu(self.norm1(h, condition))
        out = F.relu(self.norm2(self.conv1(active), condition))
        shortcut = h if self.shortcut is None else self.shortcut(active)
        return shortcut + self.conv2(self.dropout(out))  # type: ignore[no-any-return]


class PostActivationBlock(nn.Module):
    """Basic block of a residual network: conv, norm, ReLU (arXiv:1512.03385)."""

    conv_norm_pairs: ClassVar = (
        ("conv1", "norm1"),
        ("conv2", "norm2"),
        ("shortcut", "shortcut_norm"),
    )

    def __init__(self, c_in: int, c_out: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, c_out, 3, stride)
        self.norm1 = norm(c_out, True)
        self.conv2 = _conv(c_out, c_out, 3)
        self.norm2 = norm(c_out, True)
        project = c_in != c_out or stride != 1
        self.shortcut = _conv(c_in, c_out, 1, stride) if project else None
        self.shortcut_norm = norm(c_out, False) if project else None

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:
        """Map [n, c_in, H, W] to [n, c_out, H / stride, W / stride]."""
        out = F.relu(self.norm1(self.conv1(h), condition))
        out = self.norm2(self.conv2(out), condition)
        if self.shortcut is not None and self.shortcut_norm is not None:
            h = self.shortcut_norm(self.shortcut(h), condition)
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
    ) -> None:
        super().__init__()
        per_stage = (depth - 4) // 6
        widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        stages = []
        for c_in, c_out, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
            first = PreActivationBlock(c_in, c_out, stride, norm, dropout)
            rest = [
                PreActivationBlock(c_out, c_out, 1, norm, dropout) for _ in range(per_stage - 1)
            ]
            stages.append(Stage([first, *rest]))
        self.conv1 = _conv(in_channels, widths[0], 3)
        self.stage1, self.stage2, self.stage3 = stages
        self.norm = norm(widths[-1], False)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images [n, in_channels, H, W] in [0, 1] to logits [n, num_classes]."""
        h = self.conv1(x)
        for stage in (self.stage1, self.stage2, self.stage3):
            h = stage(h, condition)
        h = F.relu(self.norm(h, condition))
        return _classify(self.linear, h)


class ResNet(nn.Module):
    """ResNet-18 or ResNet-34 with a 3x3 stem of 64 channels and no max pooling, for any input size.

    Args:
        blocks_per_stage: (2, 2, 2, 2) or (3, 4, 6, 3).
        num_classes: number of logits.
        in_channels: channels of the images.
        norm: makes the norm layers.
    """

    conv_norm_pairs: ClassVar = (("conv1", "norm1"),)

    def __init__(
        self,
        blocks_per_stage: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        norm: NormFactory,
    ) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        stages = []
        for c_in, c_out, count in zip(widths, widths[1:], blocks_per_stage, strict=False):
            first = PostActivationBlock(c_in, c_out, 1 if c_in == c_out else 2, norm)
            rest = [PostActivationBlock(c_out, c_out, 1, norm) for _ in range(count - 1)]
            stages.append(Stage([first, *rest]))
        self.conv1 = _conv(in_channels, widths[0], 3)
        self.norm1 = norm(widths[0], True)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """Map images [n, in_channels, H, W] in [0, 1] to logits [n, num_classes]."""
        h = F.relu(self.norm1(self.conv1(x), condition))
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            h = stage(h, condition)
        return _classify(self.linear, h)


RESNETS = {"resnet-18": (2, 2, 2, 2), "resnet-34": (3, 4, 6, 3)}
_WRN = re.compile(r"wrn-(\d{1,3})-(\d{1,2})")


def check_architecture(name: str) -> str:
    """Return ``name`` if it names a backbone.

    Raises:
        ValueError: if it does not; the message says which names exist.
    """
    match = _WRN.fullmatch(name)
    depth, widen = (int(group) for group in match.groups()) if match else (0, 0)
    if name not in RESNETS and not (depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1):
        raise ValueError(
            f"unknown architecture {name!r}; expected resnet-18, resnet-34 or wrn-DEPTH-WIDEN with "
            "depth 10, 16, 22, 28, ... (6n + 4), such as wrn-16-8"
        )
    return name


def build_backbone(
    name: str, num_classes: int, in_channels: int, norm: NormFactory, dropout: float = 0.0
) -> WideResNet | ResNet:
    """Build the backbone called ``name`` (see `check_architecture`) with freshly drawn weights."""
    check_architecture(name)
    if name in RESNETS:
        if dropout:
            raise ValueError(f"{name} has no dropout; set dropout = 0")
        return ResNet(RESNETS[name], num_classes, in_channels, norm)
    _, depth, widen_factor = name.split("-")
    return WideResNet(int(depth), int(widen_factor), num_classes, in_channels, norm, dropout)
