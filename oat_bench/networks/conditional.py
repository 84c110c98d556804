"""The network f(x, lambda), at one width or at several."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from oat_bench.networks.backbones import build_backbone
from oat_bench.networks.card import Encoding, FilmForm, Heads, Interpolation, NormForm, check_widths
from oat_bench.networks.conditioning import (
    Condition,
    Folded,
    LambdaEncoding,
    bridged_below,
    check_within,
    validate_lambda,
)
from oat_bench.networks.norms import ConditionalNorm, FiLM, FoldedNorm, number_norms
from oat_bench.networks.slimmable import (
    SlimmableConv2d,
    SlimmableFiLM,
    SlimmableLinear,
    SwitchableLinear,
    SwitchableNorm,
)


class ConditionalNetwork(nn.Module):
    """A classifier conditioned on lambda: ``network(x, lam)`` (OAT paper, section 3).

    Images are sorted by lambda at the entrance, standard route first, and put back at the exit;
    inside, a norm layer splits the batch at one index, and FiLM runs once for each distinct lambda.

    With several widths the network is slimmable (section 3.3): ``network(x, lam, width)`` runs the
    first share of each layer's channels. With one width it is plain, and has no more channels than
    that width.

    Args:
        architecture: name of the backbone, such as ``wrn-16-8`` or ``resnet-34``.
        num_classes: number of logits.
        in_channels: channels of the images.
        trained_lambdas: what training samples lambda from.
        encoding: how lambda becomes a vector, see `LambdaEncoding`.
        encoding_dim: length of that vector.
        norm: ``dual`` or ``single`` batch norm.
        film: form of the FiLM layers, see `FiLM`; ``none`` leaves them out.
        dropout: probability, in wide residual networks.
        widths: shares of the channels; several need the full one, 1, among them.
        heads: one classification head for all widths, or one ``per-width`` (SOLAR).
        interpolation: the rule for a lambda between trained ones, see `LambdaEncoding`.
        lambda_sampling: see `train_on`.
        seed: of the weights and of the random encoding.

    Attributes:
        widths: widest first.
    """

    def __init__(
        self,
        architecture: str,
        *,
        num_classes: int,
        in_channels: int,
        trained_lambdas: list[float],
        encoding: Encoding = "orthogonal",
        encoding_dim: int = 128,
        norm: NormForm = "dual",
        film: FilmForm = "identity-start",
        dropout: float = 0.0,
        widths: Sequence[float] = (1.0,),
        heads: Heads = "shared",
        interpolation: Interpolation = "linear-codes",
        lambda_sampling: Literal["list", "uniform"] = "list",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.widths = check_widths(widths)
        self._build = partial(build_backbone, architecture, num_classes, in_channels)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoding = LambdaEncoding(
                trained_lambdas, encoding, encoding_dim, seed, interpolation
            )
            dim, with_film = self.encoding.dim, film != "none"
            if len(self.widths) == 1:
                self.backbone = self._build(
                    lambda channels, has_film: ConditionalNorm(
                        channels,
                        norm,
                        FiLM(channels, dim, film) if has_film and with_film else None,
                    ),
                    dropout,
                    width=self.widths[0],
                )
            else:
                self.backbone = self._build(
                    lambda channels, has_film: SwitchableNorm(
                        channels,
                        norm,
                        SlimmableFiLM(channels, dim, film) if has_film and with_film else None,
                        self.widths,
                    ),
                    dropout,
                    conv=SlimmableConv2d,
                    linear=(
                        partial(SwitchableLinear, widths=self.widths)
                        if heads == "per-width"
                        else SlimmableLinear
                    ),
                )
        self._norms = [m for m in self.backbone.modules() if isinstance(m, ConditionalNorm)]
        for site, module in enumerate(self._norms):
            module.site = site
        self._norm_form = norm
        self.train_on(lambda_sampling)

    def train_on(self, lambda_sampling: Literal["list", "uniform"]) -> None:
        """Note how training samples lambda: it decides what must be bridged, see `LambdaEncoding`.

        Args:
            lambda_sampling: from the ``list`` of trained lambda, or ``uniform`` on (0, 1] too.
        """
        trained = self.encoding.trained.tolist()
        below = bridged_below(trained, self._norm_form, lambda_sampling)
        self.encoding.bridge = below is not None

    def forward(self, x: Tensor, lam: float | Tensor, width: float | None = None) -> Tensor:
        """Compute logits.

        Args:
            x: images of shape [n, C, H, W] in [0, 1].
            lam: one float for all images, or one per image (shape [n]) in any order.
            width: one of the network's widths, for all images; the widest if None.

        Returns:
            Logits of shape [n, num_classes].

        Raises:
            ValueError: if a lambda is not a number in [0, 1], in eval mode outside of the trained
                range, its shape does not fit, or the network does not have the width.
        """
        if not self.training:
            return self.conditioned(lam, len(x), x.device, width)(x)
        order, condition = self.condition(lam, len(x), x.device, width)
        return self._in_order(x, order, condition)

    def conditioned(
        self,
        lam: float | Tensor,
        n_images: int,
        device: torch.device | None = None,
        width: float | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Fix lambda: a function from images to logits, batch norm in eval mode.

        Every norm layer is brought down to one affine per channel and distinct lambda, once; what
        an attack then repeats, step by step, is the plain backbone.

        Args:
            lam: as in `forward`.
            n_images: how many images each call will bring.
            device: where they are; the network's own if None.
            width: as in `forward`.
        """
        device = device or self.encoding.codes.device
        order, folded = self.folded(lam, n_images, device, width)
        return lambda x: self._in_order(x, order, folded)

    def folded(
        self,
        lam: float | Tensor,
        n_images: int,
        device: torch.device,
        width: float | None = None,
    ) -> tuple[Tensor | None, Folded]:
        """Return the order that sorts a batch (None: it is sorted), and its norm layers folded.

        Raises:
            ValueError: as in `forward`.
        """
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
        affines = (norm.affine(condition) for norm in self._norms)
        return Folded(
            tuple((condition.spread(scale), condition.spread(shift)) for scale, shift in affines),
            condition.width,
        )

    def subnetwork(self, width: float) -> nn.Module:
        """Return the plain backbone of a width, to be run with a `Folded` condition.

        Its convolutions and its head are plain layers; their parameters need no gradient and are
        views of this network's. Of one width it is the backbone itself.

        Raises:
            ValueError: if the network does not have the width.
        """
        width = self.check_width(width)
        if len(self.widths) == 1:
            return self.backbone
        with torch.device("meta"):
            narrow = self._build(lambda channels, _: FoldedNorm(channels), width=width)
        number_norms(narrow)
        for name, module in list(narrow.named_modules()):
            own = self.backbone.get_submodule(name)
            if isinstance(own, SwitchableLinear):
                own = own.head(width)
            for key, small in list(module.named_parameters(recurse=False)):
                block = tuple(slice(0, size) for size in small.shape)
                view = own.get_parameter(key).detach()[block]
                setattr(module, key, nn.Parameter(view, requires_grad=False))
        return narrow

    def check_width(self, width: float | None) -> float:
        """Return a width of the network, the widest if None.

        Raises:
            ValueError: if it has no such width.
        """
        if width is None:
            return self.widths[0]
        if width not in self.widths:
            have = ", ".join(f"{known:g}" for known in self.widths)
            only = "only width" if len(self.widths) == 1 else "widths"
            raise ValueError(f"width is {width:g}; the network has {only} {have}")
        return float(width)

    def condition(
        self,
        lam: float | Tensor,
        n_images: int,
        device: torch.device,
        width: float | None = None,
    ) -> tuple[Tensor | None, Condition]:
        """Return the order that sorts a batch by lambda (None: it is sorted) and its condition."""
        width = self.check_width(width)
        values = validate_lambda(lam, n_images, device)
        if values.ndim == 0:
            distinct = values[None]
            n_standard = n_images if values.item() == 0 else 0
            return None, self.condition_of(distinct, None, n_standard, width)
        distinct, index = torch.unique(values, return_inverse=True)
        index, order = torch.sort(index, stable=True)
        n_standard = int((values == 0).sum())
        return order, self.condition_of(distinct, index, n_standard, width)

    def condition_of(
        self, lam: Tensor, index: Tensor | None, n_standard: int, width: float | None = None
    ) -> Condition:
        """Return the condition of a batch that is sorted already; see `Condition`."""
        codes, between = self.encoding.encode(lam)
        return Condition(lam, codes, index, n_standard, between, self.check_width(width))

    def _in_order(self, x: Tensor, order: Tensor | None, condition: Condition | Folded) -> Tensor:
        if order is None:
            return self.backbone(x, condition)  # type: ignore[no-any-return]
        if len(x) != len(order):
            raise ValueError(f"{len(x)} images; lam has one value for each of {len(order)}")
        logits = self.backbone(x[order], condition)
        return torch.empty_like(logits).index_copy(0, order, logits)
