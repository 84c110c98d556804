"""Models of RobustBench's zoo (Croce et al., arXiv:2010.09670), built by its own `load_model`."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import resources
from pathlib import Path

import torch
from robustbench.model_zoo import model_dicts
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
from robustbench.utils import load_model

from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.datasets.cifar import CLASSES_10, CLASSES_100
from oat_bench.errors import UserError, nearest, one_line
from oat_bench.methods.fixed import LAMBDA, Fixed
from oat_bench.results.robustbench import ZOO
from oat_bench.wrapping import check_outputs

#: where RobustBench keeps weights: models/DATASET/THREAT MODEL/NAME.pt, from where it is called
MODEL_DIR = Path("models")
#: of its leaderboards
EPS = {
    (BenchmarkDataset.cifar_10, ThreatModel.Linf): 8 / 255,
    (BenchmarkDataset.cifar_10, ThreatModel.L2): 0.5,
    (BenchmarkDataset.cifar_100, ThreatModel.Linf): 8 / 255,
    (BenchmarkDataset.imagenet, ThreatModel.Linf): 4 / 255,
}
_SAFE, _UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_TRIED = 2  #: images that a model is tried on


def load(name: str) -> TunableClassifier:
    """Load ``DATASET/THREAT MODEL/NAME``; RobustBench downloads the weights if they are nowhere.

    It has no dial. Its threat model is that of the leaderboard, its PGD steps are of eps / 4.

    Raises:
        UserError: if the zoo has no such model, or its weights cannot be had, or hold code.
    """
    dataset, threat, model = _find(name)
    module = _load(dataset, threat, model)
    size = 224 if dataset is BenchmarkDataset.imagenet else 32
    eps = EPS[dataset, threat]
    info = ModelInfo(
        method="fixed",
        dataset=dataset.value,
        classes=_classes(dataset),
        input_shape=(3, size, size),
        own_name=model,
        options={ZOO: name},
        trained_lambdas=[LAMBDA],
        dial=False,
        threat=Threat(norm=threat.value, eps=eps, step_size=eps / 4),
        seed=0,
        epochs=0,
        selection="none: as RobustBench has it",
        image_size=size if dataset is BenchmarkDataset.imagenet else None,
    )
    x = torch.rand((_TRIED, *info.input_shape), generator=torch.Generator().manual_seed(0))
    check_outputs(module, x, info.num_classes, f"robustbench:{name}")
    return Fixed(info, module)


def _find(name: str) -> tuple[BenchmarkDataset, ThreatModel, str]:
    known = {
        f"{dataset.value}/{threat.value}/{model}": (dataset, threat, model)
        for dataset, threat in EPS
        for model in model_dicts[dataset][threat]
    }
    if name in known:
        return known[name]
    if ThreatModel.corruptions.value in name:
        raise UserError(
            f"robustbench:{one_line(name)} is for corruptions, and has no eps to be attacked "
            "within; expected a model of threat model Linf or L2"
        )
    expected = "expected robustbench:DATASET/THREAT MODEL/NAME, as cifar10/Linf/Carmon2019Unlabeled"
    hint = nearest(name, known, expected)
    raise UserError(f"RobustBench has no model {one_line(name)!r}; {hint}")


def _load(dataset: BenchmarkDataset, threat: ThreatModel, model: str) -> torch.nn.Module:
    folder = MODEL_DIR / dataset.value / threat.value
    path = folder / f"{model}.pt"
    there = [path, *folder.glob(f"{model}.pt_m*.pt")]  # an ensemble has several
    before = any(file.is_file() for file in there)
    try:
        with _weights_only(), redirect_stdout(sys.stderr):
            module: torch.nn.Module = load_model(model, MODEL_DIR, dataset, threat)
    except Exception as error:
        unreadable = type(error).__name__ == "UnpicklingError"  # torch.load's
        code = re.search(r"GLOBAL (\S+)", str(error)) if unreadable else None
        said = f"{type(error).__name__}: {one_line(error)}"
        if code:
            why = f"holds {code[1]}, whose loading could run code"
            mend = "if you trust it, unpickle it yourself and save its state_dict in its place"
        elif before:
            said = "torch cannot read it" if unreadable else said
            why, mend = f"not the weights of {model} ({said})", "delete it to have it downloaded"
        else:
            why, mend = f"RobustBench cannot download it ({said})", "put it there yourself"
            if not model_dicts[dataset][threat][model]["gdrive_id"]:  # timm or torch.hub keeps it
                mend = "try again"
        raise UserError(f"{path}: {why}; {mend}") from error
    return module


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch.load refuse what could run code, whatever its version and its user's defaults."""
    before = {name: os.environ.pop(name, None) for name in (_SAFE, _UNSAFE)}
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        del os.environ[_SAFE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _classes(dataset: BenchmarkDataset) -> list[str]:
    if dataset is BenchmarkDataset.imagenet:  # WordNet's ids, which name ImageNet's folders
        ids = resources.files("robustbench") / "helper_files" / "imagenet_class_to_id_map.json"
        places: dict[str, int] = json.loads(ids.read_text())
        return sorted(places, key=places.__getitem__)
    return list(CLASSES_10 if dataset is BenchmarkDataset.cifar_10 else CLASSES_100)
