"""The ART engine: any of its evasion attack classes (adversarial-robustness-toolbox)."""

from inspect import Parameter, isclass, signature

import numpy as np
import torch
from torch import Tensor, nn

from oat_bench.attacks.engines import Attack, check_parameters
from oat_bench.errors import unknown


def _classes() -> dict[str, type]:
    import art.attacks.evasion as evasion
    from art.attacks.attack import EvasionAttack

    found = vars(evasion).items()
    return {name: c for name, c in found if isclass(c) and issubclass(c, EvasionAttack)}


def check(attack: Attack) -> None:
    """Refuse a class or parameter that ART does not have."""
    classes = _classes()
    name = attack.card.class_
    if name not in classes:
        raise unknown(f"class in attack card {attack.card.name!r} (engine art)", name, classes)
    # the first parameter is the estimator, under various names
    parameters = list(signature(classes[name]).parameters.values())[1:]
    required = [p.name for p in parameters if p.default is Parameter.empty]
    check_parameters(attack, [p.name for p in parameters], required)


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
    """Attack images with the card's class."""
    from art.estimators.classification import PyTorchClassifier

    kind = _classes()[attack.card.class_]
    estimator = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=attack.n_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )
    quiet = {"verbose": False} if "verbose" in signature(kind).parameters else {}
    seed = attack.seed + int(example_ids[0])
    torch.manual_seed(seed)
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        x_adv = kind(estimator, **(quiet | attack.parameters)).generate(
            x=x.cpu().numpy(), y=y.cpu().numpy()
        )
    finally:
        np.random.set_state(state)
    return torch.as_tensor(np.asarray(x_adv), dtype=torch.float32, device=x.device)
