"""Even turns of a dial: on frontiers in closed form, and of a trained network."""

import numpy as np
import onnxruntime
import pytest
import torch
from reporting import evaluate_and_report

import oat_bench
from oat_bench import cli, run
from oat_bench.errors import UserError
from oat_bench.methods.dial import Dial
from oat_bench.methods.turns import accuracies, even_turns, sample
from oat_bench.networks.conditioning import Folded
from oat_bench.registry import METHODS
from oat_bench.results.entries import Entry


def test_even_turns_go_equal_ways_along_the_frontier():
    places = np.linspace(0, 1, 101)
    # a quarter of a circle, run through slowly, then faster: angle = places^2
    points = np.stack([np.cos(np.pi / 2 * places**2), np.sin(np.pi / 2 * places**2)], axis=1)
    turns = even_turns(places, 60 * points, 5)
    end = np.arctan(10) / (np.pi / 2)  # from where ten points of SA buy less than one of RA
    assert turns == pytest.approx(np.sqrt(end * np.linspace(0, 1, 5)), abs=0.01)


def test_even_turns_start_at_the_first_place_end_before_ra_costs_too_much_and_never_turn_back():
    places = [0.0, 0.1, 0.5, 0.6, 1.0, 1.2, 1.5]
    points = [[70, 1], [71, 2], [65, 20], [66, 19], [55, 30], [46, 31], [35, 31.5]]
    turns = even_turns(places, points, 11)
    assert (turns[0], turns[-1]) == (0.0, 1.2)  # 9 points of SA for one of RA, not 22
    assert np.all(np.diff(turns) > 0)
    # by isotonic means no turn between 0.5 and 0.6, where only chance lies
    assert not [turn for turn in turns if 0.51 < turn < 0.59]
    # a frontier of one point leaves the dial as it is
    assert even_turns([0, 0.5, 1], np.ones((3, 2)), 3) == pytest.approx([0, 0.5, 1])


def test_accuracies_are_those_of_the_attack(digits, trained_folder):
    model = oat_bench.load(trained_folder)
    some = sample(digits.validation, 60)
    sa, ra = accuracies(model.at(1.0), some, model.info)
    with torch.no_grad():
        right = model.at(1.0)(some.inputs(slice(None))).argmax(1) == some.labels
    assert sa == pytest.approx(100 * right.double().mean().item())
    assert 0 < ra < sa


@pytest.fixture(scope="module")
def dial(digits, trained_folder):
    """A trained OAT network, turned evenly."""
    network = {"network": oat_bench.load(trained_folder)}
    return oat_bench.combine("dial", network, digits, lambdas=[0, 0.5, 1], images=100)


def test_a_trained_network_is_turned_evenly_and_read_back(dial, digits, tmp_path):
    turns = dial.options.turns
    assert len(turns) == 21
    assert np.all(np.diff(turns) > 0)
    assert 0 <= turns[0] < turns[-1] <= 1.75
    assert "even turns from" in dial.info.selection
    oat_bench.save(dial, tmp_path / "dial.safetensors")
    again = oat_bench.load(tmp_path / "dial.safetensors")
    x, network = digits.test.inputs(slice(0, 9)), dial.parts["network"]
    for lam in (0.0, 0.33, 1.0):
        place = again.place(lam)
        assert place == pytest.approx(np.interp(20 * lam, np.arange(21), turns))
        torch.testing.assert_close(again.at(lam)(x), dial.at(lam)(x))
        if place <= 1:
            torch.testing.assert_close(again.at(lam)(x), network.at(place)(x))


def test_without_turns_there_is_no_dial(dial, digits):
    options = dial.info.options | {"turns": None}
    blank = Dial(dial.info.model_copy(update={"options": options}), dial.parts)
    with pytest.raises(UserError, match=r"call fit\(data\)"):
        blank.at(0.5)
    given = {"options": dial.info.options | {"turns": [0.0, 1.2]}}
    kept = Dial(dial.info.model_copy(update=given), dial.parts)
    assert kept.fit(digits) == "none: not trained; turns as given"
    assert kept.place(0.5) == pytest.approx(0.6)


@pytest.fixture(scope="module")
def oat_dial(brief, digits, tmp_path_factory):
    """OAT that was trained with a dial, and its folder."""
    folder = tmp_path_factory.mktemp("oat-dial")
    card = brief.with_changes({"method": {"name": "oat-dial", "images": 100}}).checked()
    return run.train(card, digits, folder, seed=0, device=torch.device("cpu")), folder


def test_training_is_oats_and_its_turns_are_in_the_checkpoint(oat_dial, trained_folder, digits):
    model, folder = oat_dial
    plain = oat_bench.load(trained_folder).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())
    again = oat_bench.load(folder)
    assert len(again.options.turns) == 21
    assert again.info.selection.startswith("last: epoch 4; even turns from")
    x = digits.test.inputs(slice(0, 5))
    for lam in (0.0, 0.21, 1.0):
        torch.testing.assert_close(again.at(lam)(x), model.at(lam)(x))


@pytest.fixture
def turned(oat_dial):
    """The same with turns that pass the bridge, the trained range and what lies beyond."""
    model, _ = oat_dial
    options = model.info.options | {"turns": [0.0, 0.25, 0.5, 0.8, 1.6]}
    info = model.info.model_copy(update={"options": options})
    return type(model).from_state(info, model.state_dict())


