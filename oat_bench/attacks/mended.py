"""APGD-T of torchattacks, which departs from its authors' code under L2, put right.

``docs/trust.md`` says how release 3.5.1 departs. `oat_bench.attacks.apgd` stands for the class but
where a gradient is a mean over several passes.
"""

from functools import partial
from typing import Any

import torchattacks
from torch import Tensor


class APGDT(torchattacks.APGDT):  # type: ignore[misc]  # the base has no types
    """APGD-T with a step size for each image, where torchattacks gives all the first one's."""

    loss = "dlr"  #: of the walk that it shares with APGD

    def attack_single_run(self, x_in: Tensor, y_in: Tensor) -> Any:
        """Walk as APGD does, whose steps are right, up the targeted loss (arXiv:2003.01690)."""
        if self.norm != "L2":
            return super().attack_single_run(x_in, y_in)
        target = self.get_logits(x_in).sort(dim=1)[1][:, -self.target_class]
        self.dlr_loss = partial(self.dlr_loss_targeted, y_target=target)
        return torchattacks.APGD.attack_single_run(self, x_in, y_in)
