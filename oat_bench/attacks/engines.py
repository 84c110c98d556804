"""From an attack card to attacked images."""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from oat_bench.cards import AttackCard, Threat
from oat_bench.errors import UserError
from oat_bench.files import sha256

#: the module that runs each engine's cards, and the distribution whose version goes into results
ENGINES = {
    "oat_bench": ("oat_bench.attacks.in_house", "oat-bench"),
    "torchattacks": ("oat_bench.attacks.with_torchattacks", "torchattacks"),
    "art": ("oat_bench.attacks.with_art", "adversarial-robustness-toolbox"),
}
#: an attacked image may leave the ball by rounding, no more
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Attack:
    """A card made ready for one evaluation.

    Attributes:
        card: the card.
        threat: what bounds its perturbations.
        n_classes: of the model.
        seed: of the random numbers.
        parameters: the card's, every reference replaced.
    """

    card: AttackCard
    threat: Threat
    n_classes: int
    seed: int
    parameters: dict[str, Any]

    def fingerprint(self) -> str:
        """Hash of all that decides the attacked images of a given model and example."""
        library = f"{self.card.engine} {version(ENGINES[self.card.engine][1])}"
        parameters = repr(sorted(self.parameters.items()))
        bound = self.threat.model_dump_json(exclude={"step_size"})
        return sha256(
            self.card.class_, str(self.card.version), library, parameters, bound, str(self.seed)
        )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
        """Attack images.

        Args:
            model: plain, in eval mode: images to logits.
            x: images of shape [n, C, H, W] in [0, 1].
            y: labels of shape [n].
            example_ids: shape [n]; they own the random numbers of in-house attacks. Other libraries
                draw by batch: their generators are seeded by the first id.

        Returns:
            The attacked image where the attack kept to the threat model, else x: an attack that
            left the ball (DeepFool, Carlini and Wagner, ... minimise the norm) has not broken it.
        """
        engine = import_module(ENGINES[self.card.engine][0])
        with torch.random.fork_rng():
            x_adv: Tensor = engine.run(self, model, x, y, example_ids)
        return torch.where(self._allowed(x_adv, x)[:, None, None, None], x_adv, x)

    def _allowed(self, x_adv: Tensor, x: Tensor) -> Tensor:
        delta = (x_adv - x).flatten(1)
        order = float("inf") if self.threat.norm == "Linf" else 2
        size = torch.linalg.vector_norm(delta, order, dim=1)
        low, high = x_adv.flatten(1).amin(1), x_adv.flatten(1).amax(1)
        # false for NaN too
        allowed: Tensor = (
            (size <= self.threat.eps * (1 + TOLERANCE) + TOLERANCE)
            & (low >= -TOLERANCE)
            & (high <= 1 + TOLERANCE)
        )
        return allowed


def prepare(card: AttackCard, threat: Threat, *, n_classes: int, seed: int) -> Attack:
    """Make a card ready under a benchmark's threat model.

    Raises:
        UserError: if the card is for another norm, or its class or a parameter does not exist.
    """
    if card.norm is not None and card.norm != threat.norm:
        raise UserError(
            f"attack {card.name!r} is for {card.norm}, the benchmark's threat model is "
            f"{threat.norm}; leave it out with --attacks"
        )
    resolved = card.resolve(threat, n_classes=n_classes, seed=seed)
    attack = Attack(card, card.threat(threat), n_classes, seed, resolved)
    import_module(ENGINES[card.engine][0]).check(attack)
    return attack


def check_parameters(attack: Attack, known: list[str], required: list[str]) -> None:
    """Refuse parameters that the attack's class does not take, and missing ones.

    Raises:
        UserError: naming card and parameter.
    """
    from oat_bench.errors import nearest

    where = f"attack card {attack.card.name!r}: {attack.card.engine} class {attack.card.class_}"
    for key in attack.parameters:
        if key not in known:
            raise UserError(f"{where} takes no parameter {key!r}; {nearest(key, known)}")
    for key in required:
        if key not in attack.parameters:
            raise UserError(f"{where} needs parameter {key!r}; add it under [parameters]")
