"""The registry, and every method of it from card to checkpoint."""

import pytest
import torch

from oat_bench import load, run
from oat_bench.cards import BenchmarkCard, NetworkCard
from oat_bench.methods import METHODS, OAT, OATSingleBN, TrainableClassifier

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def short(brief) -> BenchmarkCard:
    training = brief.training.model_copy(
        update={"epochs": 1, "attack_steps": 1, "lambdas": [0.0, 1.0]}
    )
    return brief.model_copy(update={"training": training})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_from_a_card_and_is_read_back(name, short, digits, tmp_path):
    card = short.with_method(name)
    trained = run.train(card, digits, tmp_path, seed=0, device=CPU)
    assert isinstance(trained, TrainableClassifier)
    again = load(tmp_path)
    assert type(again) is METHODS[name]
    assert again.info.method == name
    assert again.info.benchmark_card == run.training_identity(card, digits, 0)
    assert again.info.selection == "last: epoch 1"
    x = digits.test.inputs(slice(0, 20))
    for lam in (0.0, 1.0):
        # the layout in memory differs, and with it the rounding
        torch.testing.assert_close(again.at(lam)(x), trained.at(lam)(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(again.at(0.0)(x), again.at(1.0)(x))
    assert again.fingerprint() == trained.fingerprint()


def test_methods_have_training_identities_of_their_own(short, digits):
    identities = {run.training_identity(short.with_method(m), digits, 0) for m in METHODS}
    assert len(identities) == len(METHODS)


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
