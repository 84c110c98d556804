"""The network f(x, lambda)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from oat_bench.networks.backbones import build_backbone
from oat_bench.networks.conditioning import (
    Condition,
    Encoding,
    Folded,
    Interpolation,
    LambdaEncoding,
    validate_lambda,
)
from oat_bench.networks.norms import ConditionalNorm, FiLM, FilmForm, NormForm


class ConditionalNetwork(nn.Module):
    """A classifier conditioned on lambda: ``network(x, lam)`` (OAT paper, section 3).

    Images are sorted by lambda at the entrance, standard route first, and put back at the exit;
    inside, a norm layer splits the batch at one index, and FiLM runs once for each distinct lambda.

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
        interpolation: the rule for a lambda between trained ones, see `LambdaEncoding`.
        seed: of the weights and of the random encoding.
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
        interpolation: Interpolation = "linear-codes",
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoding = LambdaEncoding(
                trained_lambdas, encoding, encoding_dim, seed, interpolation
            )
            dim = self.encoding.dim

            def make_norm(channels: int, has_film: bool) -> ConditionalNorm:
                has_film = has_film and film != "none"
                return ConditionalNorm(
                    channels, norm, FiLM(channels, dim, film) if has_film else None
                )

            self.backbone = build_backbone(
                architecture, num_classes, in_channels, make_norm, dropout
            )
        self._norms = [m for m in self.backbone.modules() if isinstance(m, ConditionalNorm)]
        for site, module in enumerate(self._norms):
            module.site = site

    def forward(self, x: Tensor, lam: float | Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: images of shape [n, C, H, W] in [0, 1].
            lam: one float for all images, or one per image (shape [n]) in any order.

        Returns:
            Logits of shape [n, num_classes].

        Raises:
            ValueError: if a lambda is not a number in [0, 1], or its shape does not fit.
        """
        if not self.training:
            return self.conditioned(lam, len(x), x.device)(x)
        order, condition = self.condition(lam, len(x), x.device)
        return self._in_order(x, order, condition)

    def conditioned(
        self, lam: float | Tensor, n_images: int, device: torch.device | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Fix lambda: a function from images to logits, batch norm in eval mode.

        Every norm layer is brought down to one affine per channel and distinct lambda, once; what
        an attack then repeats, step by step, is the plain backbone.

        Args:
            lam: as in `forward`.
            n_images: how many images each call will bring.
            device: where they are; the network's own if None.
        """
        device = device or self.encoding.codes.device
        order, condition = self.condition(lam, n_images, device)
        folded = self.fold(condition)
        return lambda x: self._in_order(x, order, folded)

    def fold(self, condition: Condition) -> Folded:
        """Bring every norm layer down to one affine per channel, in eval mode."""
        affines = (norm.affine(condition) for norm in self._norms)
        return Folded(
            tuple((condition.spread(scale), condition.spread(shift)) for scale, shift in affines)
        )

    def condition(
        self, lam: float | Tensor, n_images: int, device: torch.device
    ) -> tuple[Tensor | None, Condition]:
        """Return the order that sorts a batch by lambda (None: it is sorted) and its condition."""
        values = validate_lambda(lam, n_images, device)
        if values.ndim == 0:
            distinct = values[None]
            n_standard = n_images if values.item() == 0 else 0
            return None, self.condition_of(distinct, None, n_standard)
        distinct, index = torch.unique(values, return_inverse=True)
        index, order = torch.sort(index, stable=True)
        n_standard = int((values == 0).sum())
        return order, self.condition_of(distinct, index, n_standard)

    def condition_of(self, lam: Tensor, index: Tensor | None, n_standard: int) -> Condition:
        """Return the condition of a batch that is sorted already; see `Condition`."""
        codes, between = self.encoding.encode(lam)
        return Condition(lam, codes, index, n_standard, between)

    def _in_order(self, x: Tensor, order: Tensor | None, condition: Condition | Folded) -> Tensor:
        if order is None:
            return self.backbone(x, condition)  # type: ignore[no-any-return]
        if len(x) != len(order):
            raise ValueError(f"{len(x)} images; lam has one value for each of {len(order)}")
        logits = self.backbone(x[order], condition)
        return torch.empty_like(logits).index_copy(0, order, logits)
