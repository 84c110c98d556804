"""The backbones without a condition: what is left of them at one lambda and one width.

A forward calls layers and nothing else, so that tracing, scripting, torch.fx, export, compilation
and quantisation take these.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks import backbones


class PlainPreActivationBlock(backbones.PreActivationBlock):
    def forward(self, h: Tensor) -> Tensor:  # type: ignore[override]
        active = F.relu(self.norm1(h))
        out = F.relu(self.norm2(self.conv1(active)))
        shortcut = h if self.shortcut is None else self.shortcut(active)
        return shortcut + self.conv2(self.dropout(out))  # type: ignore[no-any-return]


class PlainPostActivationBlock(backbones.PostActivationBlock):
    def forward(self, h: Tensor) -> Tensor:  # type: ignore[override]
        out = F.relu(self.norm1(self.conv1(h)))
        out = self.norm2(self.conv2(out))
        if self.shortcut is not None and self.shortcut_norm is not None:
            h = self.shortcut_norm(self.shortcut(h))
        return F.relu(out + h)


class PlainStage(backbones.Stage):
    def forward(self, h: Tensor) -> Tensor:  # type: ignore[override]
        for block in self.blocks:
            h = block(h)
        return h


class PlainNetwork(backbones.Backbone):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.head(self.features(x))

    def head(self, h: Tensor) -> Tensor:
        return self.linear(h.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class PlainWideResNet(PlainNetwork, backbones.WideResNet):
    def features(self, x: Tensor) -> Tensor:  # type: ignore[override]
        h = self.stage3(self.stage2(self.stage1(self.pool(self.conv1(x)))))
        return F.relu(self.norm(h))


class PlainResNet(PlainNetwork, backbones.ResNet):
    def features(self, x: Tensor) -> Tensor:  # type: ignore[override]
        h = self.pool(F.relu(self.norm1(self.conv1(x))))
        return self.stage4(self.stage3(self.stage2(self.stage1(h))))  # type: ignore[no-any-return]


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    backbones.PreActivationBlock: PlainPreActivationBlock,
    backbones.PostActivationBlock: PlainPostActivationBlock,
    backbones.Stage: PlainStage,
    backbones.WideResNet: PlainWideResNet,
    backbones.ResNet: PlainResNet,
}


def make_plain(backbone: nn.Module) -> None:
    """Turn a backbone, none of whose layers takes a condition, into its plain form, in place."""
    for module in backbone.modules():
        # the same layers under the same names, with another forward
        module.__class__ = _PLAIN.get(type(module), type(module))
