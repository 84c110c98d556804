"""A network on a line: its weights move with one number, the place t (arXiv:2102.10472)."""

import copy
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.networks.backbones import Layers, build_backbone
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditioning import AnyCondition, Place, bracket
from oat_bench.networks.lambda_input import LambdaInput
from oat_bench.networks.norms import FoldedNorm, PlainBatchNorm, number_norms
from oat_bench.networks.slimmable import Told
from oat_bench.networks.specialize import fold_batch_norms

#: where batch norm's statistics are kept; between two of them they go linearly, beyond they stay
KNOTS = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
TURNS = 21  #: of a dial, at even lambda from 0 to 1; linear between
SPAN = 1.5  #: how far W(1) lies from W(0), in units of the slope
MOMENTUM = 0.1  #: of the statistics, as in torch's batch norm


class OnLine(Told, nn.Module):
    """A layer whose parameters p are p + shift p_slope; every slope starts at 0."""

    def add_slopes(self) -> None:
        """Give each parameter its slope."""
        for name, parameter in list(self.named_parameters(recurse=False)):
            self.register_parameter(f"{name}_slope", nn.Parameter(torch.zeros_like(parameter)))

    def moved(self, name: str, shift: Tensor | float) -> Tensor:
        """Return a parameter at ``shift``, [] or [1], or [n, 1] of one with a row each."""
        return self.get_parameter(name) + shift * self.get_parameter(f"{name}_slope")


class LineConv2d(OnLine, nn.Conv2d):
    """A convolution without bias."""

    def __init__(self, *args: int, **kwargs: int | bool) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.add_slopes()

    def forward(self, h: Tensor, place: AnyCondition) -> Tensor:  # type: ignore[override]
        """Map h of shape [n, c_in, H, W]."""
        assert isinstance(place, Place)
        run = partial(F.conv2d, stride=self.stride, padding=self.padding)
        if not place.each:
            return run(h, self.moved("weight", place.shift))
        along = place.shift[:, None, None, None] * run(h, self.get_parameter("weight_slope"))
        return run(h, self.weight) + along


