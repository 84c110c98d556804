"""Slimmable layers: one set of weights, of which a narrower network owns the first share.

From Yu et al., arXiv:1812.08928, as in OATS (OAT paper, section 3.3). The condition has the width.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.conditioning import AnyCondition


def share(channels: int, width: float) -> int:
    """Return how many of a layer's channels a width owns: the nearest number, a half upwards."""
    # rounded before, as .29 * 50 is a little under 14.5
    return max(1, math.floor(round(width * channels, 6) + 0.5))


class SlimmableConv2d(nn.Conv2d):
    """A convolution, ``groups`` 1, whose narrower self is the leading block of its weight."""

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:  # type: ignore[override]
        """Map h of shape [n, c_in, H, W] to the condition's share of the channels."""
        assert condition is not None
        c_out = share(self.out_channels, condition.width)
        bias = None if self.bias is None else self.bias[:c_out]
        # the channels that come in are not always a share: an image keeps all of its own
        weight = self.weight[:c_out, : h.shape[1]]
        return F.conv2d(h, weight, bias, self.stride, self.padding)


class SlimmableLinear(nn.Linear):
    """The classification head: every class, from the features that a width has.

    With ``widths`` each has its own (SOLAR's variant of OATS), the first one's is this layer; if
    there are none, it serves all.
    """

    def __init__(self, in_features: int, out_features: int, widths: Sequence[float] = ()) -> None:
        super().__init__(in_features, out_features)
        self.widths = tuple(widths)
        self.narrow = nn.ModuleList(
            nn.Linear(share(in_features, width), out_features) for width in self.widths[1:]
        )

    def head(self, width: float) -> nn.Linear:
        """Return the head of a width."""
        place = self.widths.index(width) if self.widths else 0
        head = self.narrow[place - 1] if place else self
        assert isinstance(head, nn.Linear)
        return head

    def forward(self, h: Tensor, condition: AnyCondition) -> Tensor:  # type: ignore[override]
        """Map features [n, c_in] to logits [n, out_features]."""
        assert condition is not None
        head = self.head(condition.width)
        return F.linear(h, head.weight[:, : h.shape[1]], head.bias)


def take_weights(narrow: nn.Module, wide: nn.Module, width: float, *, copy: bool) -> None:
    """Give plain layers the leading block of each wider weight: copies or views, no gradient."""
    for name, module in list(narrow.named_modules()):
        own = wide.get_submodule(name)
        if isinstance(own, SlimmableLinear):
            own = own.head(width)
        for key, small in list(module.named_parameters(recurse=False)):
            view = own.get_parameter(key).detach()[tuple(slice(0, size) for size in small.shape)]
            setattr(module, key, nn.Parameter(view.clone() if copy else view, requires_grad=False))


def run_layer(layer: nn.Module, h: Tensor, condition: AnyCondition) -> Tensor:
    """Apply a convolution or a head: a slimmable one is told the condition, a plain one is not."""
    if isinstance(layer, (SlimmableConv2d, SlimmableLinear)):
        return layer(h, condition)  # type: ignore[no-any-return]
    return layer(h)  # type: ignore[no-any-return]
