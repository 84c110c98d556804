"""What lies in examples/ runs, and shows what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
ADAPTIVE = EXAMPLES / "adaptive.py"
NOTEBOOK = EXAMPLES / "calibration.ipynb"


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


@pytest.fixture(scope="module")
def notebook():
    """The cells of the notebook, run from top to bottom; one that raises fails here."""
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(EXAMPLES)}}
    return NotebookClient(found, timeout=300, resources=where).execute()


def outputs(notebook, kind):
    """Return what cells print (``text``), or show of a media type, in order."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "text":
        return [output["text"] for output in found if output.output_type == "stream"]
    return [output["data"][kind] for output in found if kind in output.get("data", {})]


def test_the_notebook_chooses_a_point_that_holds_its_bar(notebook):
    (report,) = outputs(notebook, "text/markdown")
    lam, clean = re.search(r"Run it at lambda ([\d.]+): .* \(([\d.]+)% on 375", report).groups()
    assert 0 < float(lam) <= 1
    assert float(clean) > 95
    (used,) = [text for text in outputs(notebook, "text") if text.startswith("lambda ")]
    assert used.startswith(f"lambda {lam}: ")
    assert float(re.search(r"([\d.]+)% of 200", used)[1]) > 95


def test_the_notebook_shows_the_frontier_and_an_image_at_three_lambda(notebook):
    assert len(outputs(notebook, "image/png")) == 2


def test_the_notebook_on_disk_shows_what_it_shows_when_it_is_run():
    kept = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(outputs(kept, "image/png")) == 2
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr"]
