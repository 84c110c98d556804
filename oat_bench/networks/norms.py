"""Norm layers: dual batch norm, FiLM, and the plain ones that a fixed lambda leaves of them.

A norm layer is called as ``norm(h, condition)``, so that one network definition serves the
conditional network and the plain one; at a fixed lambda it is `Affine`, which takes no condition.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.card import FilmForm, NormForm
from oat_bench.networks.conditioning import Condition, Folded


class FiLM(nn.Module):
    """Channel-wise gamma and beta from lambda's code (OAT paper, section 3.1).

    Args:
        channels: C.
        dim: length of a code.
        form: ``identity-start``: two MLPs g1, g2 of two C-dimensional layers with a leaky ReLU
            between, gamma = 1 + g1, beta = g2, last layers zero, so that training starts from the
            plain network. ``published``: the authors' code, one MLP of 2C units, default
            initialisation, a leaky ReLU on gamma and beta too.
    """

    def __init__(self, channels: int, dim: int, form: FilmForm) -> None:
        super().__init__()
        self.form = form
        if form == "published":
            self.mlp = nn.Sequential(
                nn.Linear(dim, 2 * channels), nn.LeakyReLU(), nn.Linear(2 * channels, 2 * channels)
            )
            return
        self.gamma = film_mlp(dim, channels, form)
        self.beta = film_mlp(dim, channels, form)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Map codes [k, dim] to gamma and beta, [k, C] each."""
        if self.form == "published":
            gamma, beta = F.leaky_relu(self.mlp(codes)).chunk(2, dim=1)
            return gamma, beta
        return 1.0 + self.gamma(codes), self.beta(codes)


def film_mlp(dim: int, channels: int, form: FilmForm) -> nn.Sequential:
    """Make the MLP of gamma, or of beta: two C-dimensional layers with a leaky ReLU between."""
    first, last = nn.Linear(dim, channels), nn.Linear(channels, channels)
    if form == "published":
        return nn.Sequential(first, nn.LeakyReLU(), last)
    # a code has length one: with torch's default (variance 1 / 3 dim) its image would be near zero
    # and the layers after it would hardly learn to tell one lambda from another
    nn.init.normal_(first.weight)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.LeakyReLU(), last)


class BatchNorms(nn.Module):
    """The batch norms of one width: ``bn_c`` of the standard route (None if single), ``bn_a``."""

    def __init__(self, channels: int, form: NormForm) -> None:
        super().__init__()
        self.bn_c = nn.BatchNorm2d(channels) if form == "dual" else None
        self.bn_a = nn.BatchNorm2d(channels)


