"""From f(x, lambda) to the plain network that it is at one lambda and one width."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oat_bench.errors import UserError
from oat_bench.networks.backbones import Layers, ResNet, WideResNet, build_backbone
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.norms import (
    Affine,
    FoldedNorm,
    ForeignAffine,
    PlainBatchNorm,
    number_norms,
    scale_and_shift,
)
from oat_bench.networks.plain import make_plain


@torch.no_grad()
def specialize(network: ConditionalNetwork, lam: float, width: float | None = None) -> nn.Module:
    """Return the plain network, in eval mode, that ``network`` is at ``lam`` and ``width``.

    Batch norm and FiLM are one affine per channel, which goes into the weight and bias of a
    convolution directly before it. The result shares nothing with ``network``. Width None is the
    widest; ValueError if ``lam`` is outside of the trained range, or there is no such width.
    """
    _, folded = network.folded(float(lam), 1, network.encoding.codes.device, width)
    plain = network.subnetwork(folded.width, copy=True)
    return fold_norms(plain, [(a.flatten(), b.flatten()) for a, b in folded.affines])


@torch.no_grad()
def unfold(network: ConditionalNetwork, lam: float, width: float | None = None) -> nn.Module:
    """Return what `specialize` returns, with batch norm in layers of its own, FiLM in its weights.

    A UserError at a lambda whose norm layers are made of two batch norms (`LambdaEncoding.ends`).
    """
    _, condition = network.condition(float(lam), 1, network.encoding.codes.device, width)
    share = network.encoding.ends(condition.lam)[1]
    if share is not None and bool((share < 1).any()):
        raise UserError(f"lambda {lam:g} lies between two batch norms; expected a trained one")
    plain = network.subnetwork(condition.width, copy=True)
    norms = [norm.plain(condition) for norm in network.norms]
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, FoldedNorm):
                setattr(module, name, norms[child.site])
    return plain


def fold_batch_norms(plain: nn.Module) -> nn.Module:
    """Fold, in place, what `unfold` returned; any other network stays as it is."""
    norms = [module for module in plain.modules() if isinstance(module, PlainBatchNorm)]
    if not norms:
        return plain
    by_site = sorted(norms, key=lambda norm: norm.site)
    return fold_norms(plain, [scale_and_shift(norm) for norm in by_site])


@torch.no_grad()
def outline(architecture: str, num_classes: int, in_channels: int, width: float = 1.0) -> nn.Module:
    """Return what `specialize` returns for an architecture, laid out without memory (on "meta")."""
    layers = Layers(lambda channels, _: FoldedNorm(channels))
    with torch.device("meta"):
        plain = build_backbone(architecture, num_classes, in_channels, layers, width)
        sizes = [norm.channels for norm in number_norms(plain) if isinstance(norm, FoldedNorm)]
        return fold_norms(plain, [(torch.empty(size), torch.empty(size)) for size in sizes])


def fold_norms(plain: nn.Module, affines: Sequence[tuple[Tensor, Tensor]]) -> nn.Module:
    """Put scale and shift [C] by site in the norm layers' place: a plain network in eval mode."""
    for module in list(plain.modules()):
        for conv_name, norm_name in getattr(module, "conv_norm_pairs", ()):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if conv is not None:
                scale, shift = affines[norm.site]
                conv.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).contiguous())
                conv.bias = nn.Parameter(shift.clone())
                setattr(module, norm_name, nn.Identity())
    affine = Affine if type(plain) in (WideResNet, ResNet) else ForeignAffine
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, (FoldedNorm, PlainBatchNorm)):
                setattr(module, name, affine(*affines[child.site]))
    make_plain(plain)
    return plain.eval().requires_grad_(False)
