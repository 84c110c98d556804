"""Dedicated networks: ordinary ones, trained at one lambda each."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import FastGradientMethod
from reporting import evaluate_and_report
from safetensors.torch import save as to_bytes

from oat_bench import OATClassifier, cli, load, run
from oat_bench.benchmark import BenchmarkCard
from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo
from oat_bench.errors import UserError
from oat_bench.evaluation import grid
from oat_bench.methods.pgd_at import PGDAT
from oat_bench.networks.card import NetworkCard
from oat_bench.tensors import checksum, unpack
from oat_bench.training import loop
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer
from oat_bench.training.pgd import pgd

CPU = torch.device("cpu")
LAMBDAS = [0.0, 0.4, 1.0]


@pytest.fixture(scope="module")
def card(brief) -> BenchmarkCard:
    changes = {"epochs": 2, "attack_steps": 1, "lambdas": LAMBDAS}
    training = brief.training.model_copy(update=changes)
    evaluation = brief.evaluation.model_copy(update={"lambdas": LAMBDAS, "attacks": "fgsm"})
    return brief.model_copy(update={"training": training, "evaluation": evaluation}).with_method(
        "pgd-at"
    )


@pytest.fixture(scope="module")
def folder(card, digits, tmp_path_factory):
    """The folder of a family that is trained; not to be written to."""
    path = tmp_path_factory.mktemp("family")
    run.train(card, digits, path, seed=0, device=CPU)
    return path


@pytest.fixture
def family(folder) -> PGDAT:
    return load(folder)


def describe(lambdas):
    return ModelInfo(
        method="pgd-at",
        dataset="digits",
        classes=[str(label) for label in range(10)],
        input_shape=(1, 8, 8),
        network=PGDAT.network_card(NetworkCard(architecture="wrn-10-1")),
        trained_lambdas=lambdas,
        interpolation="none",
        threat=Threat(),
        seed=0,
        epochs=1,
        selection="",
    )


def same_weights(one: PGDAT, other: PGDAT) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_each_network_is_an_ordinary_one(family, plain, digits):
    x = digits.test.inputs(slice(0, 50))
    for lam, network in family.networks.items():
        reference = plain("wrn-10-1", 10, 1)
        state = network.backbone.state_dict()
        reference.load_state_dict({name.replace(".bn_a", ""): v for name, v in state.items()})
        torch.testing.assert_close(family.at(lam)(x), reference.eval()(x), rtol=1e-4, atol=1e-4)


def test_all_start_from_the_same_weights_and_end_apart(family, digits):
    fresh = PGDAT.build(family.info)
    weights = [list(network.backbone.parameters()) for network in fresh.networks.values()]
    for others in weights[1:]:
        for one, other in zip(weights[0], others, strict=True):
            assert torch.equal(one, other)
    x = digits.test.inputs(slice(0, 50))
    logits = [family.at(lam)(x) for lam in LAMBDAS]
    assert not torch.allclose(logits[0], logits[1], atol=0.1)
    assert not torch.allclose(logits[1], logits[2], atol=0.1)


def test_lambda_0_is_standard_training(plain, digits):
    """An epoch against SGD on the plain network, written out with torch alone."""
    train = digits.train.take(torch.arange(96))
    network = PGDAT.build(describe([0.0])).networks[0.0]
    reference = plain("wrn-10-1", 10, 1)
    state = network.backbone.state_dict()
    reference.load_state_dict({name.replace(".bn_a", ""): v for name, v in state.items()})
    card = TrainingCard(
        epochs=1, batch_size=32, lr=0.05, lambdas=[0.0], attack_steps=3, weight_decay=1e-3
    )
    step, empty = ConditionalStep(network), train.take(torch.arange(0))
    run_ = Trainer(step, card, Threat(eps=0.3), train, empty, seed=2)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    reference.train()
    for step, index in enumerate(run_._batches(0, 0)):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 3))
        loss = F.cross_entropy(reference(train.inputs(index)), train.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run_.train(show=False)
    trained = network.backbone.state_dict()
    for name, value in reference.state_dict().items():
        name = next(n for n in trained if n.replace(".bn_a", "") == name)
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("lam", [0.4, 1.0])
def test_a_step_at_fixed_lambda_is_equation_1(plain, digits, lam):
    train = digits.train.take(torch.arange(32))
    network = PGDAT.build(describe([lam])).networks[lam]
    reference = plain("wrn-10-1", 10, 1)
    state = network.backbone.state_dict()
    reference.load_state_dict({name.replace(".bn_a", ""): v for name, v in state.items()})
    card = TrainingCard(
        epochs=1, batch_size=32, lr=0.1, lambdas=[lam], momentum=0, weight_decay=0, attack_steps=2
    )
    threat = Threat(eps=0.3, step_size=0.1)
    step, empty = ConditionalStep(network), train.take(torch.arange(0))
    run_ = Trainer(step, card, threat, train, empty, seed=2)
    index = next(run_._batches(0, 0))
    loss = run_._step(index)

    x, y = train.inputs(index), train.labels[index]
    seed = loop.generator(2, 0).initial_seed()
    x_adv = pgd(
        reference.eval(), x, y, eps=0.3, step_size=0.1, steps=2, example_ids=index, seed=seed
    )
    # batch norm sees the clean and the attacked images, at lambda = 1 too
    clean, attacked = reference.train()(torch.cat([x, x_adv])).chunk(2)
    expected = (1 - lam) * F.cross_entropy(clean, y) + lam * F.cross_entropy(attacked, y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    trained = dict(network.backbone.named_parameters())
    for name, start in reference.named_parameters():
        name = next(n for n in trained if n.replace(".bn_a", "") == name)
        torch.testing.assert_close(
            trained[name].detach(), start.detach() - 0.1 * start.grad, rtol=1e-4, atol=1e-5
        )


# --- between the trained lambda there is nothing


@pytest.mark.parametrize("lam", [0.15, 0.39, 0.999])
def test_a_lambda_that_was_not_trained_says_which_were(family, lam):
    with pytest.raises(UserError) as caught:
        family.at(lam)
    message = str(caught.value)
    assert message.startswith(f"lambda {lam:g} was not trained")
    assert message.endswith("for each of lambda 0, 0.4, 1, and nothing between")


def test_a_lambda_in_float32_is_the_trained_one(family, digits):
    x = digits.test.inputs(slice(0, 5))
    assert torch.equal(family.at(float(np.float32(0.4)))(x), family.at(0.4)(x))


@pytest.mark.parametrize("point", [(1.5, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.4, 0.5)])
def test_points_out_of_range(family, point):
    with pytest.raises(ValueError, match=r"expected a number|only width 1"):
        family.at(*point)


def test_an_evaluation_between_is_refused_before_anything_runs(
    family, card, digits, tmp_path, monkeypatch
):
    between = card.model_copy(
        update={"evaluation": card.evaluation.model_copy(update={"lambdas": [0.0, 0.15, 1.0]})}
    )
    monkeypatch.setattr(grid, "evaluate", None)
    with pytest.raises(UserError, match=r"^pgd-at: lambda 0\.15 was not trained.*--lambda$"):
        evaluate_and_report(family, between, digits, [], tmp_path, command="", device=CPU)


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_the_command_line_refuses_it_too(
    command, folder, tmp_path, brief_toml, monkeypatch, capsys
):
    """The brief card's own lambda hold 0.2, which the card does not train."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "brief.toml").write_text(brief_toml)
    monkeypatch.setattr(run, "train", None)
    arguments = {
        "run": ["run", "--method", "pgd-at"],
        "evaluate": ["evaluate", "--model", str(folder)],
    }[command]
    with pytest.raises(UserError, match=r"lambda 0\.2 was not trained"):
        cli.cli([*arguments, "--benchmark", "brief.toml"], standalone_mode=False)
    assert not (tmp_path / "runs").exists()


