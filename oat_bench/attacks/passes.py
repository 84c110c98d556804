"""How many passes through a network an attack makes of an image that survives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oat_bench.attacks.card import GRADIENT_FREE

Parameters = Mapping[str, Any]
_COUNTS = ("steps", "max_iter", "n_queries", "draws")  # of classes that no rule below counts
_USUAL = 100  # steps of a class whose card says none


@dataclass(frozen=True)
class Passes:
    """Passes of one image, or of many: forward, and backward to the gradient of the image."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Both; each takes about the operations of a forward pass."""
        return self.forward + self.backward

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, images: float) -> "Passes":
        return Passes(self.forward * images, self.backward * images)


def _pgd(given: Parameters, _classes: int, _networks: int | None) -> Passes:
    restarts = given.get("restarts", 1)
    steps = restarts * given.get("steps", 10)
    return Passes(steps + restarts - 1, steps)  # what still stands is looked at between restarts


def _climb(given: Parameters, _classes: int, networks: int | None) -> Passes:
    # a random model is attacked by two losses, each step through so many networks; then judged
    attempts, each = (1, 1) if networks is None else (2, networks)
    attempts *= given.get("restarts", 1) * each
    return Passes(attempts * (given["steps"] + 1), attempts * given["steps"])


def _noise(given: Parameters, classes: int, networks: int | None) -> Passes:
    still = {"steps": 0, "restarts": given["draws"]}
    return (_pgd if networks is None else _climb)(still, classes, networks)


def _apgd(given: Parameters, _classes: int, _networks: int | None) -> Passes:
    walks = given.get("n_restarts", 1)
    gradients = walks * given.get("eot_iter", 1) * (given.get("steps", 10) + 1)
    return Passes(1 + gradients, gradients)


def _apgdt(given: Parameters, classes: int, networks: int | None) -> Passes:
    targets = given.get("n_classes", 10) - 1
    walks = targets * given.get("n_restarts", 1)  # each looks its target up
    return _apgd({**given, "n_restarts": walks}, classes, networks) + Passes(walks)


def _fab(given: Parameters, classes: int, _networks: int | None) -> Passes:
    steps, restarts = given.get("steps", 10), given.get("n_restarts", 1)
    if given.get("multi_targeted", False):
        runs = restarts * (given.get("n_classes", 10) - 1)
        return Passes(1 + runs * (2 * steps + 3), runs * steps)
    return Passes(1 + restarts * (2 * steps + 2), restarts * steps * classes)


def _square(given: Parameters, _classes: int, _networks: int | None) -> Passes:
    return Passes(1 + given.get("n_restarts", 1) * (given.get("n_queries", 5000) + 2))


def _own_apgd(given: Parameters, _classes: int, _networks: int | None) -> Passes:
    walks, steps = given.get("n_restarts", 1), given.get("steps", 10)
    return Passes(1 + walks * (steps + 1), walks * steps)  # no gradient of the last images


def _own_apgdt(given: Parameters, classes: int, networks: int | None) -> Passes:
    walks = given.get("n_restarts", 1) * (given.get("n_classes", 10) - 1)
    return _own_apgd({**given, "n_restarts": walks}, classes, networks) + Passes(1)  # ranks targets


def _own_square(given: Parameters, _classes: int, _networks: int | None) -> Passes:
    # at most: what clipping undoes is not asked about
    return Passes(1 + given.get("n_restarts", 1) * (given.get("n_queries", 5000) + 1))


#: what counts the passes of a class, by engine: from its parameters, the number of classes, and
#: the networks that a step on a random model passes through (None: the model is not random)
RULES: dict[tuple[str, str], Callable[[Parameters, int, int | None], Passes]] = {
    ("oat_bench", "FGSM"): lambda *_: Passes(1, 1),
    ("oat_bench", "MIFGSM"): _pgd,
    ("oat_bench", "PGD"): _pgd,
    ("oat_bench", "EOTPGD"): _climb,
    ("oat_bench", "Noise"): _noise,
    ("oat_bench", "APGD"): _own_apgd,
    ("oat_bench", "APGDT"): _own_apgdt,
    ("oat_bench", "FAB"): _fab,
    ("oat_bench", "Square"): _own_square,
    ("torchattacks", "APGD"): _apgd,
    ("torchattacks", "APGDT"): _apgdt,
    ("torchattacks", "FAB"): _fab,
    ("torchattacks", "Square"): _square,
    ("file", "Images"): lambda *_: Passes(),
}


def count(
    engine: str, class_: str, given: Parameters, n_classes: int, networks: int | None = None
) -> Passes:
    """Count the passes of a class; of one that `RULES` lacks about, by its steps or queries."""
    if (rule := RULES.get((engine, class_))) is not None:
        return rule(given, n_classes, networks)
    known = [given[key] for key in _COUNTS if isinstance(given.get(key), int | float)]
    restarts = given.get("restarts", given.get("n_restarts", 1))
    steps = float(restarts * given.get("eot_iter", 1) * max(known, default=_USUAL))
    return Passes(steps, 0.0 if class_ in GRADIENT_FREE.get(engine, ()) else steps)
