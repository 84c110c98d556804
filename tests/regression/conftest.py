"""A run that later models are compared with."""

import shutil
from pathlib import Path

import pytest
import torch

from oat_bench import run
from oat_bench.classifier import load


@pytest.fixture(scope="session")
def reported_folder(brief, digits, trained_folder, tmp_path_factory) -> Path:
    """The folder of a run with a report on all test images; not to be written to."""
    folder = tmp_path_factory.mktemp("baseline") / "run"
    shutil.copytree(trained_folder, folder)
    changes = {"attacks": "pgd-7", "n_examples": 800}
    evaluation = brief.evaluation.model_copy(update=changes)
    card = brief.model_copy(update={"evaluation": evaluation})
    attacks = run.prepare_attacks(card, 10, 0)
    device = torch.device("cpu")
    run.evaluate_and_report(
        load(folder), card, digits, attacks, folder, command="oat-bench run", device=device
    )
    return folder