# --- the run


def test_the_folder_holds_one_checkpoint_one_log_and_each_state(folder, family):
    names = [f"lambda-{lam!r}" for lam in LAMBDAS]
    files = {"card.toml", "checkpoint.safetensors", "log.csv", "splits.json"}
    assert {path.name for path in folder.iterdir()} == {*files, *names}
    for name in names:
        assert {p.name for p in (folder / name).iterdir()} == {"training.safetensors", "log.csv"}
    log = pd.read_csv(folder / "log.csv")
    assert log["network"].to_list() == [name for name in names for _ in range(2)]
    assert log["epoch"].to_list() == [1, 2] * 3
    for lam, name in zip(LAMBDAS, names, strict=True):
        rows = log[log["network"] == name]
        assert rows[[f"SA@{lam:g}", f"RA@{lam:g}"]].notna().all(axis=None)
    assert family.info.trained_lambdas == LAMBDAS
    assert family.info.interpolation == "none"
    assert family.info.network.film == "none"


def test_a_family_broken_in_the_middle_goes_on_there(card, digits, folder, tmp_path, monkeypatch):
    steps, step = [], Trainer._step
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)

    def counting(self, index):
        if len(steps) == stops[0]:
            del stops[0]
            raise KeyboardInterrupt
        steps.append(self.card.lambdas[0])
        return step(self, index)

    monkeypatch.setattr(Trainer, "_step", counting)
    per_network = (
        2
        * Trainer(
            PGDAT.build(describe([0.0])).members()[0].step,
            card.training,
            card.threat,
            digits.train,
            digits.validation,
        ).steps_per_epoch
    )
    stops = [per_network // 2, per_network + 3, 2 * per_network, None]
    while len(stops) > 1:
        with pytest.raises(KeyboardInterrupt):
            run.train(card, digits, tmp_path, seed=0, device=CPU)
        assert not (tmp_path / "checkpoint.safetensors").exists()
    resumed = run.train(card, digits, tmp_path, seed=0, device=CPU)
    # no step was taken twice
    assert steps == [lam for lam in LAMBDAS for _ in range(per_network)]
    assert resumed.fingerprint() == load(folder).fingerprint()
    logs = [pd.read_csv(path / "log.csv").drop(columns="seconds") for path in (folder, tmp_path)]
    pd.testing.assert_frame_equal(*logs)


def test_the_state_of_one_network_is_not_taken_for_another(card, digits, tmp_path, folder):
    state = (folder / "lambda-0.4" / "training.safetensors").read_bytes()
    (tmp_path / "lambda-0.0").mkdir()
    (tmp_path / "lambda-0.0" / "training.safetensors").write_bytes(state)
    with pytest.raises(UserError, match="belongs to a run with another card"):
        run.train(card, digits, tmp_path, seed=0, device=CPU)


def test_what_the_family_does_not_use_is_no_part_of_its_identity(card, digits):
    other = card.model_copy(
        update={"network": card.network.model_copy(update={"encoding": "dct", "film": "published"})}
    )
    assert run.training_identity(other, digits, 0) == run.training_identity(card, digits, 0)


def test_a_family_is_evaluated_at_its_lambda(family, card, digits, tmp_path):
    attacks = run.prepare_attacks(card, 10, 0)
    report = evaluate_and_report(family, card, digits, attacks, tmp_path, command="", device=CPU)
    assert [result.lam for result in report.points] == LAMBDAS
    x, y = digits.test.inputs(), digits.test.labels
    ids = run.choose_examples(digits, card.evaluation.n_examples)
    for result in report.points:
        right = family.at(result.lam)(x[ids]).argmax(1) == y[ids]
        assert result.clean_acc == pytest.approx(100 * right.double().mean().item())
    entry = json.loads((tmp_path / "entry.json").read_text())
    assert entry["method"] == "pgd-at"
    assert [point["trained"] for point in entry["operating_points"]] == [True] * 3


# --- the estimator


def test_the_estimator_moves_within_the_family(family, digits):
    x, y = digits.test.inputs(slice(0, 30)).numpy(), digits.test.labels[:30].numpy()
    classifier = OATClassifier(family)
    for lam in LAMBDAS:
        expected = family.at(lam)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(classifier.predict(x, lam=lam), expected, rtol=1e-4, atol=1e-5)
    mixed = np.resize(LAMBDAS, 30)
    each = np.stack([classifier.predict(x[i : i + 1], lam=mixed[i])[0] for i in range(30)])
    np.testing.assert_allclose(classifier.predict(x, lam=mixed), each, rtol=1e-4, atol=1e-4)
    with classifier.operating_point(0.4):
        x_adv = FastGradientMethod(classifier, eps=0.2).generate(x, y)
    expected = pgd(
        family.at(0.4),
        torch.from_numpy(x),
        torch.from_numpy(y),
        eps=0.2,
        step_size=0.2,
        steps=1,
        random_start=False,
    )
    np.testing.assert_allclose(x_adv, expected.numpy(), atol=1e-6)
    with pytest.raises(UserError, match=r"0\.7 was not trained"):
        classifier.lam = 0.7
    assert classifier.lam == 1.0
    with pytest.raises(ValueError, match="not possible with a model of method 'pgd-at'"):
        classifier.fit(x, y)


# --- the checkpoint


def forged(folder, tmp_path, change_info=None, change_weights=None):
    tensors, header = unpack(folder / "checkpoint.safetensors")
    info = json.loads(header["oat_bench"])["info"] | (change_info or {})
    tensors = change_weights(tensors) if change_weights else tensors
    content = json.dumps({"info": info, "sha256": checksum(info, tensors)})
    path = tmp_path / "forged.safetensors"
    path.write_bytes(to_bytes(tensors, {"oat_bench": content}))
    return path


def test_the_forgery_is_a_checkpoint_when_nothing_is_changed(folder, family, tmp_path):
    assert same_weights(load(forged(folder, tmp_path)), family)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"trained_lambdas": [0, 0.4]}, "weights of no lambda"),
        ({"trained_lambdas": [0, 0.4, 0.5, 1]}, r"no weights of lambda 0\.5"),
        ({"trained_lambdas": [i / 10**5 for i in range(10**5)]}, "no weights of lambda 1e-05"),
        ({"method": "oat"}, "not a checkpoint"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(folder, tmp_path, info, words):
    with pytest.raises(UserError, match=words):
        load(forged(folder, tmp_path, info))


def test_weights_under_another_lambda_are_refused(folder, tmp_path):
    def exchange(tensors):
        names = {"lambda-0.4": "lambda-1.0", "lambda-1.0": "lambda-0.4"}
        moved = {}
        for name, value in tensors.items():
            prefix = next((p for p in names if name.startswith(f"{p}.")), None)
            moved[name.replace(prefix, names[prefix]) if prefix else name] = value
        return moved

    with pytest.raises(UserError, match="lambda of the weights are not those"):
        load(forged(folder, tmp_path, change_weights=exchange))


def test_a_missing_or_additional_weight_is_refused(folder, tmp_path):
    name = "lambda-0.4.backbone.conv1.weight"
    with pytest.raises(UserError, match=r"conv1\.weight"):
        load(
            forged(
                folder,
                tmp_path,
                change_weights=lambda t: {k: v for k, v in t.items() if k != name},
            )
        )
    with pytest.raises(UserError, match="extra"):
        load(forged(folder, tmp_path, change_weights=lambda t: t | {"extra": t[name].clone()}))
