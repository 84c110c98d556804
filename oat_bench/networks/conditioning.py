"""How a network is told lambda: validation, encoding, and the condition of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oat_bench.errors import UserError
from oat_bench.networks.card import Encoding, Interpolation

_SAME = 1e-6  # lambda values closer than this share are one: float32 holds about seven digits


def check_within(lam: float, trained: Sequence[float]) -> None:
    """Refuse (UserError) a lambda outside of the trained range."""
    low, high = trained[0], trained[-1]
    if not low * (1 - _SAME) <= lam <= high * (1 + _SAME):
        raise UserError(
            f"lambda {lam:g} lies outside of what was trained, {low:g} to {high:g}; the nearest "
            f"is {low if lam < low else high:g}"
        )


def bridged_below(trained: Sequence[float], norm: str, sampling: str) -> float | None:
    """Return the first trained lambda above 0, if those between it and 0 need a bridge.

    They do where lambda = 0 has a batch norm of its own and training, sampling from a ``list``,
    drew none of them: the other batch norm has never met their codes. See `LambdaEncoding`.
    """
    if (norm, sampling, trained[0]) != ("dual", "list", 0) or len(trained) == 1:
        return None
    return trained[1]


def validate_lambda(lam: float | Tensor, n_images: int, device: torch.device) -> Tensor:
    """Turn ``lam`` into one value for all images, [], or one for each, [n_images]; in [0, 1]."""
    values = torch.as_tensor(lam, dtype=torch.float32, device=device)
    if values.ndim == 1 and len(values) == 1:
        values = values[0]
    if values.shape not in ((), (n_images,)):
        expected = f"expected one float or one value for each of the {n_images} images"
        raise ValueError(f"lam has shape {tuple(values.shape)}; {expected}")
    inside = (values >= 0) & (values <= 1)  # false for NaN too
    if not bool(inside.all()):
        wrong = values[~inside][0].item()
        raise ValueError(f"lam is {wrong:g}; expected a number in [0, 1]")
    return values


class LambdaEncoding(nn.Module):
    """Encode lambda as a vector (OAT paper, section 3.1, "How to encode and condition on lambda").

    Each trained lambda owns a row of a matrix; one outside their range takes the nearest row. For a
    lambda between two trained ones, a share w of the way from the lower to the upper, there are
    three rules:

    * ``linear-codes``: (1 - w) lower row + w upper row (of ``scalar``: lambda itself);
    * ``spherical-codes``: the point a share w along the arc between the rows (Shoemake, SIGGRAPH
      1985), as long as they are, whereas the middle of a chord is shorter;
    * ``film``: the rows stay, and each FiLM layer's gamma and beta are interpolated linearly.

    Between 0 and the first trained lambda above it none of them will do if there are two batch
    norms: BN_c is that of lambda = 0 alone, and BN_a has never met a code on the way there. There,
    with ``bridge``, the norm layers are folded at both ends to a scale and a shift per channel, and
    these are interpolated linearly (``folded-affine``).

    Rows are ``scalar`` (lambda itself, dim 1), ``one-hot``, ``dct`` (orthonormal DCT-II rows) or
    ``orthogonal`` (of a random orthogonal matrix, drawn by ``seed``), of length ``dim``: at least
    the number of ``trained`` values, but for ``scalar``.
    """

    codes: Tensor
    trained: Tensor

    def __init__(
        self,
        trained: list[float],
        kind: Encoding,
        dim: int,
        seed: int = 0,
        interpolation: Interpolation = "linear-codes",
    ) -> None:
        super().__init__()
        self.interpolation, self.bridge = interpolation, False
        with torch.device("cpu"):  # values even where a network is laid out on "meta"
            values = torch.tensor(sorted(set(trained)), dtype=torch.float32)
            if kind != "scalar" and (count := len(values)) > dim:
                needed = f"a {kind} encoding of {count} lambda values needs dim >= {count}"
                raise ValueError(f"{needed}, got {dim}")
            self.register_buffer("trained", values)
            self.register_buffer("codes", _codes(values, kind, dim, seed))

    @property
    def dim(self) -> int:
        """Length of a code."""
        return self.codes.shape[1]

    def forward(self, lam: Tensor) -> Tensor:
        """Encode lambda, [k], as codes [k, dim]; by the rule ``film`` as by ``linear-codes``."""
        codes, between = self.encode(lam)
        return codes if between is None else between(codes)

    def encode(self, lam: Tensor, *, every: bool = False) -> tuple[Tensor, "Between | None"]:
        """Return the codes that FiLM maps for lambda, [k], and how their rows are interpolated.

        ``every`` keeps rows that do not count, so that no shape depends on values.
        """
        if len(self.trained) == 1:
            return self.codes.expand(lam.shape[0], -1), None
        between = bracket(self.trained, lam)
        weight = between.weight
        if self.interpolation == "film":
            return (self.codes, between) if every else between.of_rows(self.codes)
        if self.interpolation == "spherical-codes":
            return _slerp(self.codes[between.low], self.codes[between.high], weight), None
        return between(self.codes), None

    def ends(self, lam: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the lambda values whose folded norm layers those of ``lam``, [k], are made of.

        With a bridge: 0 and each one's upper end or itself, [1 + k]; and its share of the way there
        from 0, [k, 1].
        """
        if not self.bridge:
            return lam, None
        first = self.trained[1]
        below = (lam > 0) & (lam < first)
        share = torch.where(below, lam / first, torch.ones_like(lam))
        return torch.cat([self.trained[:1], torch.where(below, first, lam)]), share[:, None]


