"""Models of RobustBench's zoo, with weights that lie where it looks for them."""

import json
import os
from pathlib import Path

import pytest
import robustbench.utils
import torch
from robustbench.model_zoo import model_dicts
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

import oat_bench
from oat_bench.datasets import Dataset, Split
from oat_bench.datasets.cifar import CLASSES_10
from oat_bench.errors import UserError
from oat_bench.registry import DATASETS
from oat_bench.results.entries import Entry
from oat_bench.results.robustbench import robustbench_points
from oat_bench.statistics.accuracy import WORST
from oat_bench.zoo import robustbench as zoo

SMALL = "cifar10/Linf/Addepalli2022Efficient_RN18"


def network(place):
    dataset, threat, name = place.split("/")
    torch.manual_seed(3)
    return model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat)][name]["model"]().eval()


def put(place, content):
    path = Path("models", f"{place}.pt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of one's own, from which nothing is downloaded."""

    def no_network(*_):
        raise ConnectionError("no network\n  in tests")

    monkeypatch.chdir(tmp_path)
    for where in ("download_gdrive", "download_gdrive_new"):
        monkeypatch.setattr(robustbench.utils, where, no_network)
    for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def small():
    return network(SMALL)


@pytest.fixture
def there(small):
    """Saved as by DataParallel, as several of the zoo are."""
    return put(SMALL, {"state_dict": {f"module.{k}": v for k, v in small.state_dict().items()}})


@pytest.fixture
def photographs(monkeypatch):
    """A few images in CIFAR-10's place."""
    draw = torch.Generator().manual_seed(1)
    split = Split(
        torch.randint(0, 256, (20, 3, 32, 32), generator=draw, dtype=torch.uint8),
        torch.arange(20) % 10,
    )
    data = Dataset("cifar10", CLASSES_10, split.take(slice(0)), split.take(slice(0)), split)
    monkeypatch.setitem(DATASETS.registered, "cifar10", lambda _: data)
    return data


def test_a_model_is_that_of_robustbench(there, small):
    model = oat_bench.load(f"robustbench:{SMALL}")
    x = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.at(1.0)(x), small(x))
    info = model.info
    assert (info.method, info.dataset, info.dial, info.num_classes) == (
        "fixed",
        "cifar10",
        False,
        10,
    )
    assert (info.threat.norm, info.threat.eps) == ("Linf", 8 / 255)
    before = model.fingerprint()
    assert oat_bench.load(f"robustbench:{SMALL}").fingerprint() == before
    changed = dict(small.state_dict())
    changed["linear.bias"] = changed["linear.bias"] + 1e-3
    put(SMALL, changed)
    assert oat_bench.load(f"robustbench:{SMALL}").fingerprint() != before


def test_an_entry_says_whose_model_it_is(invoke, there, photographs):
    options = ["--attacks", "fgsm", "--n-examples", "20", "--out", "there"]
    code, out, err = invoke("evaluate", f"robustbench:{SMALL}", *options)
    assert (code, err) == (0, "table, entry, outcomes and figures in there\n")
    assert out.startswith("**cifar10, Addepalli2022Efficient\\_RN18, Linf eps 8/255**")
    entry = Entry.model_validate_json(Path("there/entry.json").read_text())
    assert entry.name.startswith("Efficient and Effective Augmentation Strategy")
    assert entry.authors == "Sravanti Addepalli, Samyak Jain, Venkatesh Babu Radhakrishnan"
    assert (entry.link, entry.venue) == ("https://arxiv.org/abs/2210.15318", "NeurIPS 2022")
    assert (entry.architecture, entry.footnote) == (
        "ResNet-18",
        "RobustBench's Addepalli2022Efficient_RN18.",
    )
    (point,) = entry.operating_points
    network, test = oat_bench.load(f"robustbench:{SMALL}").at(1.0), photographs.test
    theirs = robustbench.utils.clean_accuracy(network, test.inputs(), test.labels)
    assert point.clean_acc == pytest.approx(100 * theirs)


def test_the_threat_model_is_that_of_its_leaderboard(small):
    place = "cifar10/L2/Sehwag2021Proxy_R18"
    put(place, small.state_dict())
    threat = oat_bench.load(f"robustbench:{place}").info.threat
    assert (threat.norm, threat.eps, threat.step_size) == ("L2", 0.5, 0.125)


