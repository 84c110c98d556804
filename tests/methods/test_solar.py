"""SOLAR against OATS, whose heads it takes apart."""

import torch

from oat_bench import load, run
from oat_bench.methods.oat import OATS
from oat_bench.networks.card import NetworkCard
from oat_bench.registry import METHODS

CPU = torch.device("cpu")


def test_it_is_oats_with_a_head_for_each_width_and_nothing_else(brief, digits, tmp_path):
    training = brief.training.model_copy(update={"epochs": 1, "attack_steps": 1})
    card = brief.model_copy(update={"training": training})
    solar = run.train(card.with_method("solar"), digits, tmp_path / "s", seed=0, device=CPU)
    assert solar.info.network.heads == "per-width"
    assert solar.info.widths == [1.0, 0.75, 0.5]
    network = NetworkCard.model_validate(
        card.network.model_dump() | {"heads": "per-width", "widths": [1, 0.75, 0.5]}
    )
    asked = card.model_copy(update={"network": network, "method": "oats"})
    oats = run.train(asked, digits, tmp_path / "o", seed=0, device=CPU)
    ours, theirs = solar.state_dict(), oats.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])
    shared = OATS.build(oats.info.model_copy(update={"network": OATS.network_card(card.network)}))
    extra = sum(v.numel() for v in ours.values()) - sum(
        v.numel() for v in shared.state_dict().values()
    )
    assert extra == (48 + 1) * 10 + (32 + 1) * 10

    again, x = load(tmp_path / "s"), digits.test.inputs(slice(0, 9))
    assert type(again) is METHODS["solar"]
    for width in (1.0, 0.75, 0.5):
        torch.testing.assert_close(
            again.at(0.5, width)(x), solar.at(0.5, width)(x), rtol=1e-4, atol=1e-5
        )
    heads = [solar.at(0.5, width).linear.weight for width in (1.0, 0.75, 0.5)]
    assert [tuple(head.shape) for head in heads] == [(10, 64), (10, 48), (10, 32)]
    assert not torch.allclose(heads[0][:, :32], heads[2])
