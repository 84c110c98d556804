"""From f(x, lambda) to the plain network that it is at one lambda."""

import copy

import torch
from torch import Tensor, nn

from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.norms import Affine, ConditionalNorm, Passthrough


@torch.no_grad()
def specialize(network: ConditionalNetwork, lam: float) -> nn.Module:
    """Return the plain network, in eval mode, that ``network`` is at ``lam``.

    Batch norm and FiLM are one affine per channel; where a norm layer directly follows a
    convolution, the affine goes into the convolution's weight and bias. The result shares nothing
    with ``network``, maps images [n, C, H, W] in [0, 1] to logits, and costs what a plain network
    of the architecture costs.

    Raises:
        ValueError: if ``lam`` is not a number in [0, 1].
    """
    device = network.encoding.codes.device
    _, condition = network.condition(float(lam), 1, device)
    plain: nn.Module = copy.deepcopy(network.backbone)
    for module in list(plain.modules()):
        for conv_name, norm_name in getattr(module, "conv_norm_pairs", ()):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if conv is None:
                continue
            scale, shift = norm.affine(condition)
            setattr(module, conv_name, _folded(conv, scale[0], shift[0]))
            setattr(module, norm_name, Passthrough())
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConditionalNorm):
                scale, shift = child.affine(condition)
                setattr(module, name, Affine(scale[0], shift[0]))
    return plain.eval().requires_grad_(False)


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