def test_imagenet_has_its_classes_in_robustbenchs_order():
    place = "imagenet/Linf/Salman2020Do_R18"
    whole = network(place)
    put(
        place, {k.removeprefix("model."): v for k, v in whole.state_dict().items() if "model." in k}
    )
    info = oat_bench.load(f"robustbench:{place}").info
    helpers = Path(robustbench.utils.__file__).parent / "helper_files"
    places = json.loads((helpers / "imagenet_class_to_id_map.json").read_text())
    assert {name: place for place, name in enumerate(info.classes)} == places
    assert (info.input_shape, info.image_size) == ((3, 224, 224), 224)
    assert info.threat.eps == 4 / 255


@pytest.mark.slow
def test_a_large_model():
    place = "cifar10/Linf/Carmon2019Unlabeled"
    wide = network(place)
    put(place, {"state_dict": {f"module.{k}": v for k, v in wide.state_dict().items()}})
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(oat_bench.load(f"robustbench:{place}").at(1.0)(x), wide(x))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10/Linf/Carmon2019Unlabelled", "did you mean cifar10/Linf/Carmon2019Unlabeled"),
        ("Carmon2019Unlabeled", "did you mean cifar10/Linf/Carmon2019Unlabeled"),
        ("cifar10/linf/Wong2020Fast", "did you mean cifar10/Linf/Wong2020Fast"),
        ("cifar10/corruptions/Standard", "is for corruptions, and has no eps"),
        ("imagenet/corruptions_3d/Standard_R50", "is for corruptions, and has no eps"),
        ("", "expected robustbench:DATASET/THREAT MODEL/NAME"),
        ("x\n/\x1b[1m", "expected robustbench:DATASET/THREAT MODEL/NAME"),
        ("../../etc/passwd", "expected robustbench:DATASET/THREAT MODEL/NAME"),
    ],
)
def test_an_unknown_name_is_one_line_before_any_download(invoke, monkeypatch, name, words):
    monkeypatch.setattr(zoo, "load_model", None)
    code, out, err = invoke("evaluate", f"robustbench:{name}", "--attacks", "fgsm")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not Path("models").exists()


class Runs:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("forced", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_weights_run_no_code(small, monkeypatch, forced):
    """Also where the user lets torch.load unpickle anything."""
    path = put(SMALL, {"state_dict": small.state_dict(), "more": Runs()})
    if forced:
        monkeypatch.setenv(forced, "1")
    before = dict(os.environ)
    with pytest.raises(
        UserError, match=r"RN18\.pt: holds posix\.mkdir, .* could run code"
    ) as error:
        oat_bench.load(f"robustbench:{SMALL}")
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()
    assert dict(os.environ) == before
    torch.load(path, weights_only=False)
    assert Path("ran").exists()  # it would have


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><p>Quota exceeded</p>", "torch cannot read it"),
        (b"", "EOFError"),
        ({"a": torch.zeros(2)}, "Missing key"),
        (None, "cannot download it .ConnectionError: no network in tests.; put it there"),
    ],
)
def test_what_is_no_weights_is_one_line(content, words):
    if content is not None:
        put(SMALL, content)
    with pytest.raises(UserError, match=rf"^models/{SMALL}\.pt: .*{words}") as error:
        oat_bench.load(f"robustbench:{SMALL}")
    assert "\n" not in str(error.value)


def test_the_leaderboards_are_robustbenchs():
    assert set(zoo.EPS) == {
        (dataset, threat)
        for dataset, threats in model_dicts.items()
        for threat in threats
        if threat is not ThreatModel.corruptions
    }


def test_our_copy_of_model_info_knows_the_zoo():
    """And the best known RA, which a stronger attack than AutoAttack may have found."""
    for (dataset, threat), eps in zoo.EPS.items():
        points = robustbench_points("package", dataset.value, threat.value)
        robust = [point.robust(WORST) for point in points]
        assert robust == sorted(robust, reverse=True)
        assert set(model_dicts[dataset][threat]) <= {point.id for point in points}
        assert {point.eps for point in points} <= {f"{eps * 255:g}/255", f"{eps:g}", "0.031"}
    by_id = {point.id: point for point in robustbench_points("package", "cifar10", "Linf")}
    # the numbers of https://robustbench.github.io
    carmon, kang = by_id["Carmon2019Unlabeled"], by_id["Kang2021Stable"]
    assert (carmon.clean_acc, carmon.robust("autoattack"), carmon.robust(WORST)) == (
        89.69,
        59.53,
        59.53,
    )
    assert (kang.robust("autoattack"), kang.robust(WORST)) == (71.28, 64.2)
