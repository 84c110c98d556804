"""What lies in examples/ runs, and shows what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

ADAPTIVE = Path(__file__).parents[1] / "examples" / "adaptive.py"


def test_the_dial_answers_an_attack(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ADAPTIVE], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\D+?) +([01]) +([\d.]+)% +([\d.]+)%$", done.stdout, re.MULTILINE)
    calm, attacked, again = [
        (name, int(lam), float(dial), float(fixed)) for name, lam, dial, fixed in rows
    ]
    assert calm[1:] == again[1:]
    assert calm[1] == 0
    assert min(calm[2:]) > 95
    assert attacked[1] == 1
    assert attacked[2] > attacked[3] + 30
    served, first, cached = map(float, re.findall(r"([\d.]+) ms$", done.stdout, re.MULTILINE))
    assert cached < served < first
