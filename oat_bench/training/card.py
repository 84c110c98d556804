"""Training cards: the recipe, and the loss of attacked images."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from oat_bench.cards import Card, Fraction, Lambdas, NonNegative, Positive, first

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?([MG])i?B")


def in_bytes(memory: str) -> int:
    """Return the bytes of a size such as ``4GiB`` or ``800MB``; ValueError if it is none."""
    match = _MEMORY.fullmatch(memory)
    if not match:
        raise ValueError('expected a size such as "4GiB" or "800MiB"')
    base = 1024 if "i" in memory else 1000
    return int(float(match[1]) * base ** (2 if match[2] == "M" else 3))


def _memory(value: str) -> str:
    in_bytes(value)
    return value


class ObjectiveCard(Card):
    """The form of L_a, the loss of attacked images; `oat_bench.training.objectives` has each."""

    first_keys = first("loss")

    loss: Literal["cross-entropy", "trades", "mma"] = "cross-entropy"
    beta: Positive = Field(default=6.0, description="trades: weight of the KL term")
    eps_max: Positive | None = (
        None  #: mma: the longest margin to enlarge; the threat's eps if absent
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"loss": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _parameters_are_of_the_loss(self) -> "ObjectiveCard":
        for key, loss in (("beta", "trades"), ("eps_max", "mma")):
            if key in self.model_fields_set and self.loss != loss:
                raise ValueError(f'{key} is of loss = "{loss}", not of "{self.loss}"')
        return self


class TrainingCard(Card):
    """The recipe: OAT's Algorithm 1, attack first, by SGD with a cosine schedule."""

    first_keys = first(
        "epochs batch_size lr momentum weight_decay nesterov lr_warmup_epochs eps_warmup_epochs "
        "ema_decay attack_steps lambdas sampling validate_every selection order precision compile"
    )

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive
    momentum: Annotated[Fraction, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    nesterov: bool = False
    lr_warmup_epochs: NonNegative = 0.0
    eps_warmup_epochs: NonNegative = 0.0
    ema_decay: Annotated[Fraction, Field(ge=0, lt=1)] | None = None
    attack_steps: Annotated[int, Field(ge=1)] = 7
    lambdas: Lambdas = Field(default=[0, 0.1, 0.2, 0.3, 0.4, 1])
    sampling: Literal["per-image", "per-batch"] = "per-image"
    augmentation: Literal["none", "crop", "crop-flip"] = "none"
    crop_padding: Annotated[int, Field(ge=0, le=1024)] = 4
    #: uniform: on [0, 1]; lambdas are then the anchors of codes
    lambda_sampling: Literal["list", "uniform"] = "list"
    #: share of lambda = 0; if absent that of one value of the list
    standard_share: Annotated[Fraction, Field(gt=0, lt=1)] | None = None
    objective: ObjectiveCard = ObjectiveCard()
    #: both: (1 - lam) L_c + lam L_a of each image, the paper's; one: L_a with probability lam, else
    #: L_c, which is the same on average and takes less than half of the passes
    loss_sampling: Literal["both", "one"] = "both"
    validate_every: Annotated[int, Field(ge=1)] = 1
    validation_examples: Annotated[int, Field(ge=1)] | None = None  #: stratified; absent: all
    selection: Literal["last", "best"] = "last"
    order: Literal["attack-first", "published"] = "attack-first"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool | None = Field(default=None, description="absent: where it pays")
    memory: Annotated[str, AfterValidator(_memory)] | None = Field(
        default=None,
        description='most that the process may take, such as "4GiB": of a step as many images pass '
        "at once, and through batch norm, as fit; absent: the step is split only if it does not "
        "fit in what is free",
    )

    @model_validator(mode="after")
    def _keys_go_together(self) -> "TrainingCard":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        ends = (self.lambdas[0], self.lambdas[-1])
        if self.lambda_sampling == "uniform" and ends != (0, 1):
            raise ValueError('lambda_sampling = "uniform" needs 0 and 1 among lambdas')
        if self.standard_share is not None and not ends[0] == 0 < ends[1]:
            raise ValueError("standard_share needs 0 and one value above it among lambdas")
        if (self.loss_sampling, self.order) == ("one", "published"):
            raise ValueError('loss_sampling = "one" has one pass; the published order has two')
        if (self.objective.loss, self.lambda_sampling, self.lambdas[-1]) == ("trades", "list", 1):
            raise ValueError(
                'objective "trades" has no labels at lambda = 1, where KL is all that is left; end '
                "lambdas below 1 (TRADES at beta alone is lambda = 0.5)"
            )
        return self
