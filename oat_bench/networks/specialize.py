"""From f(x, lambda) to the plain network that it is at one lambda and one width."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oat_bench.networks.backbones import build_backbone
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.norms import Affine, ConditionalNorm, FoldedNorm, number_norms
from oat_bench.networks.plain import make_plain


@torch.no_grad()
def specialize(network: ConditionalNetwork, lam: float, width: float | None = None) -> nn.Module:
    """Return the plain network, in eval mode, that ``network`` is at ``lam`` and ``width``.

    Batch norm and FiLM are one affine per channel; where a norm layer directly follows a
    convolution, the affine goes into the convolution's weight and bias. The result shares nothing
    with ``network``, maps images [n, C, H, W] in [0, 1] to logits, and costs what a plain network
    of the architecture costs that never had more channels than the width leaves.

    Args:
        network: conditional, of one width or of several.
        lam: in [0, 1], within the trained range.
        width: one of the network's widths; the widest if None.

    Raises:
        ValueError: if ``lam`` is not there, or the network does not have the width.
    """
    device = network.encoding.codes.device
    _, folded = network.folded(float(lam), 1, device, width)
    plain = separate(network, folded.width)
    fold_norms(plain, [(scale.flatten(), shift.flatten()) for scale, shift in folded.affines])
    return plain.eval().requires_grad_(False)


def separate(network: ConditionalNetwork, width: float) -> nn.Module:
    """Return the backbone of a width, which shares nothing with ``network``."""
    plain = network.subnetwork(width)
    if plain is network.backbone:
        return copy.deepcopy(plain)
    # views, of which a deep copy would take the whole of what they view
    for parameter in plain.parameters():
        parameter.data = parameter.data.clone()
    return plain


@torch.no_grad()
def outline(architecture: str, num_classes: int, in_channels: int, width: float = 1.0) -> nn.Module:
    """Return what `specialize` returns for an architecture, laid out without memory (on "meta").

    Raises:
        ValueError: if there is no such architecture.
    """
    with torch.device("meta"):
        plain = build_backbone(
            architecture, num_classes, in_channels, lambda c, _: FoldedNorm(c), width=width
        )
        norms = number_norms(plain)
        fold_norms(plain, [(torch.empty(n.channels), torch.empty(n.channels)) for n in norms])
    return plain.eval().requires_grad_(False)


def fold_norms(plain: nn.Module, affines: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Put scale and shift [C] of each site in the place of a backbone's norm layers.

    Where a norm layer directly follows a convolution they go into its weight and bias. What is left
    takes no condition.
    """
    for module in list(plain.modules()):
        for conv_name, norm_name in getattr(module, "conv_norm_pairs", ()):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if conv is None:
                continue
            setattr(module, conv_name, _folded(conv, *affines[norm.site]))
            setattr(module, norm_name, nn.Identity())
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, (ConditionalNorm, FoldedNorm)):
                setattr(module, name, Affine(*affines[child.site]))
    make_plain(plain)


def _folded(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """Return the convolution that computes ``scale * conv(x) + shift``."""
    folded = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        bias=True,
        device=conv.weight.device,
    )
    assert isinstance(folded, nn.Conv2d)
    assert folded.bias is not None
    folded.weight.copy_(conv.weight * scale[:, None, None, None])
    folded.bias.copy_(shift)
    return folded
