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

    loss: Literal["cross-entropy", "trades", "mma"] = Field(
        default="cross-entropy", description="Loss of attacked images"
    )
    beta: Positive = Field(default=6.0, description="Of trades: weight of the KL term")
    eps_max: Positive | None = Field(
        default=None, description="Of mma: the longest margin to enlarge; absent: the threat's eps"
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

    epochs: Annotated[int, Field(ge=1)] = Field(description="Passes over the training images")
    batch_size: Annotated[int, Field(ge=2)] = Field(default=128, description="Images of a step")
    lr: Positive = Field(description="Learning rate of SGD, its highest")
    momentum: Annotated[Fraction, Field(ge=0, lt=1)] = Field(
        default=0.9, description="Momentum of SGD"
    )
    weight_decay: NonNegative = Field(default=5e-4, description="Weight decay of SGD")
    nesterov: bool = Field(default=False, description="Nesterov's momentum")
    lr_warmup_epochs: NonNegative = Field(
        default=0.0, description="Epochs over which the learning rate grows linearly; may be a part"
    )
    lr_schedule: Literal["cosine", "linear"] = Field(
        default="cosine", description="How the learning rate goes to 0 after its warm-up"
    )
    eps_warmup_epochs: NonNegative = Field(
        default=0.0, description="Epochs over which eps and step size of the attack grow linearly"
    )
    ema_decay: Annotated[Fraction, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Decay of a moving average of the weights; absent: no average"
    )
    attack_steps: Annotated[int, Field(ge=1)] = Field(
        default=7, description="Steps of PGD in training, under [threat]"
    )
    attack_steps_start: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Steps of PGD at the start, longer ones; their number grows to attack_steps "
        "over the training; absent: attack_steps throughout",
    )
    lambdas: Lambdas = Field(
        default=[0, 0.1, 0.2, 0.3, 0.4, 1], description="Lambda values to train at"
    )
    sampling: Literal["per-image", "per-batch"] = Field(
        default="per-image", description="Whether each image draws a lambda, or the whole batch one"
    )
    augmentation: Literal["none", "crop", "crop-flip"] = Field(
        default="none", description="Random crops of padded images, and horizontal flips"
    )
    crop_padding: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=4, description="Pixels added on each side before a crop"
    )
    lambda_sampling: Literal["list", "uniform"] = Field(
        default="list",
        description="list: training draws from lambdas; uniform: from [0, 1], and lambdas are the "
        "anchors of codes",
    )
    standard_share: Annotated[Fraction, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Share of lambda = 0; absent: that of one value of the list"
    )
    objective: ObjectiveCard = Field(
        default=ObjectiveCard(), description="Loss of attacked images, and its parameters"
    )
    loss_sampling: Literal["both", "one"] = Field(
        default="both",
        description="both: (1 - lambda) L_c + lambda L_a of each image, the paper's; one: L_a with "
        "probability lambda, else L_c, the same on average in less than half of the passes",
    )
    validate_every: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Epochs from one validation to the next; the last is validated too"
    )
    validation_examples: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Validation images, stratified; absent: all"
    )
    selection: Literal["last", "best"] = Field(
        default="last", description="Weights that are kept: the last, or the best in validation"
    )
    order: Literal["attack-first", "published"] = Field(
        default="attack-first",
        description="attack-first: as in the paper; published: clean images pass, and move batch "
        "norm's statistics, before the attack",
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto", description="Precision of training; auto: what is faster on the device"
    )
    compile: bool | None = Field(
        default=None, description="Whether torch.compile is used; absent: where it pays"
    )
    batch_norm: Literal["synchronised", "per-rank"] = Field(
        default="synchronised",
        description="Of training by several ranks: batch norm over all images of a step, or over "
        "each rank's own",
    )
    memory: Annotated[str, AfterValidator(_memory)] | None = Field(
        default=None,
        description='Most that the process may take, such as "4GiB": of a step as many images pass '
        "at once, and through batch norm, as fit; absent: a step is split only if it does not fit "
        "into what is free",
    )

    @model_validator(mode="after")
    def _keys_go_together(self) -> "TrainingCard":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        start, most = self.attack_steps_start or 1, self.attack_steps
        if start > most:
            raise ValueError(
                f"attack_steps_start is {start}; expected at most attack_steps, {most}"
            )
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
