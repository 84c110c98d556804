"""Norm layers, called as ``norm(h, condition)``: dual batch norm, FiLM; and at a fixed lambda."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.card import FilmForm, NormForm
from oat_bench.networks.conditioning import Condition, Folded
from oat_bench.networks.slimmable import share
from oat_bench.networks.synchronised import Synchronised


class FiLM(nn.Module):
    """Channel-wise gamma and beta from lambda's code (OAT paper, section 3.1).

    ``identity-start``: two MLPs g1, g2 of two C-dimensional layers (C ``channels`` of the full
    width) with a leaky ReLU between, gamma = 1 + g1, beta = g2, last layers zero, so that training
    starts from the plain network. ``published``: the authors' code, one MLP of 2C units, default
    initialisation, a leaky ReLU on gamma and beta too.

    Of a ``slimmable`` layer the leading block of both layers of an MLP each makes a narrow one's
    gamma and beta, ``published`` too: the one MLP, cut in two, would mix up gamma and beta.
    """

    def __init__(self, channels: int, dim: int, form: FilmForm, *, slimmable: bool = False) -> None:
        super().__init__()
        self.dim, self.form, self.slimmable = dim, form, slimmable
        if form == "published" and not slimmable:
            self.mlp = _mlp(dim, 2 * channels, form)
        else:
            self.gamma, self.beta = _mlp(dim, channels, form), _mlp(dim, channels, form)

    def forward(self, codes: Tensor, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Map codes [k, dim] to gamma and beta, [k, channels] each; all channels if None."""
        if self.form == "published" and not self.slimmable:
            gamma, beta = self.mlp(codes).chunk(2, dim=1)
        else:
            gamma, beta = (_leading(mlp, codes, channels) for mlp in (self.gamma, self.beta))
        if self.form == "published":
            return F.leaky_relu(gamma), F.leaky_relu(beta)
        return 1.0 + gamma, beta

    def at(self, condition: Condition, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Return gamma and beta, a row for each of ``condition.lam``."""
        gamma, beta = self(condition.codes, channels)
        between = condition.between
        return (gamma, beta) if between is None else (between(gamma), between(beta))


def _mlp(dim: int, channels: int, form: FilmForm) -> nn.Sequential:
    first, last = nn.Linear(dim, channels), nn.Linear(channels, channels)
    if form == "identity-start":
        # a code has length one: with torch's default (variance 1 / 3 dim) its image would be near
        # zero and the layers after it would hardly learn to tell one lambda from another
        nn.init.normal_(first.weight)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.LeakyReLU(), last)


def _leading(mlp: nn.Sequential, codes: Tensor, c: int | None) -> Tensor:
    first, activation, last = mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    if c in (None, last.out_features):
        return mlp(codes)  # type: ignore[no-any-return]
    hidden = activation(F.linear(codes, first.weight[:c], first.bias[:c]))
    return F.linear(hidden, last.weight[:c, :c], last.bias[:c])


class BatchNorms(nn.Module):
    """The batch norms of one width: ``bn_c`` of the standard route (None if single), ``bn_a``."""

    def __init__(self, channels: int, form: NormForm) -> None:
        super().__init__()
        self.bn_c = nn.BatchNorm2d(channels) if form == "dual" else None
        self.bn_a = nn.BatchNorm2d(channels)


class ConditionalNorm(BatchNorms):
    """Batch norm by route, then FiLM (OAT paper, sections 3.1 and 3.2).

    With two batch norms lambda = 0 goes through ``bn_c``, every other through ``bn_a``; with one,
    all do. Each width has its own (switchable batch norm: of three widths, six); FiLM is shared.
    ``channels`` are those of the full width, the first of ``widths``.
    """

    site: int  # the layer's place in Folded.affines, see `number_norms`

    def __init__(
        self, channels: int, form: NormForm, film: FiLM | None, widths: Sequence[float] = (1.0,)
    ) -> None:
        super().__init__(channels, form)
        self.film = film
        self.widths = tuple(widths)
        self.narrow = nn.ModuleList(
            BatchNorms(share(channels, width), form) for width in self.widths[1:]
        )

    def forward(self, h: Tensor, condition: Condition | Folded) -> Tensor:
        """Normalise h of shape [n, C, H, W]."""
        if isinstance(condition, Folded):
            return condition.apply(h, self.site)
        bn_c, bn_a = self.batch_norms(condition.width)
        n_standard = condition.n_standard
        if bn_c is None or n_standard == 0:
            h = _batch_norm(bn_a, h)
        elif n_standard == len(h):
            h = _batch_norm(bn_c, h)
        else:
            h = torch.cat([_batch_norm(bn_c, h[:n_standard]), _batch_norm(bn_a, h[n_standard:])])
        if self.film is None:
            return h
        with torch.autocast(h.device.type, enabled=False):  # FiLM itself stays in float32
            parts = self.film.at(condition, bn_a.num_features)
        # under autocast h is bfloat16, and so is then what multiplies it, as weights are
        gamma, beta = (condition.spread(part).to(h.dtype) for part in parts)
        return torch.addcmul(beta, h, gamma)

    def batch_norms(self, width: float) -> tuple[nn.BatchNorm2d | None, nn.BatchNorm2d]:
        """Return the batch norms of a width, ``bn_c`` and ``bn_a``."""
        place = self.widths.index(width)
        own = self.narrow[place - 1] if place else self
        assert isinstance(own, BatchNorms)
        return own.bn_c, own.bn_a

    def routes(self, width: float) -> list[tuple[Tensor, Tensor]]:
        """Return scale and shift [C] of batch norm in eval mode, of BN_c (if there), then BN_a."""
        return [scale_and_shift(bn) for bn in self.batch_norms(width) if bn is not None]

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the scale and shift [k, C] that this layer is, in eval mode, at each lambda."""
        return affine(condition, self.routes(condition.width), self.film)

    def plain(self, condition: Condition) -> "PlainBatchNorm":
        """Return a copy of the batch norm that one lambda goes through, FiLM in its weights."""
        bn_c, bn_a = self.batch_norms(condition.width)
        bn = bn_c if bn_c is not None and condition.n_standard else bn_a
        own = PlainBatchNorm(bn.num_features, eps=bn.eps).to(bn.weight.device)
        own.load_state_dict(bn.state_dict())
        own.site = self.site
        if self.film is not None:
            gamma, beta = (part[0] for part in self.film.at(condition, bn.num_features))
            own.weight.copy_(gamma * bn.weight)
            own.bias.copy_(gamma * bn.bias + beta)
        return own.eval().requires_grad_(False)


def scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and shift [C] that a batch norm is in eval mode."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


def affine(
    condition: Condition, routes: Sequence[tuple[Tensor, Tensor]], film: FiLM | None
) -> tuple[Tensor, Tensor]:
    """Return the scale and shift [k, C] of `ConditionalNorm.routes` and FiLM at each lambda."""
    *standard, other = routes
    scale, shift = (part.expand(condition.lam.shape[0], -1) for part in other)
    for at_zero in standard:
        is_standard = (condition.lam == 0)[:, None]
        scale = torch.where(is_standard, at_zero[0], scale)
        shift = torch.where(is_standard, at_zero[1], shift)
    if film is not None:
        gamma, beta = film.at(condition, scale.shape[1])
        scale, shift = gamma * scale, gamma * shift + beta
    return condition.bridged(scale), condition.bridged(shift)


def _batch_norm(bn: nn.BatchNorm2d, h: Tensor) -> Tensor:
    """Normalise by the statistics of h, which must have a variance; else by the running ones."""
    # one image, on a map of 1x1
    if bn.training and h.numel() == h.shape[1] and not Synchronised.entered:
        return F.batch_norm(h, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    return bn(h)  # type: ignore[no-any-return]


class Affine(nn.Module):
    """A norm layer at a fixed lambda: scale and shift [C], kept as [C, 1, 1]."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.detach().clone()[:, None, None])
        self.shift = nn.Parameter(shift.detach().clone()[:, None, None])

    def forward(self, h: Tensor) -> Tensor:
        """Scale and shift h of shape [n, C, H, W]."""
        # under autocast h is bfloat16, and so is then what multiplies it, as weights are
        return torch.addcmul(self.shift.type_as(h), h, self.scale.type_as(h))


class ForeignAffine(Affine):
    """The same in a backbone of another package, which hands every norm layer its condition."""

    def forward(self, h: Tensor, condition: None = None) -> Tensor:
        """Scale and shift h of shape [n, C, H, W]."""
        return super().forward(h)


class FoldedNorm(nn.Module):
    """A norm layer of a network that only ever runs folded: it holds nothing."""

    site: int  # as in ConditionalNorm

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, h: Tensor, condition: Folded) -> Tensor:
        """Scale and shift h of shape [n, C, H, W]."""
        return condition.apply(h, self.site)


class PlainBatchNorm(nn.BatchNorm2d):
    """Batch norm of a network at a fixed lambda; of any backbone, which may hand it None."""

    site: int  # as in ConditionalNorm

    def forward(self, h: Tensor, condition: None = None) -> Tensor:
        """Normalise h of shape [n, C, H, W]."""
        return super().forward(h)


def number_norms(backbone: nn.Module) -> list[ConditionalNorm | FoldedNorm]:
    """Return the norm layers of a backbone, after giving each its site, in the order of modules."""
    kinds = (ConditionalNorm, FoldedNorm)
    norms = [module for module in backbone.modules() if isinstance(module, kinds)]
    for site, norm in enumerate(norms):
        norm.site = site
    return norms