@dataclass(frozen=True)
class Between:
    """Where lambda lies: rows below and above, [k] each, and the share of the way, [k, 1]."""

    low: Tensor
    high: Tensor
    weight: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Interpolate rows [a, C] linearly to [k, C]."""
        return torch.lerp(rows[self.low], rows[self.high], self.weight)

    def of_rows(self, rows: Tensor) -> tuple[Tensor, "Between"]:
        """Leave out the rows that do not count."""
        at_high = self.weight[:, 0] == 1
        low = torch.where(at_high, self.high, self.low)
        high = torch.where(self.weight[:, 0] == 0, self.low, self.high)
        needed, places = torch.unique(torch.cat([low, high]), return_inverse=True)
        low, high = places.chunk(2)
        return rows[needed], Between(low, high, self.weight)


def bracket(knots: Tensor, values: Tensor) -> Between:
    """Say where values, [k], lie among ascending knots, [a]; outside of them, at the nearest."""
    # as searchsorted does, in operations that every exporter knows
    upper = (knots < values[:, None]).sum(1).clamp(1, len(knots) - 1)
    low, high = knots[upper - 1], knots[upper]
    weight = ((values - low) / (high - low)).clamp(0, 1)[:, None]
    return Between(upper - 1, upper, weight)


def _slerp(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """Go a share of the way along the arc between rows of one length, each [k, dim]."""
    angle = torch.acos(F.cosine_similarity(low, high, dim=1)[:, None].clamp(-1, 1))

    def share(weight: Tensor) -> Tensor:
        part = torch.sin(weight * angle) / torch.sin(angle)
        # at the ends exactly the rows; and no arc is left between two of one direction
        return torch.where((weight == 0) | (weight == 1) | ~torch.isfinite(part), weight, part)

    return share(1 - weight) * low + share(weight) * high


def _codes(values: Tensor, kind: Encoding, dim: int, seed: int) -> Tensor:
    if kind == "scalar":
        return values[:, None].clone()
    rows = torch.eye(dim)
    if kind == "dct":
        from scipy.fft import dct

        rows = torch.as_tensor(dct(rows.numpy(), axis=0, norm="ortho"))
    if kind == "orthogonal":
        gaussian = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))
        rows = torch.linalg.qr(gaussian).Q
    return rows[: len(values)].clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Condition:
    """What the layers need to know of the lambda of a batch whose images are sorted by lambda."""

    lam: Tensor  # the distinct values, ascending, [k]; with ``share`` their ends, [1 + k]
    codes: Tensor  # what FiLM maps, a row for each of ``lam``; [a, dim] with ``between``
    index: Tensor | None  # which of the k values each image has, [n]; None if all share one
    n_standard: int  # how many images, from the first, have lambda = 0: the standard route
    between: Between | None = None  # how FiLM's a rows become those of ``lam``; None if they are
    width: float = 1.0
    share: Tensor | None = None  # of the way from 0, `LambdaEncoding.ends`; only to be folded

    def bridged(self, per_end: Tensor) -> Tensor:
        """Bring folded scales or shifts [1 + k, C], those of lambda = 0 first, to [k, C]."""
        return per_end if self.share is None else torch.lerp(per_end[:1], per_end[1:], self.share)

    def spread(self, per_value: Tensor) -> Tensor:
        """Bring [k, C], a row for each lambda, to [n or 1, C, 1, 1], a map for each image."""
        per_image = per_value if self.index is None else per_value[self.index]
        return per_image[:, :, None, None]


@dataclass(frozen=True)
class Folded:
    """Each norm layer, by its site, as one scale and shift per channel, [n or 1, C, 1, 1]."""

    affines: tuple[tuple[Tensor, Tensor], ...]
    width: float = 1.0

    def apply(self, h: Tensor, site: int) -> Tensor:
        """Scale and shift h of shape [n, C, H, W] as the norm layer of a site does."""
        scale, shift = self.affines[site]
        return torch.addcmul(shift.to(h.dtype), h, scale.to(h.dtype))


AnyCondition = Condition | Folded | None
