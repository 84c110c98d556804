"""An application that answers an attack with lambda: one model in memory, the dial turned in place.

Run it from a checkout: python examples/adaptive.py
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import oat_bench
from oat_bench import datasets
from oat_bench.classifier import TunableClassifier

MODEL = Path(__file__).parents[1] / "leaderboards/digits/Linf/oat-wrn-10-1.safetensors"
CALM, ALARM = 0.0, 1.0


class Adaptive:
    """A classifier that is robust while it is told that it is under attack, and accurate else.

    Args:
        classifier: holds every trade-off; the plain network of a lambda is made on first use.
        calm: lambda without an attack.
        alarm: lambda under one.
    """

    def __init__(self, classifier: TunableClassifier, calm: float, alarm: float) -> None:
        self._classifier, self._calm, self._alarm = classifier, calm, alarm
        self._plain: dict[float, nn.Module] = {}
        self.tell(attacked=False)

    def tell(self, *, attacked: bool) -> None:
        """Take the word of whatever watches the traffic: a detector, a person, an error rate."""
        self.lam = self._alarm if attacked else self._calm
        if self.lam not in self._plain:
            self._plain[self.lam] = self._classifier.at(self.lam)
        self._network = self._plain[self.lam]

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Classify images of shape [n, C, H, W] in [0, 1]."""
        return self._network(images).argmax(1)


def milliseconds(do: Callable[[], object], *, repeats: int = 1) -> float:
    """Time a call; of several, the median."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def main() -> None:
    """Serve three hours of traffic, the second of them hostile, with and without the dial."""
    classifier = oat_bench.load(MODEL)
    test = datasets.load("digits").test
    images, labels = test.inputs(slice(0, 200)), test.labels[:200]
    threat = classifier.info.threat

    def attack(lam: float) -> Tensor:
        """White box: the adversary knows which lambda answers."""
        bounds = {"eps": threat.eps, "step_size": threat.step_size}
        return oat_bench.pgd(classifier.at(lam), images, labels, steps=20, **bounds)

    fixed, adaptive = Adaptive(classifier, CALM, CALM), Adaptive(classifier, CALM, ALARM)
    hours = [("calm", False), ("under attack", True), ("calm again", False)]
    print(f"{'':14}{'lambda':>8}{'right':>8}{'  right at lambda 0 throughout'}")
    for hour, attacked in hours:
        adaptive.tell(attacked=attacked)
        shares = []
        for server in (adaptive, fixed):
            seen = attack(server.lam) if attacked else images
            shares.append(100 * (server.predict(seen) == labels).float().mean().item())
        print(f"{hour:14}{adaptive.lam:8g}{shares[0]:7.1f}%{shares[1]:29.1f}%")

    image = images[:1]
    served = milliseconds(lambda: adaptive.predict(image), repeats=50)
    fresh = Adaptive(classifier, CALM, ALARM)

    def first_use() -> None:
        fresh.tell(attacked=True)
        fresh.predict(image)

    first = milliseconds(first_use)
    cached = milliseconds(lambda: adaptive.tell(attacked=True), repeats=1000)
    print(f"one image                                  {served:8.3f} ms")
    print(f"first switch to a lambda, and one image    {first:8.3f} ms")
    print(f"switch back to a lambda that was used      {cached:8.4f} ms")


if __name__ == "__main__":
    main()