def test_beyond_the_last_lambda_folded_layers_go_on_along_their_line(turned, digits):
    x, network = digits.test.inputs(slice(0, 6)), turned.network
    folded = {lam: network.folded(lam, 6, x.device)[1].affines for lam in (0.0, 0.5, 1.0)}

    def expected(low, high, share):
        pairs = zip(folded[low], folded[high], strict=True)
        affines = tuple(
            tuple(a + share * (b - a) for a, b in zip(one, other, strict=True))
            for one, other in pairs
        )
        return network.backbone(x, Folded(affines))

    close = {"rtol": 1e-4, "atol": 1e-4}
    # place 1.6 is 1.1 halves beyond 0.5; place 0.125 a quarter of the way over the bridge
    torch.testing.assert_close(turned.at(1.0)(x), expected(0.5, 1.0, 2.2), **close)
    torch.testing.assert_close(turned.at(0.125)(x), expected(0.0, 0.5, 0.25), **close)
    torch.testing.assert_close(turned.at(0.5)(x), network(x, 0.5), **close)
    mixed = turned.logits(x, torch.tensor([0.0, 1.0, 0.5, 1.0, 0.125, 0.0]))
    torch.testing.assert_close(mixed[3], turned.at(1.0)(x)[3], **close)


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        ("onnx", True),
        pytest.param("pt2", True, marks=pytest.mark.slow),
        pytest.param("onnx", False, marks=pytest.mark.slow),
    ],
)
def test_a_dynamic_file_turns_lambda_itself(turned, dial, digits, kind, trained, tmp_path):
    path, x = tmp_path / f"dial.{kind}", digits.test.inputs(slice(0, 5))
    turned = turned if trained else dial
    oat_bench.export(turned, path, lam=None)
    lam = [0.0, 0.125, 0.4, 0.9, 1.0]
    expected = torch.cat([turned.at(one)(x[i, None]) for i, one in enumerate(lam)])
    if kind == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {"images": x.numpy(), "lam": np.float32(lam)}
        (logits,) = session.run(None, feed)
        found = torch.from_numpy(logits)
    else:
        found = torch.export.load(path).module()(x, torch.tensor(lam))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(oat_bench.load(path).at(0.9)(x), turned.at(0.9)(x))


def test_what_is_trained_is_a_place_not_a_turn(turned):
    assert turned.trained_at(0.5)  # at place 0.5
    assert not turned.trained_at(0.25)
    assert turned.info.bridge is None


def test_a_dial_without_its_ends_is_refused(brief):
    training = brief.training.model_copy(update={"lambdas": [0.0, 0.5]})
    with pytest.raises(UserError, match=r"training.lambdas are \[0.0, 0.5\]; expected 0 to 1"):
        brief.model_copy(update={"training": training}).with_method("oat-dial")


def test_entries_and_tables_say_the_place_behind_a_lambda(turned, brief, digits, tmp_path):
    few = {"lambdas": [0.0, 0.3, 1.0], "attacks": "fgsm", "n_examples": 20, "fewer_examples": {}}
    card = brief.model_copy(update={"evaluation": brief.evaluation.model_copy(update=few)})
    attacks = run.prepare_attacks(card, 10, 0)
    device = torch.device("cpu")
    evaluate_and_report(turned, card, digits, attacks, tmp_path, command="", device=device)
    points = Entry.read(tmp_path / "entry.json").operating_points
    assert [point.place for point in points] == pytest.approx([0.0, 0.3, 1.6])
    assert [point.trained for point in points] == [True, False, False]
    for file in ("table.md", "table.csv"):
        assert "place" in (tmp_path / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "evaluate {model} --attacks fgsm --lambda 0.05,0.5 --n-examples 30 --out out",
        "integrity {model} --attacks fgsm,pgd-20 --lambda 1 --n-examples 60 --out out",
        "calibrate {model} --min-sa 60% --attack pgd-20 --out out",
        "transfer {model} --lambda 0,0.5,1 --attack pgd-20 --n-examples 30 --out out",
        "export {model} --dynamic --to onnx --out out/dial.onnx",
    ],
)
def test_every_command_takes_it(oat_dial, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = command.format(model=oat_dial[1]).split()
    cli.cli(arguments, standalone_mode=False)
    assert list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("turns", [[0.0, 0.5, 0.5], [0.9, 0.1], [-0.1, 1.0], [0.3]])
def test_turns_that_do_not_ascend_are_refused(turned, dial, turns):
    for model in (turned, dial):
        info = model.info.model_copy(update={"options": model.info.options | {"turns": turns}})
        with pytest.raises(ValueError, match="turns"):
            type(model).from_state(info, model.state_dict())


def test_it_is_the_dial_that_training_would_have_found(oat_dial, dial, digits):
    trained, _ = oat_dial
    assert dial.options.turns == pytest.approx(trained.options.turns)
    for lam in (0.0, 0.4, 1.0):
        x = digits.test.inputs(slice(0, 5))
        torch.testing.assert_close(dial.at(lam)(x), trained.at(lam)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["pgd-at", "float"])
def test_only_one_network_is_turned(method, dial, digits):
    info = dial.parts["network"].info
    network = METHODS[method].network_card(info.network)
    other = METHODS[method].build(
        info.model_copy(update={"method": method, "network": network, "bridge": None})
    )
    with pytest.raises(UserError, match="dial: "):
        oat_bench.combine("dial", {"network": other}, digits, lambdas=[0, 1])
