"""Processes that were started together, by torchrun or whatever sets its variables."""

import os
from contextlib import suppress
from dataclasses import dataclass

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """This process among them; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  #: among those on this machine
    local_size: int = 1


def launch() -> Launch:
    """Return which process this is."""
    known = os.environ
    if not all(known.get(name) for name in _NEEDED) or known["WORLD_SIZE"] == "1":
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    defaults = vars(Launch()).values()
    return Launch(*(int(known.get(name, d)) for name, d in zip(names, defaults, strict=True)))


def first_to_speak() -> bool:
    """Whether no other process of torchrun's has said yet why all of them end."""
    if launch().size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    with suppress(RuntimeError):  # torchrun has gone
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(TCPStore(*place).add(f"oat-bench said why, {attempt}", 1) == 1)
    return True