class LineLinear(OnLine, nn.Linear):
    """The classification head."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.add_slopes()

    def forward(self, h: Tensor, place: AnyCondition) -> Tensor:  # type: ignore[override]
        """Map features [n, c_in]."""
        assert isinstance(place, Place)
        along = F.linear(h, *(self.get_parameter(f"{name}_slope") for name in ("weight", "bias")))
        return super().forward(h) + place.shift[:, None] * along


class LineNorm(OnLine):
    """Batch norm, statistics kept at `KNOTS`: in training by those of the batch, one place."""

    running_mean: Tensor
    running_var: Tensor
    eps: ClassVar[float] = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.add_slopes()
        self.register_buffer("running_mean", torch.zeros(len(KNOTS), channels))
        self.register_buffer("running_var", torch.ones(len(KNOTS), channels))

    def forward(self, h: Tensor, place: AnyCondition) -> Tensor:
        """Normalise h of shape [n, C, H, W]."""
        assert isinstance(place, Place)
        if not self.training:
            scale, shift = (part[:, :, None, None].to(h.dtype) for part in self.affine(place))
            return torch.addcmul(shift, h, scale)
        weight, bias = (self.moved(name, place.shift) for name in ("weight", "bias"))
        mean, var = weight.new_zeros(self.channels), weight.new_zeros(self.channels)
        out = F.batch_norm(h, mean, var, weight, bias, training=True, momentum=1.0, eps=self.eps)
        for rows, own in ((self.running_mean, mean), (self.running_var, var)):
            place.between.pull(rows, own, MOMENTUM)
        return out

    def affine(self, place: Place) -> tuple[Tensor, Tensor]:
        """Return the scale and shift, [1 or n, C], that the layer is in eval mode."""
        by = place.shift[:, None]
        mean, var = place.between(self.running_mean), place.between(self.running_var)
        scale = self.moved("weight", by) * torch.rsqrt(var + self.eps)
        return scale, self.moved("bias", by) - mean * scale

    def plain(self, place: Place) -> PlainBatchNorm:
        """Return an ordinary batch norm that is the layer at one place."""
        norm = PlainBatchNorm(self.channels, eps=self.eps).to(self.weight.device)
        for name in ("weight", "bias"):
            norm.get_parameter(name).data = self.moved(name, place.shift)
        for name in ("running_mean", "running_var"):
            norm.get_buffer(name).copy_(place.between(self.get_buffer(name))[0])
        return norm.eval().requires_grad_(False)


class LineNetwork(nn.Module):
    """A classifier whose weights are W(t) = W0 + SPAN (t - 1/2) D; ``network(x, t)``.

    All of them move: convolutions, the affine of batch norm, the head. D starts at 0, so that all
    places are one network at first.
    """

    knots: Tensor
    lambdas: Tensor
    turns: Tensor  #: the places of lambda 0 to 1, evenly spread, [`TURNS`]

    def __init__(self, card: NetworkCard, num_classes: int, in_channels: int, seed: int) -> None:
        super().__init__()
        self._build = partial(build_backbone, card.architecture, num_classes, in_channels)
        layers = Layers(lambda channels, _: LineNorm(channels), LineConv2d, LineLinear)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.backbone = self._build(layers)
        with torch.device("cpu"):  # values even where a network is laid out on "meta"
            self.register_buffer("knots", torch.tensor(KNOTS))
            self.register_buffer("turns", torch.linspace(0, 1, TURNS))
            self.register_buffer("lambdas", torch.linspace(0, 1, TURNS))

    def turned(self, lam: float) -> float:
        """Return the place of a lambda in [0, 1]."""
        return float(self.places(torch.full((1,), lam, device=self.turns.device)))

    def places(self, lam: Tensor) -> Tensor:
        """Return the place of each lambda, [n]."""
        return bracket(self.lambdas, lam)(self.turns[:, None])[:, 0]

    def place(self, t: float | Tensor) -> Place:
        """Return the condition of images at one place, or at one each, shape [n]."""
        each = isinstance(t, Tensor)
        at = t if isinstance(t, Tensor) else torch.full((1,), t, device=self.knots.device)
        return Place(SPAN * (at - 0.5), bracket(self.knots, at), each)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Compute logits [n, num_classes] of images [n, C, H, W] in [0, 1]; see `place`."""
        return self.backbone(x, self.place(t))  # type: ignore[no-any-return]

    @torch.no_grad()
    def unfolded(self, t: float) -> nn.Module:
        """Return the plain network at a place, with batch norms; it shares nothing."""
        place = self.place(t)
        with torch.device("meta"):
            plain = self._build(Layers(lambda channels, _: FoldedNorm(channels)))
        sites = {id(norm): norm.site for norm in number_norms(plain)}
        for name, module in list(plain.named_modules()):
            own = self.backbone.get_submodule(name)
            if isinstance(own, LineNorm):
                norm, (above, _, last) = own.plain(place), name.rpartition(".")
                norm.site = sites[id(module)]
                setattr(plain.get_submodule(above), last, norm)
            elif isinstance(own, OnLine):
                for key, _ in list(module.named_parameters(recurse=False)):
                    moved = own.moved(key, place.shift).clone()
                    setattr(module, key, nn.Parameter(moved, requires_grad=False))
        return plain.eval()

    def at(self, t: float) -> nn.Module:
        """Return the plain network at a place, batch norm folded into it."""
        return fold_batch_norms(self.unfolded(t))

    def restate(self, knot: int, plain: nn.Module) -> None:
        """Take the statistics of a knot from the batch norms of a network, as `unfolded` made."""
        for name, own in self.backbone.named_modules():
            if isinstance(own, LineNorm):
                theirs = plain.get_submodule(name)
                for key in ("running_mean", "running_var"):
                    own.get_buffer(key)[knot] = theirs.get_buffer(key)


class LineInput(LambdaInput):
    """A network on a line that is told lambda."""

    def __init__(self, network: LineNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def logits(self, images: Tensor, lam: Tensor) -> Tensor:
        """Compute logits of images, each at its lambda, [n]."""
        return self.network(images, self.network.places(lam))  # type: ignore[no-any-return]

    def at(self, lam: float) -> nn.Module:
        """Return the plain network at lam."""
        return self.network.at(self.network.turned(lam))
