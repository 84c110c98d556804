"""OATS: one network, chosen by lambda and width, from its card to its report."""

import re
from itertools import pairwise

import pandas as pd
import pytest
import torch
from reporting import evaluate_and_report

from oat_bench import run
from oat_bench.benchmark import benchmark_card
from oat_bench.cards import Threat
from oat_bench.checkpoint import load, save
from oat_bench.classifier import ModelInfo
from oat_bench.errors import UserError
from oat_bench.methods.oat import OATS
from oat_bench.methods.trainable import WIDTHS
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.specialize import specialize
from oat_bench.registry import METHODS
from oat_bench.results.entries import Entry

CPU = torch.device("cpu")


def info(**network) -> ModelInfo:
    return ModelInfo(
        method="oats",
        dataset="digits",
        classes=[str(digit) for digit in range(10)],
        input_shape=(1, 8, 8),
        network=NetworkCard(architecture="wrn-10-1", encoding_dim=8, **network),
        trained_lambdas=[0, 0.5, 1],
        interpolation="linear-codes",
        threat=Threat(),
        seed=0,
        epochs=1,
        selection="last",
    )


def brief_card():
    """The card that ships, with a recipe of seconds."""
    card = benchmark_card("digits-oats")
    network = {"architecture": "wrn-10-1", "encoding_dim": 8}
    training = {"epochs": 8, "batch_size": 64, "attack_steps": 4, "eps_warmup_epochs": 0}
    training |= {"lambdas": [0, 0.5, 1], "validate_every": 8}
    return card.model_copy(
        update={
            "network": card.network.model_copy(update=network),
            "threat": Threat(eps=0.25, step_size=0.08),
            "training": card.training.model_copy(update=training),
            "evaluation": card.evaluation.model_copy(
                update={"lambdas": [0, 0.2, 1], "attacks": "fgsm,pgd-7", "n_examples": 100}
            ),
        }
    )


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """The digits card's classifier, its card and its folder."""
    folder, card = tmp_path_factory.mktemp("oats"), brief_card()
    return run.train(card, digits, folder, seed=0, device=CPU), card, folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def report(trained, digits, out):
    classifier, card, _ = trained
    attacks = run.prepare_attacks(card, 10, 0)
    return evaluate_and_report(
        classifier, card, digits, attacks, out, command="the command", device=CPU
    )


def test_every_width_learns_and_the_narrower_is_the_cheaper(report):
    by_width = {width: [r for r in report.points if r.width == width] for width in WIDTHS}
    gains = []
    for results in by_width.values():
        standard, robust = results[0], results[-1]
        assert (standard.lam, robust.lam) == (0, 1)
        assert standard.clean_acc > 80
        assert robust.clean_acc > 80
        assert robust.robust["pgd-7"].value > 20
        gains.append(robust.robust["pgd-7"].value - standard.robust["pgd-7"].value)
    assert sum(gains) / 3 > 3  # so little training sets lambda apart by 6
    costs = [results[0].cost for results in by_width.values()]
    for wide, narrow in pairwise(costs):
        assert narrow.parameters < 0.65 * wide.parameters
        assert narrow.flops < 0.65 * wide.flops


def test_the_report_has_a_table_for_each_width(report, out):
    text = (out / "table.md").read_text()
    headings = re.findall(r"^width (\S+): \S+ k parameters, \S+ [kM] FLOPs and", text, re.MULTILINE)
    assert headings == ["1", "0.75", "0.5"]
    assert text.startswith("**digits, wrn-10-1, OATS, Linf eps 0.25**\n")
    assert text.count(" 0.2 * |") == 3
    table = pd.read_csv(out / "table.csv")
    assert sorted(zip(table["width"], table["lambda"], strict=True)) == sorted(
        (width, lam) for width in WIDTHS for lam in (0, 0.2, 1)
    )
    entry = Entry.model_validate_json((out / "entry.json").read_text())
    points = {(point.width, point.lam): point for point in entry.operating_points}
    assert len(points) == 9
    for row in table.to_dict("records"):
        point = points[row["width"], row["lambda"]]
        assert row["SA"] == pytest.approx(point.clean_acc, abs=0.01)
        assert row["parameters"] == point.cost.parameters
    assert entry.method == "oats"


def test_a_card_may_evaluate_some_widths(trained, digits, tmp_path):
    classifier, card, _ = trained
    few = {"widths": [0.5], "attacks": "fgsm", "n_examples": 10, "lambdas": [1]}
    card = card.model_copy(update={"evaluation": card.evaluation.model_copy(update=few)})
    attacks = run.prepare_attacks(card, 10, 0)
    report = evaluate_and_report(
        classifier, card, digits, attacks, tmp_path, command="the command", device=CPU
    )
    assert [(r.lam, r.width) for r in report.points] == [(1, 0.5)]
    assert "width 0.5" not in (tmp_path / "table.md").read_text().split("\n")[0]
    few = {"widths": [0.6]}
    card = card.model_copy(update={"evaluation": card.evaluation.model_copy(update=few)})
    with pytest.raises(UserError, match=r"width 0\.6 asked for; the network has 1, 0\.75, 0\.5"):
        run.choose_points(card, "oats", [0.0, 1.0], classifier.info.widths)