class ConditionalNorm(BatchNorms):
    """Batch norm by route, then FiLM (OAT paper, sections 3.1 and 3.2).

    With two batch norms lambda = 0 goes through ``bn_c``, every other lambda through ``bn_a``; with
    one, every lambda goes through ``bn_a``.

    Args:
        channels: C.
        form: ``dual`` or ``single`` batch norm.
        film: the FiLM layer that follows, or None.
    """

    site: int  # the layer's place in Folded.affines, set by the network that owns the layer

    def __init__(self, channels: int, form: NormForm, film: FiLM | None) -> None:
        super().__init__(channels, form)
        self.film = film

    def forward(self, h: Tensor, condition: Condition | Folded) -> Tensor:
        """Normalise h of shape [n, C, H, W]."""
        if isinstance(condition, Folded):
            return _apply_folded(h, condition, self.site)
        h = self._normalize(h, condition)
        if self.film is None:
            return h
        with torch.autocast(h.device.type, enabled=False):  # FiLM itself stays in float32
            gamma, beta = self.modulation(condition)
        # under autocast h is bfloat16, and so is then what multiplies it, as weights are
        gamma, beta = (condition.spread(part).to(h.dtype) for part in (gamma, beta))
        return torch.addcmul(beta, h, gamma)

    def batch_norms(self, width: float) -> tuple[nn.BatchNorm2d | None, nn.BatchNorm2d]:
        """Return the batch norms of a width: of the standard route, and of the other."""
        return self.bn_c, self.bn_a

    def modulation(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return FiLM's gamma and beta, [k, C] each."""
        assert self.film is not None
        gamma, beta = map(condition.interpolated, self.film(condition.codes))
        return gamma, beta

    def _normalize(self, h: Tensor, condition: Condition) -> Tensor:
        bn_c, bn_a = self.batch_norms(condition.width)
        n_standard = condition.n_standard
        if bn_c is None or n_standard == 0:
            return _batch_norm(bn_a, h)
        if n_standard == len(h):
            return _batch_norm(bn_c, h)
        return torch.cat([_batch_norm(bn_c, h[:n_standard]), _batch_norm(bn_a, h[n_standard:])])

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the scale and shift [k, C] that this layer is, in eval mode, at each lambda."""
        film = None if self.film is None else self.modulation(condition)
        return modulated(condition, self.routes(condition.width), film)

    def routes(self, width: float) -> list[tuple[Tensor, Tensor]]:
        """Return the scale and shift [C] that batch norm is in eval mode, by route.

        The standard route, where it has a batch norm of its own, comes first.
        """
        return [_batch_norm_affine(bn) for bn in self.batch_norms(width) if bn is not None]


def modulated(
    condition: Condition,
    routes: Sequence[tuple[Tensor, Tensor]],
    film: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return the scale and shift [k, C] of batch norm by route and FiLM at each lambda.

    Args:
        condition: of k lambda.
        routes: scale and shift [C] of each; of two, the first is that of lambda = 0.
        film: gamma and beta, a row for each of ``condition.lam``.
    """
    lam = condition.lam
    *standard, other = routes
    scale, shift = (part.expand(lam.shape[0], -1) for part in other)
    for parts in standard:
        is_standard = (lam == 0)[:, None]
        scale, shift = (
            torch.where(is_standard, own, rest)
            for own, rest in zip(parts, (scale, shift), strict=True)
        )
    if film is not None:
        gamma, beta = film
        scale, shift = gamma * scale, gamma * shift + beta
    return condition.bridged(scale), condition.bridged(shift)


def _apply_folded(h: Tensor, condition: Folded, site: int) -> Tensor:
    scale, shift = condition.affines[site]
    return torch.addcmul(shift.to(h.dtype), h, scale.to(h.dtype))


def _batch_norm(bn: nn.BatchNorm2d, h: Tensor) -> Tensor:
    """Normalise by the statistics of h, which must have a variance; else by the running ones."""
    if bn.training and h.numel() == h.shape[1]:  # one image, on a map of 1x1
        return F.batch_norm(h, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    return bn(h)  # type: ignore[no-any-return]


def _batch_norm_affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


class PlainNorm(nn.BatchNorm2d):
    """Batch norm of a network that has no condition."""

    def forward(self, h: Tensor, condition: None = None) -> Tensor:
        """Normalise h of shape [n, C, H, W]."""
        return super().forward(h)


class Affine(nn.Module):
    """A norm layer at a fixed lambda.

    Args:
        scale: shape [C]; kept as [C, 1, 1], as the shift is.
        shift: shape [C].
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.detach().clone()[:, None, None])
        self.shift = nn.Parameter(shift.detach().clone()[:, None, None])

    def forward(self, h: Tensor) -> Tensor:
        """Scale and shift h of shape [n, C, H, W]."""
        # under autocast h is bfloat16, and so is then what multiplies it, as weights are
        return torch.addcmul(self.shift.type_as(h), h, self.scale.type_as(h))


class FoldedNorm(nn.Module):
    """A norm layer of a network that only ever runs folded: it holds nothing.

    Args:
        channels: C.
    """

    site: int  # as in ConditionalNorm

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, h: Tensor, condition: Folded) -> Tensor:
        """Scale and shift h of shape [n, C, H, W]."""
        return _apply_folded(h, condition, self.site)


def number_norms(backbone: nn.Module) -> list[FoldedNorm]:
    """Return the norm layers of a backbone, after giving each its site, in the order of modules."""
    norms = [module for module in backbone.modules() if isinstance(module, FoldedNorm)]
    for site, norm in enumerate(norms):
        norm.site = site
    return norms
