"""The line of weights against its definition, and its dial from training to exported files."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from reporting import evaluate_and_report

import oat_bench
from oat_bench import load, run
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.methods.weight_line import LineStep, WeightLine
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.line import KNOTS, LineNetwork
from oat_bench.randomness import uniform
from oat_bench.results.entries import Entry
from oat_bench.training.card import TrainingCard
from oat_bench.training.objectives import Budget
from oat_bench.training.pgd import pgd
from oat_bench.training.step import Batch, Setting

CPU = torch.device("cpu")
CARD = WeightLine.network_card(NetworkCard(architecture="wrn-10-1"))


def images(n, seed=0):
    return torch.rand((n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    """A network whose numbers all matter."""
    made = LineNetwork(CARD, 4, 1, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
        for name, buffer in made.named_buffers():
            if "running" in name:
                buffer.add_(0.5 * torch.rand(buffer.shape, generator=draw))
    return made.eval()


def logits_by_hand(state, x, t, training=False):
    """WRN-10-1 written out, with the weights W0 + 1.5 (t - 1/2) D of a place."""

    def weight(name):
        return state[f"backbone.{name}"] + 1.5 * (t - 0.5) * state[f"backbone.{name}_slope"]

    def row(name):
        rows = state[f"backbone.{name}"]
        return torch.stack(
            [
                torch.from_numpy(np.array(np.interp(t, KNOTS, column))).float()
                for column in rows.detach().T
            ]
        )

    def norm(name, h):
        statistics = row(f"{name}.running_mean"), row(f"{name}.running_var")
        affine = weight(f"{name}.weight"), weight(f"{name}.bias")
        return F.relu(F.batch_norm(h, *statistics, *affine, training=training))

    h = F.conv2d(x, weight("conv1.weight"), padding=1)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}.blocks.0", 1 if stage == 1 else 2
        active = norm(f"{block}.norm1", h)
        out = F.conv2d(active, weight(f"{block}.conv1.weight"), stride=stride, padding=1)
        out = F.conv2d(norm(f"{block}.norm2", out), weight(f"{block}.conv2.weight"), padding=1)
        if stage > 1:
            h = F.conv2d(active, weight(f"{block}.shortcut.weight"), stride=stride)
        h = h + out
    return F.linear(norm("norm", h).mean((2, 3)), weight("linear.weight"), weight("linear.bias"))


@pytest.mark.parametrize("t", [-0.25, 0.0, 0.1, 0.5, 1.0, 1.3])
def test_at_a_place_it_is_the_network_with_the_weights_of_the_line(network, t):
    x = images(5)
    expected = logits_by_hand(network.state_dict(), x, t)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(network.at(t)(x), expected, **close)
    torch.testing.assert_close(network.unfolded(t)(x), expected, **close)
    torch.testing.assert_close(network(x, t), expected, **close)
    # each image at a place of its own
    mixed = network(x, torch.tensor([0.0, t, 1.0, t, 0.5]))
    torch.testing.assert_close(mixed[[1, 3]], expected[[1, 3]], **close)
    torch.testing.assert_close(mixed[4:], network.at(0.5)(x[4:]), **close)


def test_a_step_attacks_two_halves_within_radii_of_their_own(network):
    x, y = images(7, 2), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    ids, seed, budget = torch.tensor([5, 3, 9, 2, 7, 4, 8]), 11, Budget("Linf", 0.1, 0.04, 3)
    step = LineStep(network)
    step.ready(Setting(TrainingCard(epochs=1, lr=0.1), Threat(), 0, CPU, "float32", False))
    state = {k: v.detach().clone().requires_grad_() for k, v in network.state_dict().items()}
    low, high = uniform(torch.zeros(1), (2,), 0, 2)[0].tolist()
    places = max(0.6 * low - 0.1, 0.0), min(0.6 * high + 0.5, 1.0)
    frozen = [network.at(t) for t in places]

    network.train()
    total = sum(step.losses(Batch(x, y, ids, ids, slice(None), 0, seed, budget)))
    total.backward()

    expected = 0.0
    for t, plain, some in zip(places, frozen, (slice(0, 4), slice(4, 7)), strict=True):
        own = {"eps": t * 0.1, "step_size": t * 0.04, "steps": 3}
        x_adv = pgd(plain, x[some], y[some], example_ids=ids[some], seed=seed, **own)
        logits = logits_by_hand(state, x_adv, t, training=True)
        expected = expected + F.cross_entropy(logits, y[some], reduction="sum") / 7
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-3, atol=1e-5)


def test_statistics_move_at_the_two_knots_around_a_place(network):
    norm, x = network.backbone.stage1.blocks[0].norm1, images(6)
    before = norm.running_mean.clone()
    network.train()(x, 0.1)
    h = F.conv2d(x, network.backbone.conv1.moved("weight", 1.5 * (0.1 - 0.5)), padding=1)
    mean = h.mean((0, 2, 3))
    low, high = KNOTS.index(0.0), KNOTS.index(0.25)
    for knot, share in ((low, 0.06), (high, 0.04)):
        expected = before[knot] + share * (mean - before[knot])
        torch.testing.assert_close(norm.running_mean[knot], expected)
    others = [k for k in range(len(KNOTS)) if k not in (low, high)]
    assert torch.equal(norm.running_mean[others], before[others])


@pytest.fixture(scope="module")
def trained(brief, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    training = brief.training.model_copy(update={"epochs": 2, "attack_steps": 2})
    card = brief.model_copy(update={"training": training}).with_changes(
        {"method": {"name": "weight-line", "images": 100, "statistics": 100}}
    )
    return run.train(card, digits, folder, seed=0, device=CPU), folder


def test_a_trained_dial_is_in_the_checkpoint(trained, digits):
    model, folder = trained
    again = load(folder)
    turns = again.network.turns
    assert torch.equal(turns, model.network.turns)
    assert bool((turns.diff() > 0).all())
    assert not torch.equal(turns, again.network.lambdas)
    assert "even turns from place" in again.info.selection
    assert again.info.trained_at(0.123)
    x = digits.test.inputs(slice(0, 6))
    lam = torch.tensor([0.0, 0.3, 0.3, 1.0, 0.77, 0.0])
    expected = torch.cat([again.at(float(one))(x[i, None]) for i, one in enumerate(lam)])
    torch.testing.assert_close(again.logits(x, lam), expected, rtol=1e-4, atol=1e-4)
    assert again.place(0.0) == pytest.approx(float(turns[0]))
    assert again.place(0.075) == pytest.approx(float(turns[1:3].mean()), abs=1e-6)


def test_entries_and_tables_say_the_place_behind_a_lambda(trained, brief, digits, tmp_path):
    model, _ = trained
    measures = {"lambdas": [0.0, 0.37, 1.0], "attacks": "fgsm", "n_examples": 20}
    card = brief.model_copy(
        update={"evaluation": brief.evaluation.model_copy(update=measures | {"fewer_examples": {}})}
    )
    attacks = run.prepare_attacks(card, 10, 0)
    evaluate_and_report(model, card, digits, attacks, tmp_path, command="", device=CPU)
    points = Entry.read(tmp_path / "entry.json").operating_points
    assert [point.place for point in points] == [model.place(lam) for lam in (0.0, 0.37, 1.0)]
    assert all(point.trained for point in points)
    assert f"{model.place(0.37):.3g}" in (tmp_path / "table.md").read_text()
    assert f"{model.place(0.37):.4g}" in (tmp_path / "table.csv").read_text()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_lambda_is_an_input_of_an_exported_file(trained, kind, tmp_path):
    model, _ = trained
    path = tmp_path / f"dynamic.{kind}"
    oat_bench.export(model, path, lam=None)
    x, lam = images(4), torch.tensor([0.0, 0.07, 0.5, 1.0])
    expected = torch.cat([model.at(float(one))(x[i, None]) for i, one in enumerate(lam)])
    if kind == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": x.numpy(), "lam": lam.numpy()})
        found = torch.from_numpy(found)
    else:
        found = torch.export.load(path).module()(x, lam)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(oat_bench.load(path).at(0.07)(x), model.at(0.07)(x))


def test_an_estimator_predicts_attacks_and_trains(trained, digits):
    estimator = oat_bench.OATClassifier(
        WeightLine.from_state(trained[0].info, trained[0].state_dict())
    )
    x = digits.test.inputs(slice(0, 32)).numpy()
    y = digits.test.labels[:32].numpy()
    assert estimator.at(0.4).predict(x).shape == (32, 10)
    estimator.fit(x, y, batch_size=16, nb_epochs=1)
    assert estimator.tunable.info.trained_at(0.5)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("order", "published", "training.order is 'published'"),
        ("standard_share", 0.3, "training.standard_share is 0.3"),
        ("sampling", "per-batch", "training.sampling is 'per-batch'"),
        ("lambdas", [0.1, 1.0], "expected 0 to 1"),
    ],
)
def test_a_recipe_that_it_has_no_place_for_is_refused(brief, key, value, said):
    training = brief.training.model_copy(update={key: value})
    with pytest.raises(UserError, match=said):
        brief.model_copy(update={"training": training}).with_method("weight-line")
