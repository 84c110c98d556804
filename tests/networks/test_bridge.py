"""Lambda between 0 and the first trained one above it, and outside of the trained range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench import OATClassifier, load, save
from oat_bench.classifier import ModelInfo, check_lambdas
from oat_bench.errors import UserError
from oat_bench.methods.oat import OAT
from oat_bench.networks.conditioning import bridged_below
from oat_bench.networks.specialize import specialize
from oat_bench.registry import METHODS

FIRST = 0.1
CPU = torch.device("cpu")
RULES = ["linear-codes", "spherical-codes", "film"]
FORMS = [(rule, film) for rule in RULES for film in ("identity-start", "published", "none")]


def images(n, channels=1, seed=0):
    return torch.rand((n, channels, 8, 8), generator=torch.Generator().manual_seed(seed))


def affines(network, lam, width=None):
    """Scale and shift [C] of every norm layer of the plain network at lambda."""
    _, folded = network.folded(lam, 1, CPU, width)
    return [part.flatten() for pair in folded.affines for part in pair]


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def network(request, perturbed):
    rule, film = request.param
    return perturbed(interpolation=rule, film=film, widths=(1.0, 0.5))


@settings(max_examples=10)
@given(share=st.floats(1e-5, 0.9999), width=st.sampled_from([1.0, 0.5]))
def test_below_the_first_trained_lambda_the_folded_norms_are_mixed_linearly(network, share, width):
    """Against the affines by hand: BN_c's at 0, BN_a's and FiLM's at the first trained one."""
    lam = float(np.float32(share * FIRST))
    weight = lam / float(np.float32(FIRST))
    ends = []
    for end in (0.0, FIRST):
        found = []
        _, condition = network.condition(end, 1, CPU, width)
        for norm in network.norms:
            standard, other = norm.batch_norms(width)
            bn = standard if end == 0 else other
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            shift = bn.bias - bn.running_mean * scale
            if norm.film is not None:
                (gamma,), (beta,) = norm.film.at(condition, bn.num_features)
                scale, shift = gamma * scale, gamma * shift + beta
            found += [scale, shift]
        ends.append(found)
    for own, at_zero, at_first in zip(affines(network, lam, width), *ends, strict=True):
        expected = (1 - weight) * at_zero.double() + weight * at_first.double()
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-5)


def test_it_ends_in_the_networks_of_0_and_of_the_first_trained_lambda(network):
    x = images(6)
    for width in network.widths:
        for end, near in ((0.0, 1e-7), (FIRST, FIRST * (1 - 1e-6))):
            with torch.no_grad():
                torch.testing.assert_close(
                    network(x, near, width), network(x, end, width), rtol=1e-3, atol=1e-3
                )
            for own, expected in zip(
                affines(network, near, width), affines(network, end, width), strict=True
            ):
                torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
        # which it would not, by the rules between the others
        network.encoding.bridge = False
        with torch.no_grad():
            jumped = network(x, 1e-7, width)
            assert not torch.allclose(jumped, network(x, 0.0, width), atol=0.05)
        network.encoding.bridge = True


def test_one_lambda_an_image_is_the_plain_network_of_each(network):
    lams = torch.tensor([0.07, 0.0, 1.0, 0.02, 0.1, 0.3, 0.07, 1e-6])
    x = images(len(lams))
    for width in network.widths:
        together = network(x, lams, width)
        for place, lam in enumerate(lams.tolist()):
            alone = specialize(network, lam, width)(x[place : place + 1])
            torch.testing.assert_close(together[place : place + 1], alone, rtol=1e-4, atol=1e-4)


def test_the_estimator_predicts_each_image_with_the_network_of_its_lambda(build_classifier):
    classifier = build_classifier()
    x, lams = images(5), [0.05, 0.0, 0.02, 0.1, 0.05]
    logits = OATClassifier(classifier).predict(x.numpy(), lam=lams)
    for place, lam in enumerate(lams):
        own = classifier.at(lam)(x[place : place + 1]).numpy()
        np.testing.assert_allclose(logits[place : place + 1], own, rtol=1e-4, atol=1e-4)
        alone = OATClassifier(classifier, lam=lam).predict(x[place : place + 1].numpy())
        np.testing.assert_allclose(alone, own, rtol=1e-4, atol=1e-4)


# --- where nothing is bridged


@pytest.mark.parametrize(
    ("trained", "norm", "sampling", "below"),
    [
        ([0, 0.1, 1], "dual", "list", 0.1),
        ([0, 1], "dual", "list", 1),
        ([0, 0.1, 1], "dual", "uniform", None),
        ([0, 0.1, 1], "single", "list", None),
        ([0.1, 1], "dual", "list", None),
        ([0], "dual", "list", None),
    ],
)
def test_a_bridge_is_where_training_left_a_hole(trained, norm, sampling, below):
    assert bridged_below(trained, norm, sampling) == below


