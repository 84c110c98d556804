"""One network, its folded layers interpolated, and extrapolated, between operating points."""

from bisect import bisect_right
from typing import Annotated

from pydantic import Field
from torch import nn

from oat_bench.cards import Fraction, Lambdas
from oat_bench.classifier import SAME_LAMBDA, OperatingPoint
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.methods.parts import Combined, Source, Sources, between


class AffineOptions(Sources):
    """The network, the operating points, and how far the dial goes."""

    network: Source
    knots: Annotated[Lambdas, Field(min_length=2)] = Field(
        default=[0.0, 1.0], description="lambda values of the network, ascending"
    )
    reach: Annotated[Fraction, Field(gt=0, le=4)] = Field(
        default=1.0, description="where lambda = 1 lies on the network's own dial; above 0"
    )

    def sources(self) -> dict[str, Source]:
        return {"network": self.network}


class AffineInterpolation(Combined):
    """A network conditioned on lambda, between and beyond its operating points by straight lines.

    At a fixed lambda each norm layer is one scale and shift per channel, all else is shared (OAT
    paper, section 3.2; with adversarial training's two sets of them, arXiv:2210.04886). These are
    interpolated linearly between the ``knots``, and beyond the last they go on along its line.
    lambda in [0, 1] runs from the first knot to ``reach``.
    """

    Options = AffineOptions

    def check_parts(self) -> None:
        part = self.parts["network"]
        if not (isinstance(part, trainable.OneNetwork) and part.one_build):
            raise UserError(
                f"{self.info.method}: a model of method {part.info.method!r} is not one network "
                "whose norm layers alone depend on lambda; expected such as 'oat' or 'oats'"
            )
        for lam in self.options.knots:
            part.check_lambda(lam, part.info.trained_lambdas)
        if self.options.reach <= self.options.knots[0]:
            raise UserError(
                f"{self.info.method}: reach is {self.options.reach:g}; expected more than the "
                f"first of knots, {self.options.knots[0]:g}"
            )

    @property
    def options(self) -> AffineOptions:
        """The method's own part of the description."""
        return AffineOptions.model_validate(self.info.options)

    def place(self, lam: float) -> float:
        """Return where on the network's own dial lambda is: a share of the way to reach."""
        first = self.options.knots[0]
        return first + lam * (self.options.reach - first)

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at the share ``lam`` of the way from first knot to reach."""
        point, place = OperatingPoint(lam, width), self.place(lam)
        part, knots = self.parts["network"], self.options.knots
        # there the network's own, to the last bit
        own = [knot for knot in knots if abs(knot - place) <= SAME_LAMBDA]
        if own:
            return part.at(own[0], point.width)
        last = min(bisect_right(knots, place), len(knots) - 1)
        low, high = knots[last - 1], knots[last]
        share = (place - low) / (high - low)
        return between(part.at(low, point.width), part.at(high, point.width), share)
