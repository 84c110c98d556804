"""The registry, and every method of it from card to checkpoint."""

import pytest
import torch
from reporting import evaluate_and_report

from oat_bench import OATClassifier, cli, load, run, save
from oat_bench.benchmark import BenchmarkCard
from oat_bench.classifier import ModelInfo
from oat_bench.errors import UserError
from oat_bench.methods.oat import OAT, OATSingleBN
from oat_bench.methods.parts import Combined
from oat_bench.methods.trainable import TrainableClassifier
from oat_bench.networks.card import NetworkCard
from oat_bench.registry import METHODS
from oat_bench.results.entries import Entry

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def short(brief) -> BenchmarkCard:
    training = brief.training.model_copy(
        update={"epochs": 1, "attack_steps": 1, "lambdas": [0.0, 1.0]}
    )
    return brief.model_copy(update={"training": training})


#: those that have networks to train
TRAINED = [
    name
    for name, method in METHODS.items()
    if issubclass(method, TrainableClassifier) and not issubclass(method, Combined)
]


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_from_a_card_and_is_read_back(name, short, digits, tmp_path):
    card = short.with_method(name)
    trained = run.train(card, digits, tmp_path, seed=0, device=CPU)
    assert isinstance(trained, TrainableClassifier)
    again = load(tmp_path)
    assert type(again) is METHODS[name]
    assert again.info.method == name
    assert again.info.benchmark_card == run.training_identity(card, digits, 0)
    assert again.info.selection.startswith("last: epoch 1")
    x = digits.test.inputs(slice(0, 20))
    for lam in (0.0, 1.0):
        answers = []
        for model in (again, trained):
            torch.manual_seed(0)  # by which one draws that is random
            answers.append(model.at(lam)(x))
        # the layout in memory differs, and with it the rounding
        torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-5)
    assert not torch.equal(again.at(0.0)(x), again.at(1.0)(x))
    assert again.fingerprint() == trained.fingerprint()


def test_methods_have_training_identities_of_their_own(short, digits):
    identities = {run.training_identity(short.with_method(m), digits, 0) for m in TRAINED}
    assert len(identities) == len(TRAINED)


def test_single_bn_is_oat_with_one_batch_norm_and_nothing_else(short, digits, tmp_path):
    card = NetworkCard(architecture="wrn-10-1", encoding="dct", film="published")
    assert OATSingleBN.network_card(card) == card.model_copy(update={"norm": "single"})
    assert OAT.network_card(card) is card
    trained = run.train(short.with_method("oat-single-bn"), digits, tmp_path, seed=0, device=CPU)
    assert trained.info.network == short.network.model_copy(update={"norm": "single"})
    names = trained.state_dict()
    assert any("film" in name for name in names)
    assert any("bn_a" in name for name in names)
    assert not any("bn_c" in name for name in names)


def test_a_continuous_run_trains_every_lambda_and_its_report_says_so(short, digits, tmp_path):
    training = short.training.model_copy(
        update={"lambda_sampling": "uniform", "lambdas": [0.0, 0.5, 1.0]}
    )
    network = short.network.model_copy(update={"interpolation": "film"})
    evaluation = short.evaluation.model_copy(update={"lambdas": [0.0, 0.3], "attacks": "fgsm"})
    changes = {"training": training, "network": network, "evaluation": evaluation}
    card = short.model_copy(update=changes)
    trained = run.train(card, digits, tmp_path, seed=0, device=CPU)
    info = load(tmp_path).info
    assert (info.lambda_sampling, info.interpolation) == ("uniform", "film")
    assert info.bridge is None
    assert not trained.network.encoding.bridge
    assert info.trained_at(0.123)
    report = evaluate_and_report(
        trained, card, digits, run.prepare_attacks(card, 10, 0), tmp_path, command="", device=CPU
    )
    assert [point.trained for point in report.points] == [True, True]
    entry = Entry.model_validate_json((tmp_path / "entry.json").read_text())
    assert [point.trained for point in entry.operating_points] == [True, True]
    assert (entry.interpolation, entry.bridge) == ("film", None)
    assert "0.3 *" not in (tmp_path / "table.md").read_text()
    # dedicated networks have a list, whatever the card samples
    assert [
        m.recipe(training).lambda_sampling for m in METHODS["pgd-at"].build(info).members()
    ] == ["list"] * 3


RULES = ["linear-codes", "spherical-codes", "film"]


def test_one_checkpoint_serves_every_rule_of_interpolation(build_classifier, digits, tmp_path):
    original = build_classifier()
    x = digits.test.inputs(slice(0, 20))
    between, fingerprints = [], set()
    for rule in RULES:
        save(original.with_interpolation(rule), tmp_path / "c.safetensors")
        again = load(tmp_path / "c.safetensors")
        assert again.info.interpolation == again.info.network.interpolation == rule
        assert again.network.encoding.interpolation == rule
        for lam in again.info.trained_lambdas:
            assert torch.equal(again.at(lam)(x), original.at(lam)(x))
        between.append(again.at(0.3)(x))
        estimator = OATClassifier(again)
        logits = torch.from_numpy(estimator.predict(x.numpy(), lam=[0.3] * 20))
        torch.testing.assert_close(logits, between[-1], rtol=1e-4, atol=1e-4)
        fingerprints.add(again.fingerprint())
    assert len(fingerprints) == 3
    assert not torch.allclose(between[0], between[1], atol=1e-3)
    assert not torch.allclose(between[0], between[2], atol=1e-3)
    assert original.info.interpolation == "linear-codes"
    with pytest.raises(ValueError, match="unknown interpolation"):
        original.with_interpolation("cubic")


def test_the_command_line_evaluates_by_another_rule(build_classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(build_classifier(), tmp_path / "c.safetensors")
    base = "evaluate --model c.safetensors --attacks fgsm --n-examples 20 --lambda 0.3"
    for rule in RULES:
        cli.cli([*base.split(), "--interpolation", rule, "--out", rule], standalone_mode=False)
        entry = Entry.model_validate_json((tmp_path / rule / "entry.json").read_text())
        assert (entry.interpolation, entry.bridge) == (rule, "folded-affine")
    family = METHODS["pgd-at"]
    info = build_classifier().info.model_copy(update={"method": "pgd-at", "interpolation": "none"})
    info = info.model_copy(update={"network": family.network_card(info.network)})
    save(family.build(info), tmp_path / "family.safetensors")
    with pytest.raises(UserError, match="of method 'pgd-at' does not interpolate"):
        cli.cli(
            ["evaluate", "--model", "family.safetensors", "--interpolation", "film"],
            standalone_mode=False,
        )


def test_a_checkpoint_whose_rules_contradict_is_refused(build_classifier):
    info = build_classifier().info.model_dump()
    with pytest.raises(ValueError, match="interpolation is 'film', the network's is 'linear-c"):
        ModelInfo.model_validate(info | {"interpolation": "film"})
