"""AutoAttack's interface, which RobustBench calls, over pyautoattack (see `oat_bench.compat`)."""

from pathlib import Path
from typing import Any, Literal

import torch
from pyautoattack import AutoAttack as _AutoAttack
from torch import Tensor, nn

__all__ = ["AutoAttack"]
__path__: list[str] = []  #: a package, so that ``autoattack.state`` and the others can be asked for


class AutoAttack(_AutoAttack):  # type: ignore[misc]  # the base has no types
    """AutoAttack (arXiv:2003.01690); of its arguments verbose and log_path change nothing."""

    def __init__(
        self,
        model: nn.Module,
        norm: Literal["Linf", "L2", "L1"] = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: list[str] | tuple[str, ...] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device = "cuda",
        log_path: str | None = None,
    ) -> None:
        if is_tf_model:
            raise ValueError("is_tf_model=True is not supported by pyautoattack")
        how = {"attacks": list(attacks_to_run) or None, "norm": norm, "version": version}
        super().__init__(model, device=device, eps=eps, seed=seed, **how)
        self.verbose = verbose

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: Path | None = None,
    ) -> Any:
        """Attack images in batches of ``bs``; return them, with the labels found if asked."""
        x_adv, y_adv = super().run_standard_evaluation(
            x_orig, y_orig, batch_size=bs, state_path=state_path
        )
        return (x_adv, y_adv) if return_labels else x_adv
