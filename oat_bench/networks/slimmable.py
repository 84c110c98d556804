"""Slimmable layers: one set of weights, of which a narrower network owns the first share.

From slimmable networks (Yu et al., arXiv:1812.08928), as OATS takes them up (OAT paper, section
3.3). The width travels in the condition of a batch; the channels that come in are those of h.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.card import FilmForm, NormForm
from oat_bench.networks.conditioning import Condition, Folded
from oat_bench.networks.norms import BatchNorms, ConditionalNorm, FiLM, film_mlp


def share(channels: int, width: float) -> int:
    """Return how many of a layer's channels a width owns, counted from the first.

    The nearest whole number to ``width * channels``, a half upwards, and never less than one.
    """
    # rounded before, as .29 * 50 is a little under 14.5
    return max(1, math.floor(round(width * channels, 6) + 0.5))


class SlimmableConv2d(nn.Conv2d):
    """A convolution whose narrower self is the leading block of its weight.

    The arguments are those of `torch.nn.Conv2d`; ``groups`` stays 1. The channels that come in are
    not always a share: an image keeps all of its own.
    """

    def forward(self, h: Tensor, condition: Condition | Folded) -> Tensor:  # type: ignore[override]
        """Map h of shape [n, c_in, H, W] to the condition's share of the channels."""
        c_out = share(self.out_channels, condition.width)
        bias = None if self.bias is None else self.bias[:c_out]
        weight = self.weight[:c_out, : h.shape[1]]
        return F.conv2d(h, weight, bias, self.stride, self.padding)


class SlimmableLinear(nn.Linear):
    """The classification head of all widths: every class, from the features that a width has."""

    def forward(self, h: Tensor, condition: Condition | Folded) -> Tensor:  # type: ignore[override]
        """Map features [n, c_in] to logits [n, out_features]."""
        return F.linear(h, self.weight[:, : h.shape[1]], self.bias)


class SwitchableLinear(nn.Linear):
    """One classification head for each width (SOLAR's variant of OATS).

    Args:
        in_features: of the full width, whose head this layer itself is.
        out_features: number of classes.
        widths: widest first.
    """

    def __init__(self, in_features: int, out_features: int, widths: Sequence[float]) -> None:
        super().__init__(in_features, out_features)
        self.widths = tuple(widths)
        self.narrow = nn.ModuleList(
            nn.Linear(share(in_features, width), out_features) for width in self.widths[1:]
        )

    def head(self, width: float) -> nn.Linear:
        """Return the head of a width."""
        place = self.widths.index(width)
        head = self.narrow[place - 1] if place else self
        assert isinstance(head, nn.Linear)
        return head

    def forward(self, h: Tensor, condition: Condition | Folded) -> Tensor:  # type: ignore[override]
        """Map features [n, c_in] to logits [n, out_features]."""
        head = self.head(condition.width)
        return F.linear(h, head.weight, head.bias)


class SlimmableFiLM(FiLM):
    """FiLM for a share of the channels: gamma and beta of a narrow layer are the full one's first.

    Both layers of both MLPs are sliced. In the ``published`` form, too, gamma and beta have an MLP
    each here: with the one of `FiLM`, cut in two by channels, a narrow network's beta would be
    made by rows that are the full network's gamma.
    """

    def __init__(self, channels: int, dim: int, form: FilmForm) -> None:
        nn.Module.__init__(self)
        self.form = form
        self.gamma = film_mlp(dim, channels, form)
        self.beta = film_mlp(dim, channels, form)

    def forward(self, codes: Tensor, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Map codes [k, dim] to gamma and beta, [k, channels] each; all channels if None."""
        gamma, beta = (_leading(mlp, codes, channels) for mlp in (self.gamma, self.beta))
        if self.form == "published":
            return F.leaky_relu(gamma), F.leaky_relu(beta)
        return 1.0 + gamma, beta


def _leading(mlp: nn.Sequential, codes: Tensor, c: int | None) -> Tensor:
    first, activation, last = mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = activation(F.linear(codes, first.weight[:c], first.bias[:c]))
    return F.linear(hidden, last.weight[:c, :c], last.bias[:c])


class SwitchableNorm(ConditionalNorm):
    """Switchable batch norm: each width has batch norms of its own, by route; FiLM is shared.

    With dual batch norm and three widths these are six (OAT paper, section 3.3). Those of the full
    width are ``bn_c`` and ``bn_a``, as in `ConditionalNorm`.

    Args:
        channels: C of the full width.
        form: ``dual`` or ``single`` batch norm.
        film: the FiLM layer that follows, or None.
        widths: widest first.
    """

    def __init__(
        self, channels: int, form: NormForm, film: SlimmableFiLM | None, widths: Sequence[float]
    ) -> None:
        super().__init__(channels, form, film)
        self.widths = tuple(widths)
        self.narrow = nn.ModuleList(
            BatchNorms(share(channels, width), form) for width in self.widths[1:]
        )

    def batch_norms(self, width: float) -> tuple[nn.BatchNorm2d | None, nn.BatchNorm2d]:
        """Return the batch norms of a width: of the standard route, and of the other."""
        place = self.widths.index(width)
        if place == 0:
            return super().batch_norms(width)
        own = self.narrow[place - 1]
        assert isinstance(own, BatchNorms)
        return own.bn_c, own.bn_a

    def modulation(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return gamma and beta of the width's channels, [k, C] each."""
        assert isinstance(self.film, SlimmableFiLM)
        channels = share(self.bn_a.num_features, condition.width)
        gamma, beta = map(condition.interpolated, self.film(condition.codes, channels))
        return gamma, beta


SLIMMABLE = (SlimmableConv2d, SlimmableLinear, SwitchableLinear)


def run_layer(layer: nn.Module, h: Tensor, condition: Condition | Folded | None) -> Tensor:
    """Apply a convolution or a head: a slimmable one is told the condition, a plain one is not."""
    if isinstance(layer, SLIMMABLE):
        return layer(h, condition)  # type: ignore[no-any-return]
    return layer(h)  # type: ignore[no-any-return]
