"""Test images as an adversary leaves them at each operating point, and what the model says."""

import base64
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from oat_bench import datasets
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.selection import RANDOM_SUITE
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import TunableClassifier, check_fits
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.networks.drawn import steady
from oat_bench.results.entries import Entry
from oat_bench.results.records import Record
from oat_bench.run_folder import CHECKPOINT


class NotAtHandError(UserError):
    """What examples are made of was not given."""


COUNT = 8  #: how many images a page shows


def example_attack(random: bool) -> str:
    """Name the attack that makes them, of a model that is random or not."""
    return RANDOM_SUITE[0] if random else "pgd-20"


class Examples(NamedTuple):
    """Test images, and what becomes of each at every (lambda, width); images are data URIs."""

    originals: list[tuple[int, str, str]]  # place in the test split, image, its class
    #: the image as attacked, and the classes that are predicted without and with the attack
    attacked: dict[tuple[float, float], list[tuple[str, str, str]]]


def load_model(record: Record, data_dir: Path | None) -> tuple[TunableClassifier, Dataset]:
    """Load the checkpoint beside an entry, and its data set; an error says what is missing."""
    path = record.beside(CHECKPOINT)
    if not path.is_file():
        raise NotAtHandError("there is no checkpoint beside the entry")
    entry, classifier = record.entry, load(path)
    if classifier.fingerprint() != entry.model_fingerprint:
        raise UserError("the checkpoint beside the entry is of another model")
    data = _load_data(entry.dataset, data_dir, classifier.info.image_size)
    data = check_fits(classifier.info, data).called(entry.dataset)
    if entry.data_fingerprint not in ("", data.fingerprint()):
        raise UserError("the data set at hand is not the one that the entry is of")
    return classifier, data


@lru_cache(maxsize=1)
def _load_data(name: str, data_dir: Path | None, image_size: int | None) -> Dataset:
    if name in datasets.BUNDLED:
        return datasets.load(name)
    if data_dir is None:
        raise NotAtHandError("the data set was not at hand (--data-dir)")
    if name in datasets.DATASETS:
        return datasets.load(name, data_dir)
    folder = data_dir / name
    if Path(name).name != name or not folder.is_dir():
        raise NotAtHandError("the data set was not found in --data-dir")
    return datasets.image_folder(folder, image_size=image_size)


def attack(entry: Entry, classifier: TunableClassifier, data: Dataset) -> Examples:
    """Attack, under the entry's threat model, the images that any evaluation attacks first."""
    info = classifier.info
    name = example_attack(classifier.random)
    steps = [one.parameters.get("step_size") for one in entry.attacks if one.name == name]
    step_size = steps[0] if steps else info.threat.step_size
    bound = {"norm": entry.threat_model, "eps": entry.eps, "step_size": step_size}
    threat = Threat.model_validate(bound)
    seed = entry.seed if entry.attack_seed is None else entry.attack_seed
    pgd = prepare(attack_card(name), threat, n_classes=info.num_classes, seed=seed)
    ids = datasets.nested_order(data.test.labels)[:COUNT]
    x, y = data.test.inputs(ids), data.test.labels[ids]
    labels = [data.classes[label] for label in y.tolist()]
    attacked = {}
    for point in entry.operating_points:
        model = classifier.at(point.lam, point.width)
        x_adv = pgd(model, x, y, ids)
        with torch.no_grad():
            before, after = (
                [data.classes[label] for label in steady(model)(images).argmax(1).tolist()]
                for images in (x, x_adv)
            )
        shown = list(zip(map(_picture, x_adv), before, after, strict=True))
        attacked[point.lam, point.width] = shown
    return Examples(list(zip(ids.tolist(), map(_picture, x), labels, strict=True)), attacked)


def _picture(image: Tensor) -> str:
    """Return an image, [C, H, W] in [0, 1] with C 1 or 3, as the data URI of a PNG."""
    from torchvision.transforms.functional import to_pil_image

    buffer = BytesIO()
    to_pil_image((image.clamp(0, 1) * 255).round().byte().cpu()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
