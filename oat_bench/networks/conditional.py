"""The network f(x, lambda), at one width or at several."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from oat_bench.networks.backbones import Layers, build_backbone
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditioning import (
    Condition,
    Folded,
    LambdaEncoding,
    bridged_below,
    check_within,
    validate_lambda,
)
from oat_bench.networks.norms import ConditionalNorm, FiLM, FoldedNorm, number_norms
from oat_bench.networks.slimmable import SlimmableConv2d, SlimmableLinear, take_weights


class ConditionalNetwork(nn.Module):
    """A classifier conditioned on lambda: ``network(x, lam)`` (OAT paper, section 3).

    Images are sorted by lambda at the entrance, standard route first, and put back at the exit;
    inside, a norm layer splits the batch at one index, and FiLM runs once for each distinct lambda.

    With several widths the network is slimmable (section 3.3): ``network(x, lam, width)`` runs the
    first share of each layer's channels. With one it has no more channels than that.

    Training samples ``trained_lambdas`` by ``lambda_sampling``, see `bridged_below`. ``seed`` is
    that of the weights and of the random encoding.
    """

    def __init__(
        self,
        card: NetworkCard,
        num_classes: int,
        in_channels: int,
        trained_lambdas: list[float],
        lambda_sampling: Literal["list", "uniform"] = "list",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.card, self.widths = card, card.widths
        self._build = partial(build_backbone, card.architecture, num_classes, in_channels)
        slimmable = len(self.widths) > 1

        def make_norm(channels: int, has_film: bool) -> ConditionalNorm:
            layer = None
            if has_film and card.film != "none":
                layer = FiLM(channels, self.encoding.dim, card.film, slimmable=slimmable)
            return ConditionalNorm(channels, card.norm, layer, self.widths)

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoding = LambdaEncoding(
                trained_lambdas, card.encoding, card.encoding_dim, seed, card.interpolation
            )
            layers = Layers(make_norm, dropout=card.dropout)
            if slimmable:
                own = self.widths if card.heads == "per-width" else ()
                head = partial(SlimmableLinear, widths=own)
                layers = replace(layers, conv=SlimmableConv2d, linear=head)
            self.backbone = self._build(layers, self.widths[0])
        number_norms(self.backbone)
        self.train_on(lambda_sampling)

    @property
    def norms(self) -> list[ConditionalNorm]:
        """The norm layers, by site."""
        return [m for m in self.backbone.modules() if isinstance(m, ConditionalNorm)]

    def train_on(self, lambda_sampling: Literal["list", "uniform"]) -> None:
        """Note how training samples lambda, which decides what `LambdaEncoding` must bridge."""
        below = bridged_below(self.encoding.trained.tolist(), self.card.norm, lambda_sampling)
        self.encoding.bridge = below is not None

    def forward(self, x: Tensor, lam: float | Tensor, width: float | None = None) -> Tensor:
        """Compute logits [n, num_classes] of images [n, C, H, W] in [0, 1].

        ``lam`` is one for all images or one for each, shape [n], in any order; in eval mode it is
        in the trained range. One width holds for all images, the widest if None. Else ValueError.
        """
        if not self.training:
            return self._in_order(x, *self.folded(lam, len(x), x.device, width))
        return self._in_order(x, *self.condition(lam, len(x), x.device, width))

    def conditioned(
        self, lam: float | Tensor, n_images: int, *, width: float | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Fix lambda, norm layers folded once: a function from ``n_images`` to logits."""
        order, folded = self.folded(lam, n_images, self.encoding.codes.device, width)
        return lambda x: self._in_order(x, order, folded)

    def folded(
        self, lam: float | Tensor, n_images: int, device: torch.device, width: float | None = None
    ) -> tuple[Tensor | None, Folded]:
        """Return the order that sorts a batch (None: it is sorted), and its norm layers folded."""
        order, condition = self.condition(lam, n_images, device, width)
        for end in condition.lam[[0, -1]].tolist() if len(condition.lam) else ():
            check_within(end, self.encoding.trained.tolist())
        ends, share = self.encoding.ends(condition.lam)
        if share is not None and bool((share < 1).any()):
            codes, between = self.encoding.encode(ends)
            condition = replace(condition, lam=ends, codes=codes, between=between, share=share)
        return order, self.fold(condition)

    def fold(self, condition: Condition) -> Folded:
        """Bring every norm layer down to one affine per channel, in eval mode."""
        spread = condition.spread
        affines = (norm.affine(condition) for norm in self.norms)
        return Folded(tuple((spread(a), spread(b)) for a, b in affines), condition.width)

    def subnetwork(self, width: float, *, copy: bool = False) -> nn.Module:
        """Return a width's backbone to run `Folded`; its weights, without gradient, are views."""
        width = self.check_width(width)
        with torch.device("meta"):
            layers = Layers(lambda channels, _: FoldedNorm(channels), dropout=self.card.dropout)
            narrow = self._build(layers, width)
        number_norms(narrow)
        take_weights(narrow, self.backbone, width, copy=copy)
        return narrow.eval()

    def check_width(self, width: float | None) -> float:
        """Return a width of the network, the widest if None; ValueError if it has no such."""
        if width is None:
            return self.widths[0]
        if width not in self.widths:
            have = ", ".join(f"{known:g}" for known in self.widths)
            only = "only width" if len(self.widths) == 1 else "widths"
            raise ValueError(f"width is {width:g}; the network has {only} {have}")
        return float(width)

    def condition(
        self, lam: float | Tensor, n_images: int, device: torch.device, width: float | None = None
    ) -> tuple[Tensor | None, Condition]:
        """Return the order that sorts a batch by lambda (None: it is sorted) and its condition."""
        width = self.check_width(width)
        values = validate_lambda(lam, n_images, device)
        if values.ndim == 0:
            n_standard = n_images if values.item() == 0 else 0
            return None, self.condition_of(values[None], None, n_standard, width)
        distinct, index = torch.unique(values, return_inverse=True)
        index, order = torch.sort(index, stable=True)
        return order, self.condition_of(distinct, index, int((values == 0).sum()), width)

    def condition_of(
        self, lam: Tensor, index: Tensor | None, n_standard: int, width: float | None = None
    ) -> Condition:
        """Return the condition of a sorted batch, see `Condition`."""
        codes, between = self.encoding.encode(lam)
        return Condition(lam, codes, index, n_standard, between, self.check_width(width))

    def _in_order(self, x: Tensor, order: Tensor | None, condition: Condition | Folded) -> Tensor:
        if order is None:
            return self.backbone(x, condition)  # type: ignore[no-any-return]
        if len(x) != len(order):
            raise ValueError(f"{len(x)} images; lam has one value for each of {len(order)}")
        logits = self.backbone(x[order], condition)
        return torch.empty_like(logits).index_copy(0, order, logits)
