"""The ART engine: any of its evasion attack classes (adversarial-robustness-toolbox)."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isclass, signature
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from oat_bench.attacks import engines
from oat_bench.attacks.engines import Attack

DISTRIBUTION = "adversarial-robustness-toolbox"  #: whose version goes into results
_NORMS = {"Linf": np.inf, "L2": 2}  #: ART's names of the norms


def _classes() -> dict[str, type]:
    import art.attacks.evasion as evasion
    from art.attacks.attack import EvasionAttack

    found = vars(evasion).items()
    return {name: c for name, c in found if isclass(c) and issubclass(c, EvasionAttack)}


class _Float32(nn.Module):
    """The model, for attacks that compute in double precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.float())
        return logits


def check(attack: Attack) -> None:
    """Refuse a class, parameter or value that ART does not take."""
    classes = _classes()
    engines.check_class(attack, classes)
    # the first parameter is the estimator, under various names
    parameters = list(signature(classes[attack.class_]).parameters.values())[1:]
    engines.check_targeted(attack, "targeted" in [p.name for p in parameters])
    # ART writes logs to the folder that a summary writer names: a card must not choose it
    engines.check_parameters(attack, [p for p in parameters if p.name != "summary_writer"])
    _make(attack, engines.stand_in(attack.n_classes), (1, 1, 1), "cpu")


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
    """Attack images with the card's class."""
    generator = _make(attack, model, tuple(x.shape[1:]), "cpu" if x.device.type == "cpu" else "gpu")
    with _no_bars():
        x_adv = generator.generate(x=x.cpu().numpy(), y=y.cpu().numpy())
    return torch.as_tensor(np.asarray(x_adv), dtype=torch.float32, device=x.device)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Silence progress bars: classes that take no ``verbose`` run others that show theirs."""
    from tqdm.std import tqdm

    original = tqdm.__init__

    def silent(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **(kwargs | {"disable": True}))

    with patch.object(tqdm, "__init__", silent):
        yield


def _make(attack: Attack, model: nn.Module, input_shape: tuple[int, ...], device: str) -> Any:
    from art.estimators.classification import PyTorchClassifier

    kind = _classes()[attack.class_]
    shape = {"input_shape": input_shape, "nb_classes": attack.n_classes, "clip_values": (0.0, 1.0)}
    loss = nn.CrossEntropyLoss()
    estimator = PyTorchClassifier(_Float32(model), loss, **shape, device_type=device)
    parameters = attack.parameters | ({"targeted": True} if attack.targeted else {})
    if parameters.get("norm") in _NORMS:
        parameters["norm"] = _NORMS[parameters["norm"]]
    quiet = {"verbose": False} if "verbose" in signature(kind).parameters else {}
    return kind(estimator, **(quiet | parameters))