@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_a_checkpoint_holds_every_width(tmp_path, heads):
    classifier = OATS.build(info(widths=WIDTHS, heads=heads))
    save(classifier, tmp_path / "c.safetensors")
    loaded = load(tmp_path / "c.safetensors")
    assert isinstance(loaded, OATS)
    assert loaded.info.widths == WIDTHS
    assert loaded.fingerprint() == classifier.fingerprint()
    x = torch.rand(2, 1, 8, 8)
    for width in WIDTHS:
        assert torch.equal(loaded.at(0.3, width)(x), specialize(classifier.network, 0.3, width)(x))


def test_the_trained_checkpoint_loads_as_what_was_trained(trained, digits):
    classifier, _, folder = trained
    loaded = load(folder)
    x = digits.test.inputs(slice(4))
    for width in WIDTHS:
        # trained weights lie in channels_last, loaded ones do not: the sums differ in their order
        torch.testing.assert_close(loaded.at(1, width)(x), classifier.at(1, width)(x))


def test_at_refuses_a_width_that_there_is_not():
    classifier = OATS.build(info(widths=WIDTHS))
    with pytest.raises(ValueError, match=r"width is 0\.6; the network has widths 1, 0\.75, 0\.5"):
        classifier.at(0.3, 0.6)
    assert classifier.at(0.3)(torch.rand(1, 1, 8, 8)).shape == (1, 10)


def test_without_widths_in_the_card_it_has_the_papers():
    assert OATS.network_card(NetworkCard(architecture="wrn-10-1")).widths == [1, 0.75, 0.5]
    own = NetworkCard(architecture="wrn-10-1", widths=[1, 0.25])
    assert OATS.network_card(own) == own


def test_one_width_is_not_oats():
    with pytest.raises(ValueError, match=r"widths are \[1\.0\]; expected several"):
        METHODS["oats"].build(info())
    with pytest.raises(UserError, match="expected one, or method 'oats'"):
        benchmark_card("digits").with_widths([1, 0.5])


def test_the_ablation_has_one_batch_norm_for_each_width():
    kind = METHODS["oats-single-bn"]
    card = kind.network_card(NetworkCard(architecture="wrn-10-1", encoding_dim=8))
    assert (card.norm, card.widths) == ("single", WIDTHS)
    described = info().model_copy(update={"method": "oats-single-bn", "network": card})
    names = kind.build(described).state_dict()
    assert not any("bn_c" in name for name in names)
    assert "backbone.norm.narrow.1.bn_a.weight" in names


def test_pgd_ats_is_a_slimmable_network_for_each_lambda(digits, tmp_path):
    card = brief_card().with_method("pgd-ats")
    assert card.name == "digits-oats-pgd-ats"
    training = {"lambdas": [0, 1], "epochs": 1, "attack_steps": 1}
    card = card.model_copy(update={"training": card.training.model_copy(update=training)})
    trained = run.train(card, digits, tmp_path, seed=0, device=CPU)
    assert [list(member.lambdas) for member in trained.members()] == [[0], [1]]
    assert not any("film" in name for name in trained.state_dict())
    loaded, x = load(tmp_path), digits.test.inputs(slice(3))
    sizes = set()
    for lam in (0, 1):
        for width in WIDTHS:
            plain = loaded.at(lam, width)
            torch.testing.assert_close(plain(x), trained.networks[lam](x, lam, width))
            sizes.add(sum(parameter.numel() for parameter in plain.parameters()))
    assert len(sizes) == 3
    with pytest.raises(UserError, match=r"lambda 0\.5 was not trained"):
        loaded.at(0.5, 0.5)
    log = pd.read_csv(tmp_path / "log.csv")
    assert "RA@1 x0.5" in log.columns


def test_a_dedicated_network_of_one_width(digits, tmp_path):
    """The baseline that owns no more channels than it needs: any method, one width."""
    card = benchmark_card("digits-large-eps").with_method("pgd-at").with_widths([0.5])
    assert card.name == "digits-large-eps-pgd-at-widths-0.5"
    training = {"lambdas": [1], "epochs": 1, "attack_steps": 1}
    card = card.model_copy(update={"training": card.training.model_copy(update=training)})
    trained = run.train(card, digits, tmp_path, seed=0, device=CPU)
    narrow = OATS.build(info(widths=WIDTHS)).at(1, 0.5)
    plain = load(tmp_path).at(1, 0.5)
    assert [p.shape for p in plain.parameters()] == [p.shape for p in narrow.parameters()]
    with pytest.raises(ValueError, match=r"width is 1; the network has only width 0\.5"):
        trained.at(1)
