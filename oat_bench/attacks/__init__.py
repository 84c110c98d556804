"""Attack engines: one file for each library behind the attack cards."""

from oat_bench.attacks.engines import Attack, Run, prepare

__all__ = ["Attack", "Run", "prepare"]
