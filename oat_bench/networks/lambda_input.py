"""f(x, lambda) as one plain graph, for export: lambda is an input, the width is fixed."""

import copy

import torch
from torch import Tensor, nn

from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import Condition, Folded, LambdaEncoding
from oat_bench.networks.norms import (
    ConditionalNorm,
    FiLM,
    FoldedNorm,
    modulated,
    number_norms,
)
from oat_bench.networks.slimmable import SlimmableFiLM
from oat_bench.networks.specialize import fold_norms, separate

#: added to a place that must not exist: further than any batch reaches
_OUTSIDE = 1 << 31


class LambdaNorm(nn.Module):
    """A norm layer of a width as a function of lambda alone: batch norm's affines, and FiLM.

    Args:
        routes: scale and shift [C] of each route, the standard one first where there are two.
        film: of C channels, or None.
    """

    def __init__(self, routes: list[tuple[Tensor, Tensor]], film: FiLM | None) -> None:
        super().__init__()
        self.scales = nn.ParameterList(scale.clone() for scale, _ in routes)
        self.shifts = nn.ParameterList(shift.clone() for _, shift in routes)
        self.film = film

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift [k, C] at each lambda."""
        film = None
        if self.film is not None:
            gamma, beta = map(condition.interpolated, self.film(condition.codes))
            film = gamma, beta
        routes = list(zip(self.scales, self.shifts, strict=True))
        return modulated(condition, routes, film)


class LambdaInput(nn.Module):
    """A plain backbone that is told lambda with the images, in operations that can be traced.

    It neither sorts a batch nor looks at values: each image has its own affine per channel, and a
    batch may mix any lambda.

    Args:
        encoding: of lambda.
        norms: the norm layers by site.
        backbone: with a `FoldedNorm` at each site.
    """

    def __init__(
        self, encoding: LambdaEncoding, norms: list[LambdaNorm], backbone: nn.Module
    ) -> None:
        super().__init__()
        self.encoding, self.norms, self.backbone = encoding, nn.ModuleList(norms), backbone

    def forward(self, images: Tensor, lam: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: shape [n, C, H, W] in [0, 1].
            lam: shape [n], one for each image, or [1], one for all; what lies outside of the
                trained range is taken for the nearer end.

        Returns:
            Logits of shape [n, num_classes].

        Raises:
            IndexError: if there are neither one nor n lambda.
        """
        # len() would fix both where the graph is traced
        n, k = (torch.full((1,), t.shape[0], device=lam.device) for t in (images, lam))
        # 0, 1, 2, ... or 0, 0, 0, ...; of any other k a place that does not exist, so that no
        # runtime takes it: a graph that is traced has no exceptions
        places = torch.arange(images.shape[0], device=lam.device) % k + (k - 1) * (k - n) * _OUTSIDE
        trained = self.encoding.trained
        maps = [
            (scale[:, :, None, None], shift[:, :, None, None])
            for scale, shift in self._affines(lam.clamp(trained[0], trained[-1])[places])
        ]
        return self.backbone(images, Folded(tuple(maps)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def at(self, lam: float) -> nn.Module:
        """Return the plain network at lam in [0, 1], as `oat_bench.networks.specialize` does."""
        values = torch.full((1,), lam, device=self.encoding.codes.device)
        plain = copy.deepcopy(self.backbone)
        fold_norms(plain, [(scale[0], shift[0]) for scale, shift in self._affines(values)])
        return plain.eval().requires_grad_(False)

    def _affines(self, lam: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return scale and shift [k, C] of each site at lambda of shape [k]."""
        ends, share = self.encoding.ends(lam)
        between = None
        if self.encoding.interpolation == "film" and len(self.encoding.trained) > 1:
            codes, between = self.encoding.codes, self.encoding.between(ends)
        else:
            codes, _ = self.encoding.encode(ends)
        condition = Condition(ends, codes, None, 0, between, share=share)
        return [norm(condition) for norm in self.norms]


@torch.no_grad()
def lambda_input(network: ConditionalNetwork, width: float | None = None) -> LambdaInput:
    """Return the network of a width that takes lambda as an input, sharing nothing with the other.

    Args:
        network: conditional, of one width or of several; on "meta" too.
        width: one of the network's; the widest if None.

    Raises:
        ValueError: if the network does not have the width.
    """
    width = network.check_width(width)
    norms = [
        LambdaNorm(norm.routes(width), _of_width(norm, width, network.encoding.dim))
        for norm in network.backbone.modules()
        if isinstance(norm, ConditionalNorm)
    ]
    plain = separate(network, width)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConditionalNorm):
                setattr(module, name, FoldedNorm(child.bn_a.num_features))
    number_norms(plain)
    exported = LambdaInput(copy.deepcopy(network.encoding), norms, plain)
    return exported.eval().requires_grad_(False)


def _of_width(norm: ConditionalNorm, width: float, dim: int) -> FiLM | None:
    """Return a copy of a norm layer's FiLM with as many channels as the width has."""
    if not isinstance(norm.film, SlimmableFiLM):
        return copy.deepcopy(norm.film)
    _, other = norm.batch_norms(width)
    with torch.device("meta"):
        narrow = SlimmableFiLM(other.num_features, dim, norm.film.form)
    for name, small in list(narrow.named_parameters()):
        block = tuple(slice(0, size) for size in small.shape)
        own = nn.Parameter(norm.film.get_parameter(name)[block].clone())
        module, _, key = name.rpartition(".")
        setattr(narrow.get_submodule(module), key, own)
    return narrow
