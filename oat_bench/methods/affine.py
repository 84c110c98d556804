"""One network, its folded layers interpolated, and extrapolated, between operating points."""

from bisect import bisect_right
from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from oat_bench.cards import Fraction, Lambdas
from oat_bench.classifier import SAME_LAMBDA, OperatingPoint
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.methods.parts import Combined, Source, Sources, between
from oat_bench.methods.turns import Turning, turned


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

    Options: ClassVar[type[Sources]] = AffineOptions

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
    def options(self) -> "AffineOptions | DialOptions":
        """The method's own part of the description."""
        return AffineOptions.model_validate(self.info.options)

    def place(self, lam: float) -> float:
        """Return where on the network's own dial lambda is: a share of the way to reach."""
        first = self.options.knots[0]
        return first + lam * (self.options.reach - first)

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the plain network at `place`."""
        point = OperatingPoint(lam, width)
        return self.at_place(self.place(point.lam), point.width)

    def at_place(self, place: float, width: float) -> nn.Module:
        """Return the plain network at a place on the network's own dial, or beyond its end."""
        part, knots = self.parts["network"], self.options.knots
        # there the network's own, to the last bit
        own = [knot for knot in knots if abs(knot - place) <= SAME_LAMBDA]
        if own:
            return part.at(own[0], width)
        last = min(bisect_right(knots, place), len(knots) - 1)
        low, high = knots[last - 1], knots[last]
        share = (place - low) / (high - low)
        return between(part.at(low, width), part.at(high, width), share)


class DialOptions(Turning, Sources):
    """The network, between which of its lambda values it is bridged, and the dial."""

    network: Source
    knots: Annotated[Lambdas, Field(min_length=2)] = Field(
        default=[0.0, 0.1, 0.2, 0.3, 0.4, 1.0],
        description="lambda values of the network, ascending",
    )

    def sources(self) -> dict[str, Source]:
        return {"network": self.network}


class AffineDial(AffineInterpolation):
    """The same in even turns: from the highest SA to the highest RA, found on validation images."""

    Options = DialOptions

    @property
    def options(self) -> DialOptions:
        """The method's own part of the description."""
        return DialOptions.model_validate(self.info.options)

    def check_parts(self) -> None:
        super().check_parts()
        turns, first = self.options.turns, self.options.knots[0]
        if turns is not None and turns[0] < first:
            raise UserError(
                f"{self.info.method}: turns begin at {turns[0]:g}; expected no less than the first "
                f"of knots, {first:g}"
            )

    def place(self, lam: float) -> float:
        """Return where on the network's own dial lambda is."""
        if self.options.turns is None:
            raise UserError(f"{self.info.method}: its turns are not found; call fit(data)")
        return self.options.place(lam)

    def fit(self, data: Dataset) -> str:
        """Measure SA and RA along the network's dial, and choose the places of even turns."""
        if self.options.turns is not None:
            return "none: not trained; turns as given"
        if not len(held_out := data.validation):
            raise UserError(
                f"{self.info.method}: {data.name} has no validation images; give turns in [method]"
            )
        options, width = self.options, self.info.widths[0]
        found = partial(self.at_place, width=width)
        self.info, how = turned(self.info, options, held_out.to(self.device), options.knots, found)
        return f"none: not trained; {how}"
