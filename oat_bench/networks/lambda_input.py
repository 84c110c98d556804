"""f(x, lambda) as one plain graph, for export: lambda is an input, the width is fixed."""

import copy

import torch
from torch import Tensor, nn

from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.conditioning import Condition, Folded, LambdaEncoding, bracket
from oat_bench.networks.norms import ConditionalNorm, FiLM, affine
from oat_bench.networks.slimmable import take_weights
from oat_bench.networks.specialize import fold_norms

_OUTSIDE = 1 << 31  # added to a place that must not exist: further than any batch reaches


class LambdaNorm(nn.Module):
    """A norm layer of a width as a function of lambda alone: batch norm's affines, and FiLM."""

    def __init__(self, norm: ConditionalNorm, width: float) -> None:
        super().__init__()
        routes = norm.routes(width)
        self.scales = nn.ParameterList(scale.clone() for scale, _ in routes)
        self.shifts = nn.ParameterList(shift.clone() for _, shift in routes)
        self.film = None
        if (full := norm.film) is not None:
            with torch.device("meta"):
                self.film = FiLM(len(self.scales[0]), full.dim, full.form, slimmable=full.slimmable)
            take_weights(self.film, full, width, copy=True)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift [k, C] at each lambda."""
        return affine(condition, list(zip(self.scales, self.shifts, strict=True)), self.film)


class LambdaInput(nn.Module):
    """A plain backbone that is told lambda with the images; traceable, as no value is looked at."""

    def __init__(
        self, encoding: LambdaEncoding, norms: list[LambdaNorm], backbone: nn.Module
    ) -> None:
        super().__init__()
        self.encoding, self.norms, self.backbone = encoding, nn.ModuleList(norms), backbone

    def forward(self, images: Tensor, lam: Tensor) -> Tensor:
        """Compute logits [n, num_classes] of images [n, C, H, W] in [0, 1].

        ``lam``, [n] or [1] (else an IndexError), is brought into the trained range.
        """
        # len() would fix both where the graph is traced
        n, k = (torch.full((1,), t.shape[0], device=lam.device) for t in (images, lam))
        # 0, 1, 2, ... or 0, 0, 0, ...; of any other k a place that does not exist, so that no
        # runtime takes it: a graph that is traced has no exceptions
        places = torch.arange(images.shape[0], device=lam.device) % k + (k - 1) * (k - n) * _OUTSIDE
        trained = self.encoding.trained
        affines = self.affines(lam.clamp(trained[0], trained[-1])[places])
        maps = ((a[:, :, None, None], b[:, :, None, None]) for a, b in affines)
        return self.backbone(images, Folded(tuple(maps)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def at(self, lam: float) -> nn.Module:
        """Return the plain network at lam in [0, 1], as `oat_bench.networks.specialize` does."""
        values = torch.full((1,), lam, device=self.encoding.codes.device)
        affines = [(scale[0], shift[0]) for scale, shift in self.affines(values)]
        return fold_norms(copy.deepcopy(self.backbone), affines)

    def affines(self, lam: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return scale and shift, [k, C], of each norm layer at lambda, [k], in its range."""
        ends, share = self.encoding.ends(lam)
        codes, between = self.encoding.encode(ends, every=True)
        condition = Condition(ends, codes, None, 0, between, share=share)
        return [norm(condition) for norm in self.norms]


class DialInput(LambdaInput):
    """The same, told turns of a dial: places on the network's own, or beyond its end."""

    turns: Tensor
    lambdas: Tensor

    def __init__(self, network: LambdaInput, turns: list[float]) -> None:
        super().__init__(network.encoding, list(network.norms), network.backbone)  # type: ignore[arg-type]
        self.register_buffer("turns", torch.tensor(turns))
        with torch.device("cpu"):  # values even where a network is laid out on "meta"
            self.register_buffer("lambdas", torch.linspace(0, 1, len(turns)))

    def affines(self, lam: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return those of places, evenly turned by lambda; beyond the end by the last line."""
        places = bracket(self.lambdas, lam)(self.turns[:, None])[:, 0]
        before, last = self.encoding.trained[-2:]
        beyond = ((places - last) / (last - before)).clamp_min(0)[:, None]
        inside, low = super().affines(torch.minimum(places, last)), super().affines(before[None])
        return [
            (a + beyond * (a - a0), b + beyond * (b - b0))
            for (a, b), (a0, b0) in zip(inside, low, strict=True)
        ]


@torch.no_grad()
def lambda_input(network: ConditionalNetwork, width: float | None = None) -> LambdaInput:
    """Return the network of a width (None: the widest) that takes lambda, sharing nothing."""
    width = network.check_width(width)
    norms = [LambdaNorm(norm, width) for norm in network.norms]
    encoding, plain = copy.deepcopy(network.encoding), network.subnetwork(width, copy=True)
    return LambdaInput(encoding, norms, plain).eval().requires_grad_(False)
