"""One network, its folded layers interpolated, and extrapolated, between operating points."""

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import nn

from oat_bench.cards import Fraction, Lambdas
from oat_bench.classifier import SAME_LAMBDA, OperatingPoint
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.methods import trainable
from oat_bench.methods.parts import Combined, Source, Sources, between
from oat_bench.methods.turns import accuracies, even_turns, sample
from oat_bench.networks.line import TURNS


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


class DialOptions(AffineOptions):
    """The network, how far the dial may go, and what its even turns are found on."""

    knots: Annotated[Lambdas, Field(min_length=2)] = Field(
        default=[0.0, 0.1, 0.2, 0.3, 0.4, 1.0],
        description="lambda values of the network, ascending",
    )
    reach: Annotated[Fraction, Field(gt=0, le=4)] = Field(
        default=1.75, description="how far it may go on the network's own dial"
    )
    images: Annotated[int, Field(ge=100)] = Field(
        default=1000, description="validation images, stratified; all if there are fewer"
    )
    turns: Annotated[list[float], Field(min_length=2)] | None = Field(
        default=None, description="places at even lambda from 0 to 1; absent: found on the images"
    )


class AffineDial(AffineInterpolation):
    """The same in even turns: from the highest SA to the highest RA, found on validation images."""

    Options = DialOptions

    @property
    def options(self) -> DialOptions:
        """The method's own part of the description."""
        return DialOptions.model_validate(self.info.options)

    def place(self, lam: float) -> float:
        """Return where on the network's own dial lambda is."""
        if (turns := self.options.turns) is None:
            raise UserError(f"{self.info.method}: its turns are not found; call fit(data)")
        return float(np.interp(lam, np.linspace(0, 1, len(turns)), turns))

    def fit(self, data: Dataset) -> str:
        """Measure SA and RA along the network's dial, and choose the places of even turns."""
        options = self.options
        if options.turns is not None:
            return "none: not trained; turns as given"
        held_out = sample(data.validation, options.images).to(self.device)
        if not len(held_out):
            raise UserError(
                f"{self.info.method}: {data.name} has no validation images; give turns in [method]"
            )
        ends = pairwise([k for k in options.knots if k < options.reach] + [options.reach])
        places = [
            low + share * (high - low) for low, high in ends for share in (0, 0.25, 0.5, 0.75)
        ]
        places.append(options.reach)
        width = self.info.widths[0]
        points = [accuracies(self.at_place(p, width), held_out, self.info) for p in places]
        turns = even_turns(places, points, TURNS)
        self.info = self.info.model_copy(update={"options": self.info.options | {"turns": turns}})
        return (
            f"none: not trained; even turns from {turns[0]:.3g} to {turns[-1]:.3g} of the "
            f"network's own dial found on {len(held_out)} validation images"
        )
