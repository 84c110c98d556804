"""Even turns of a dial: on frontiers in closed form, and of a trained network."""

import numpy as np
import pytest
import torch

import oat_bench
from oat_bench.errors import UserError
from oat_bench.methods.affine import AffineDial
from oat_bench.methods.turns import accuracies, even_turns, sample


def test_even_turns_go_equal_ways_along_the_frontier():
    places = np.linspace(0, 1, 101)
    # a quarter of a circle, run through slowly, then faster: angle = places^2
    points = np.stack([np.cos(np.pi / 2 * places**2), np.sin(np.pi / 2 * places**2)], axis=1)
    turns = even_turns(places, 60 * points, 5)
    assert turns == pytest.approx(np.sqrt([0, 0.25, 0.5, 0.75, 1]), abs=0.01)


def test_even_turns_end_at_the_highest_sa_and_ra_and_never_turn_back():
    places = [-0.2, 0.0, 0.5, 0.6, 1.0, 1.2]
    points = np.array([[60, 1], [70, 2], [65, 20], [66, 19], [55, 30], [40, 28.0]])
    turns = even_turns(places, points, 11)
    assert (turns[0], turns[-1]) == (0.0, 1.0)
    assert np.all(np.diff(turns) > 0)
    # a frontier of one point leaves the line as it is
    assert even_turns(places, np.ones((6, 2)), 3) == pytest.approx([-0.2, 0.5, 1.2], abs=0.2)


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
    return oat_bench.combine("affine-dial", network, digits, lambdas=[0, 0.5, 1], images=100)


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
        if place in (0.0, 0.1, 0.4, 1.0):
            torch.testing.assert_close(again.at(lam)(x), network.at(place)(x))


def test_places_below_the_reach_are_the_networks_own_at_knots(dial, digits):
    x, network = digits.test.inputs(slice(0, 9)), dial.parts["network"]
    for knot in (0.0, 0.1, 0.4, 1.0):
        torch.testing.assert_close(dial.at_place(knot, 1.0)(x), network.at(knot)(x))


def test_without_turns_there_is_no_dial(dial, digits):
    options = dial.info.options | {"turns": None}
    blank = AffineDial(dial.info.model_copy(update={"options": options}), dial.parts)
    with pytest.raises(UserError, match=r"call fit\(data\)"):
        blank.at(0.5)
    given = {"options": dial.info.options | {"turns": [0.0, 1.2]}}
    kept = AffineDial(dial.info.model_copy(update=given), dial.parts)
    assert kept.fit(digits) == "none: not trained; turns as given"
    assert kept.place(0.5) == pytest.approx(0.6)
