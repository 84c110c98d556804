"""Adaptive Smoothing: the outputs of two classifiers, mixed (Bai et al., arXiv:2301.12554)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oat_bench.classifier import OperatingPoint
from oat_bench.methods.parts import TwoEnds


def log_mixture(logs: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Mix probabilities, given and returned as their logs [n, num_classes], by ``shares``."""
    # in logs: a probability may be too small for float32
    return torch.logsumexp(torch.stack(list(logs)) + shares.log()[:, None, None], dim=0)


class Mixture(nn.Module):
    """log((1 - share) softmax(standard(x)) + share softmax(robust(x))), their equation 3."""

    share: Tensor

    def __init__(self, standard: nn.Module, robust: nn.Module, share: float) -> None:
        super().__init__()
        self.standard, self.robust = standard, robust
        self.register_buffer("share", torch.tensor(share))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, C, H, W] to log probabilities [n, num_classes], which are logits."""
        logs = [self.standard(x).log_softmax(1), self.robust(x).log_softmax(1)]
        return log_mixture(logs, torch.stack([1 - self.share, self.share]))


class OutputMixing(TwoEnds):
    """Two classifiers whose probabilities are mixed, lambda the robust one's share."""

    passes = 2

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the mixture in which the robust classifier has the share ``lam``."""
        point = OperatingPoint(lam, width)
        return Mixture(*self.both(point.width), point.lam).to(self.device).eval()
