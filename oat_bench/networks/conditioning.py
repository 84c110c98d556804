"""How a network is told lambda: validation, encoding, and the condition of a batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Encoding = Literal["scalar", "one-hot", "dct", "orthogonal"]

#: The rule by which a lambda between two trained ones is encoded; it is named in the checkpoint.
INTERPOLATION = "linear-codes"


def validate_lambda(lam: float | Tensor, n_images: int, device: torch.device) -> Tensor:
    """Turn ``lam`` into one value for all images (shape []) or one per image (shape [n_images]).

    Raises:
        ValueError: if a value is not a number in [0, 1], or the shape fits neither.
    """
    values = torch.as_tensor(lam, dtype=torch.float32, device=device)
    if values.ndim == 1 and len(values) == 1:
        values = values[0]
    if values.shape not in ((), (n_images,)):
        raise ValueError(
            f"lam has shape {tuple(values.shape)}; expected one float or one value for each of the "
            f"{n_images} images"
        )
    inside = (values >= 0) & (values <= 1)  # false for NaN too
    if not bool(inside.all()):
        wrong = values.reshape(-1)[~inside.reshape(-1)][0].item()
        raise ValueError(f"lam is {wrong:g}; expected a number in [0, 1]")
    return values


class LambdaEncoding(nn.Module):
    """Encode lambda as a vector (OAT paper, section 3.1, "How to encode and condition on lambda").

    Each trained lambda owns a row of a matrix; a lambda between two trained ones takes the linear
    interpolation of their rows, one outside their range the nearest row. The rows belong to the
    weights: they are a buffer and travel with the checkpoint.

    Args:
        trained: the distinct lambda that training samples from, in [0, 1].
        kind: ``scalar`` (lambda itself, dim 1), ``one-hot``, ``dct`` (orthonormal DCT-II rows) or
            ``orthogonal`` (rows of a random orthogonal matrix).
        dim: length of a code; at least the number of trained values, but for ``scalar``.
        seed: for ``orthogonal``.
    """

    codes: Tensor
    trained: Tensor

    def __init__(self, trained: list[float], kind: Encoding, dim: int, seed: int = 0) -> None:
        super().__init__()
        with torch.device("cpu"):  # values even where a network is laid out on "meta"
            values = torch.tensor(sorted(set(trained)), dtype=torch.float32)
            if kind != "scalar" and len(values) > dim:
                raise ValueError(
                    f"a {kind} encoding of {len(values)} lambda needs dim >= {len(values)}, "
                    f"got {dim}"
                )
            self.register_buffer("trained", values)
            self.register_buffer("codes", _codes(values, kind, dim, seed))

    @property
    def dim(self) -> int:
        """Length of a code."""
        return self.codes.shape[1]

    def forward(self, lam: Tensor) -> Tensor:
        """Encode lambda of shape [k]: codes of shape [k, dim]."""
        if len(self.trained) == 1:
            return self.codes.expand(len(lam), -1)
        upper = torch.searchsorted(self.trained, lam.contiguous()).clamp(1, len(self.trained) - 1)
        low, high = self.trained[upper - 1], self.trained[upper]
        weight = ((lam - low) / (high - low)).clamp(0, 1)[:, None]
        return torch.lerp(self.codes[upper - 1], self.codes[upper], weight)


def _codes(values: Tensor, kind: Encoding, dim: int, seed: int) -> Tensor:
    if kind == "scalar":
        return values[:, None].clone()
    if kind == "one-hot":
        return torch.eye(dim)[: len(values)]
    if kind == "dct":
        from scipy.fft import dct

        rows: Tensor = torch.as_tensor(dct(torch.eye(dim).numpy(), axis=0, norm="ortho"))
        return rows[: len(values)].clone()
    gaussian = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))
    orthogonal: Tensor = torch.linalg.qr(gaussian).Q
    return orthogonal[: len(values)].contiguous()


@dataclass(frozen=True)
class Condition:
    """What the layers need to know of the lambda of a batch whose images are sorted by lambda.

    Attributes:
        lam: the distinct values, ascending, shape [k].
        codes: their codes, shape [k, dim].
        index: which of the k values each image has, shape [n]; None if all share one.
        n_standard: how many images, from the first, have lambda = 0 and take the standard route.
        width: share of the channels of each layer, one for the whole batch.
    """

    lam: Tensor
    codes: Tensor
    index: Tensor | None
    n_standard: int
    width: float = 1.0

    def spread(self, per_value: Tensor) -> Tensor:
        """Bring [k, C], a row for each lambda, to [n or 1, C, 1, 1], a map for each image."""
        per_image = per_value if self.index is None else per_value[self.index]
        return per_image[:, :, None, None]


@dataclass(frozen=True)
class Folded:
    """A condition of which each norm layer is already one affine per channel.

    Attributes:
        affines: scale and shift of each norm layer, shape [n or 1, C, 1, 1], by the layer's site.
        width: share of the channels of each layer.
    """

    affines: tuple[tuple[Tensor, Tensor], ...]
    width: float = 1.0
