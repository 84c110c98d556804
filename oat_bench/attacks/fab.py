"""FAB, targeted at each class (Croce and Hein, arXiv:1907.02044): torchattacks' class.

With one restart it draws nothing: its outcomes belong to the example as they are.
"""

from typing import Literal

from torch import Tensor, nn

from oat_bench.attacks.card import Count, Number, Seed, Switch
from oat_bench.cards import Norm


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    multi_targeted: Literal[True],
    norm: Norm = "Linf",
    eps: Number = 8 / 255,
    steps: Count = 10,
    n_restarts: Literal[1] = 1,
    alpha_max: Number = 0.1,
    eta: Number = 1.05,
    beta: Number = 0.9,
    verbose: Switch = False,
    seed: Seed = 0,
    n_classes: Count = 10,
) -> Tensor:
    """Seek the nearest image of each of ``n_classes`` - 1 classes; inside the ball it is broken."""
    import torchattacks

    ball = {"norm": norm, "eps": eps, "steps": steps, "multi_targeted": True}
    walk = {"alpha_max": alpha_max, "eta": eta, "beta": beta, "n_classes": n_classes}
    attack = torchattacks.FAB(model, **ball, **walk)
    x_adv: Tensor = attack(x, y)
    return x_adv.detach()
