"""The model of scaling in docs/scale.md, against two real workers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_scheduler_is_simulated_beside_two_workers():
    ran = subprocess.run(
        [sys.executable, "benchmarks/scale.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    print(ran.stdout)
    found = re.search(r"one worker ([\d.]+) CPU s; two ([\d.]+), simulated ([\d.]+);", ran.stdout)
    alone, two, simulated = map(float, found.groups())
    # how near they come is for the page to say: machines differ, and are shared
    assert 0 < simulated < 0.75 * alone
    assert two > 0