def test_a_network_trained_on_every_lambda_keeps_its_codes(perturbed):
    """Uniform sampling, one batch norm: batch norm by route, then FiLM of the code."""
    uniform = perturbed(lambda_sampling="uniform")
    single = perturbed(norm="single")
    bridged = perturbed()
    for network in (uniform, single):
        _, condition = network.condition(0.04, 1, CPU)
        expected = [part.flatten() for norm in network.norms for part in norm.affine(condition)]
        assert all(map(torch.equal, affines(network, 0.04), expected))
    assert not torch.allclose(bridged(images(3), 0.04), uniform(images(3), 0.04), atol=0.01)
    for lam in (0.0, 0.1, 0.3, 1.0):
        assert torch.equal(bridged(images(3), lam), uniform(images(3), lam))


def test_training_never_meets_the_bridge(perturbed):
    network = perturbed()
    with_bridge = network.train()(images(6), 0.04)
    network.encoding.bridge = False
    assert torch.equal(network(images(6), 0.04), with_bridge)


# --- what a checkpoint says


def test_a_checkpoint_names_the_rule_and_an_older_one_follows_it(build_classifier, tmp_path):
    older = build_classifier()
    assert "bridge" not in older.info.model_dump()
    newer = type(older)(older.info.with_bridge(), older.network)
    assert newer.info.model_dump()["bridge"] == "folded-affine"
    assert newer.fingerprint() != older.fingerprint()
    x = images(4)
    for classifier in (older, newer):
        save(classifier, tmp_path / "c.safetensors")
        again = load(tmp_path / "c.safetensors")
        assert again.info == classifier.info
        assert again.fingerprint() == classifier.fingerprint()
        torch.testing.assert_close(again.at(0.04)(x), older.at(0.04)(x))
    # an outcome from before the rule is not one of the network that has it
    assert older.rules([0.0, 0.1, 0.3]) == ()
    assert older.rules([0.3, 0.04]) == ("folded-affine",)


def test_a_bridge_that_training_left_no_hole_for_is_refused(build_classifier):
    values = build_classifier().info.with_bridge().model_dump()
    for change in ({"lambda_sampling": "uniform"}, {"trained_lambdas": [0.1, 1.0]}):
        with pytest.raises(ValueError, match="bridge is 'folded-affine'; expected none"):
            ModelInfo.model_validate(values | change)


def test_an_estimator_that_trains_on_every_lambda_leaves_no_bridge(build_classifier, digits):
    classifier = build_classifier()
    estimator = OATClassifier(classifier)
    x, y = digits.train.inputs(slice(0, 8)), digits.train.labels[:8]
    for sampling, bridge in (("uniform", None), ("list", "folded-affine")):
        estimator.training = estimator.training.model_copy(update={"lambda_sampling": sampling})
        estimator.fit(x.numpy(), y.numpy(), batch_size=8, nb_epochs=1)
        assert classifier.info.bridge == bridge
        assert classifier.network.encoding.bridge == (bridge is not None)


# --- outside of the trained range


@pytest.mark.parametrize(
    ("trained", "lam", "nearest"),
    [((0.0, 0.1, 0.4), 1.0, "0.4"), ((0.1, 0.4), 0.0, "0.1"), ((0.1, 0.4), 0.05, "0.1")],
)
@pytest.mark.parametrize("norm", ["dual", "single"])
def test_what_was_not_trained_is_refused_at_every_door(
    build_classifier, perturbed, trained, lam, nearest, norm
):
    info = build_classifier().info
    card = info.network.model_copy(update={"norm": norm})
    changes = {"trained_lambdas": list(trained), "network": card}
    network = perturbed(trained=trained, num_classes=10, norm=norm)
    classifier = OAT(info.model_copy(update=changes), network)
    estimator = OATClassifier(classifier, lam=0.1)
    x = images(2)
    doors = [
        lambda: classifier.at(lam),
        lambda: network(x, lam),
        lambda: network(x, torch.tensor([0.1, lam])),
        lambda: estimator.predict(x.numpy(), lam=lam),
        lambda: estimator.predict(x.numpy(), lam=[0.1, lam]),
        lambda: estimator.at(lam),
        lambda: check_lambdas("oat", trained, [0.1, lam]),
    ]
    for door in doors:
        with pytest.raises(
            UserError, match=f"lambda {lam:g} lies outside of what was trained, "
        ) as e:
            door()
        assert f"; the nearest is {nearest}" in str(e.value)
    for near in (trained[0], trained[-1], np.float32(trained[-1])):
        classifier.at(float(near))


def test_dedicated_networks_name_those_that_there_are():
    with pytest.raises(UserError, match=r"lambda 0.05 was not trained; .* 0, 0.1, and nothing"):
        METHODS["pgd-at"].check_lambda(0.05, [0, 0.1])
