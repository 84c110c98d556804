"""What images and counts brought by a caller must be: one rule at every door."""

import math
import operator

import numpy as np
from torch import Tensor

from oat_bench.errors import UserError

ROUNDING = 1e-6  #: floating-point images may leave their range by this much


def check_images(
    x: np.ndarray | Tensor,
    *,
    name: str,
    shape: tuple[int, ...] | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    slack: float = ROUNDING,
) -> None:
    """Refuse what are not floating-point images [n, *shape] in ``span``, but for ``slack``."""
    low, high = span
    bounded = math.isfinite(high - low)
    expected = f"expected numbers in [{low:g}, {high:g}]" if bounded else "expected finite numbers"
    if not isinstance(x, np.ndarray | Tensor):
        raise UserError(f"{name}: a {type(x).__name__}; expected a NumPy array")
    if isinstance(x, np.ndarray):
        floating = np.issubdtype(x.dtype, np.floating)
    else:
        floating, x = x.is_floating_point(), x.detach()
    if not floating:  # integers may mean 0 to 1 or 0 to 255
        remedy = f"{name} / 255" if high == 1 else f"{name}.astype('float32')"
        raise UserError(
            f"{name}: of type {str(x.dtype).removeprefix('torch.')}; {expected} of a "
            f"floating-point type; 8-bit images become that by {remedy}"
        )
    if x.ndim != 4 or (shape is not None and tuple(x.shape[1:]) != shape):
        wanted = "C, H, W" if shape is None else ", ".join(map(str, shape))
        raise UserError(f"{name}: of shape {tuple(x.shape)}; expected [n, {wanted}]")
    if math.prod(x.shape) == 0:
        return
    least, most = float(x.min()), float(x.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise UserError(f"{name}: NaN or infinite values; {expected}")
    if least < low - slack or most > high + slack:
        raise UserError(
            f"{name}: values range from {least:g} to {most:g}; {expected} (divide 8-bit images by "
            "255, and leave normalisation to the model)"
        )


def check_count(value: object, name: str, least: int) -> int:
    """Return a whole number of at least ``least``, or raise a `UserError`."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = least - 1
    if count < least:
        raise UserError(f"{name} is {value!r}; expected a whole number >= {least}")
    return count
