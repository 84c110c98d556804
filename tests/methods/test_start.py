"""Training that starts from a model's weights: which are taken, and what they must fit."""

import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from oat_bench import run
from oat_bench.benchmark import benchmark_card
from oat_bench.cards import Threat
from oat_bench.checkpoint import load, save
from oat_bench.datasets import Dataset, Split
from oat_bench.deployment.description import describe
from oat_bench.errors import UserError
from oat_bench.methods.mixing import OutputMixing
from oat_bench.methods.oat import OAT
from oat_bench.methods.trainable import OneNetwork
from oat_bench.registry import METHODS
from oat_bench.training.card import ObjectiveCard
from oat_bench.training.loop import Trainer
from oat_bench.wrapping import wrap

CPU = torch.device("cpu")


def changed(card, **training):
    """The card with another recipe."""
    return card.model_copy(update={"training": card.training.model_copy(update=training)})


def drawn(*, channels=1, size=8, classes=10, n=40, name="drawn"):
    """A data set of noise."""
    draw = torch.Generator().manual_seed(size * classes)
    images = torch.randint(0, 256, (n, channels, size, size), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.arange(n) % classes)
    return Dataset(name, tuple(f"class {c}" for c in range(classes)), split, split, split)


@pytest.fixture(scope="module")
def short(brief):
    return changed(brief, epochs=1, attack_steps=1, lambdas=[0.0, 1.0])


@pytest.fixture(scope="module")
def fresh(short):
    """A model of a method with fresh weights, described as if it had been trained."""

    def fresh(method="oat", data=None, seed=7, card=None):
        data, card = data or drawn(), (card or short).with_method(method)
        kind = METHODS[method]
        return kind.build(described(kind, card, data, seed))

    return fresh


def described(kind, card, data, seed=0, **more):
    from oat_bench.classifier import ModelInfo

    network = kind.network_card(card.network)
    return ModelInfo(
        method=card.method,
        dataset=data.name,
        classes=list(data.classes),
        input_shape=data.input_shape,
        network=network,
        own_name="" if network else card.method,
        options=card.options,
        trained_lambdas=card.training.lambdas,
        interpolation=network.interpolation if network and kind.continuous else "none",
        threat=card.threat,
        seed=seed,
        epochs=1,
        selection="last: epoch 1",
        data_fingerprint=data.fingerprint(),
        **more,
    )


def started(model, card, data, method=None, seed=0):
    """What training of a card on a data set starts from."""
    card = card.starting_from(model, method)
    kind = METHODS[card.method]
    return kind.start(described(kind, card, data, seed), model)


# --- which weights


@pytest.mark.parametrize(
    "method", ["oat", "oat-single-bn", "oats", "oats-single-bn", "pgd-at", "pgd-ats"]
)
def test_every_method_starts_as_the_model(method, fresh, short):
    model, x = fresh(method), drawn().test.inputs(slice(0, 8))
    begun = started(model, short, drawn())
    assert begun.info.seed != model.info.seed
    for width in model.info.widths:
        for lam in (0.0, 1.0):
            assert torch.equal(begun.at(lam, width)(x), model.at(lam, width)(x))
    # nothing is shared: one goes on, the other stays
    for mine, theirs in zip(begun.state_dict().values(), model.state_dict().values(), strict=True):
        assert mine.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_other_classes_take_a_head_of_their_own(fresh, short, heads, capsys):
    network = short.network.model_copy(update={"widths": [1.0, 0.5], "heads": heads})
    card = short.model_copy(update={"network": network, "method": "oats"})
    model, few = fresh("oats", card=card), drawn(classes=4)
    begun = started(model, short, few, seed=3)
    scratch = METHODS["oats"].build(begun.info).state_dict()
    new = {"backbone.linear.weight", "backbone.linear.bias"}
    new |= {name for name in scratch if ".linear.narrow." in name}
    assert len(new) == (4 if heads == "per-width" else 2)
    for name, value in begun.state_dict().items():
        source = scratch if name in new else model.state_dict()
        assert torch.equal(value, source[name]), name
    assert begun.at(1.0, 0.5)(few.test.inputs(slice(0, 2))).shape == (2, 4)
    assert capsys.readouterr().err == "a new head: 4 classes, the model has 10\n"


def test_images_of_another_size_pass_through_the_same_convolutions(fresh, short):
    model, larger = fresh(), drawn(size=12)
    begun = started(model, short, larger)
    x = larger.test.inputs(slice(0, 4))
    assert torch.equal(begun.at(0.5)(x), model.at(0.5)(x))
    assert begun.info.input_shape == (1, 12, 12)


def test_images_of_other_channels_are_refused(fresh, short):
    with pytest.raises(
        UserError, match="of 'drawn' have 3 channels; expected as many as the model's, 1"
    ):
        started(fresh(), short, drawn(channels=3))


def test_the_codes_of_lambda_are_the_models_whatever_the_seed(fresh, short, tmp_path):
    model = fresh(seed=7)
    begun = started(model, short, drawn(), seed=0)
    codes = begun.network.encoding.codes
    assert torch.equal(codes, model.network.encoding.codes)
    assert not torch.equal(codes, fresh(seed=0).network.encoding.codes)
    # they are in every file that is written of it
    save(begun, tmp_path / "begun.safetensors")
    x = drawn().test.inputs(slice(0, 4))
    again = load(tmp_path / "begun.safetensors")
    assert torch.equal(again.at(0.3)(x), model.at(0.3)(x))
    dynamic = describe(again, None, 1.0).outline()
    dynamic.load_state_dict(again.with_lambda_input().state_dict(), assign=True)
    torch.testing.assert_close(dynamic(x, torch.full((4,), 1.0)), model.at(1.0)(x))


# --- lambda


def test_one_network_keeps_its_lambda_and_says_so(fresh, short, capsys):
    other = changed(short, lambdas=[0.0, 0.1, 0.5])
    card = other.starting_from(fresh())
    assert card.training == short.training
    said = "lambda values stay 0, 1, the weights know no others; not 0, 0.1, 0.5\n"
    assert capsys.readouterr().err == said
    short.starting_from(fresh())
    assert capsys.readouterr().err == ""


def test_the_card_must_go_with_the_lambda_that_are_kept(fresh, short):
    trades = changed(short, objective=ObjectiveCard(loss="trades"), lambdas=[0.0, 0.5])
    with pytest.raises(UserError, match='objective "trades" has no labels at lambda = 1'):
        trades.starting_from(fresh())


def test_networks_of_their_own_start_from_the_nearest_lambda(fresh, short, capsys):
    model = fresh("pgd-at", card=changed(short, lambdas=[0.2, 1.0]))
    with torch.no_grad():  # of one seed, all start alike
        model.networks[1.0].backbone.linear.weight.mul_(2)
    card = changed(short, lambdas=[0.0, 0.7, 1.0])
    begun = started(model, card, drawn())
    assert begun.info.trained_lambdas == [0.0, 0.7, 1.0]
    x = drawn().test.inputs(slice(0, 4))
    for lam, source in ((0.0, 0.2), (0.7, 1.0), (1.0, 1.0)):
        assert torch.equal(begun.at(lam)(x), model.at(source)(x))
    assert not torch.equal(begun.at(0.0)(x), begun.at(0.7)(x))
    assert capsys.readouterr().err.splitlines() == [
        "the network of lambda 0 starts from that of lambda 0.2",
        "the network of lambda 0.7 starts from that of lambda 1",
    ]
    assert begun.networks[0.7].encoding.trained.tolist() == pytest.approx([0.7])


# --- what does not fit


@pytest.mark.parametrize(
    ("method", "asked"),
    [("pgd-at", "oat"), ("oat", "pgd-at"), ("oat", "oat-single-bn"), ("oat", "oats")],
)
def test_weights_of_another_method_are_refused(method, asked, fresh, short):
    with pytest.raises(UserError, match=f"^--from.* method '{method}'.* method '{asked}'"):
        started(fresh(method), short, drawn(), asked)


def test_a_method_with_the_same_network_takes_the_weights(fresh, short, monkeypatch):
    class Variant(OAT):
        """OAT by another training step, say."""

    monkeypatch.setitem(METHODS.registered, "variant", Variant)
    model, x = fresh(), drawn().test.inputs(slice(0, 4))
    begun = started(model, short, drawn(), "variant")
    assert isinstance(begun, Variant)
    assert torch.equal(begun.at(0.5)(x), model.at(0.5)(x))


class Flat(OneNetwork):
    """A network that is no card's, for images of one size."""

    @classmethod
    def make(cls, info):
        size = info.input_shape[1] * info.input_shape[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(size, info.num_classes))

    def step(self):
        return None

    def at(self, lam, width=1.0):
        return self.network


def test_a_network_for_images_of_one_size_takes_no_other(fresh, short, monkeypatch):
    monkeypatch.setitem(METHODS.registered, "flat", Flat)
    model, x = fresh("flat"), drawn().test.inputs(slice(0, 4))
    assert torch.equal(started(model, short, drawn()).at(1.0)(x), model.at(1.0)(x))
    with pytest.raises(UserError, match=r"1\.weight is \[10, 64\].*expected \[10, 144\]"):
        started(model, short, drawn(size=12))


def test_what_is_not_trained_is_no_start(fresh, short):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    model = fresh()
    mixed = OutputMixing.of(
        model.info.model_copy(
            update={"method": "output-mixing", "options": {"standard": "", "robust": ""}}
        ),
        {"standard": model, "robust": fresh(seed=8)},
    )
    for one in (wrap(net, dataset=drawn()), mixed):
        with pytest.raises(UserError, match=f"a model of method '{one.info.method}' is not"):
            short.starting_from(one)


# --- training


@pytest.fixture(scope="module")
def few(digits):
    """The digits, few of them."""
    splits = {
        "train": digits.train.take(slice(192)),
        "validation": digits.validation.take(slice(20)),
    }
    return replace(digits, **splits)


def test_training_is_that_of_the_loop_with_a_fresh_optimiser(brief, few, trained, tmp_path):
    """Against the loop on the model's own network: another seed, ball and recipe than before."""
    card = changed(brief, epochs=2, lr=0.02, ema_decay=0.9)
    card = card.model_copy(update={"threat": Threat(eps=0.3, step_size=0.1)})
    card = card.starting_from(trained)
    tuned = run.train(card, few, tmp_path, seed=5, device=CPU, start=trained)
    other = load(save_copy(trained, tmp_path / "copy.safetensors"))
    (member,) = other.members()
    splits = few.train, few.validation
    Trainer(member.step, card.training, card.threat, *splits, seed=5).train(show=False)
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert tuned.info.threat.eps == 0.3
    # and it learnt on: the model that it started from stayed as it was
    assert tuned.fingerprint() == load(tmp_path).fingerprint()
    assert trained.fingerprint() == load(tmp_path / "copy.safetensors").fingerprint()


def save_copy(classifier, path):
    save(classifier, path)
    return path


def test_a_run_that_is_killed_goes_on_and_one_of_another_start_does_not(
    brief, few, trained, tmp_path, monkeypatch
):
    card = changed(brief, epochs=3, attack_steps=1).starting_from(trained)
    options = {"seed": 1, "device": CPU}
    unbroken = run.train(card, few, tmp_path / "unbroken", start=trained, **options)
    fsync, count = os.fsync, []

    def fill(descriptor):
        count.append(1)
        if len(count) > 3:
            raise OSError("killed")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match="killed"):
            run.train(card, few, tmp_path / "broken", start=trained, **options)
    other = type(trained).build(trained.info.model_copy(update={"seed": 9}))
    for folder, text in (("broken", "seed or --from"), ("unbroken", "or from another model")):
        for start in (None, other):
            with pytest.raises(UserError, match=text):
                run.train(card, few, tmp_path / folder, start=start, **options)
    again = run.train(card, few, tmp_path / "broken", start=trained, **options)
    assert again.fingerprint() == unbroken.fingerprint()
    assert again.info.ancestors == trained.lineage()


def test_a_card_without_a_start_has_the_identity_that_it_had(brief, digits, trained):
    assert run.training_identity(brief, digits, 0) == trained.info.benchmark_card
    begun = run.training_identity(brief, digits, 0, trained.lineage())
    assert begun != trained.info.benchmark_card


def test_options_of_a_method_are_the_models_unless_the_card_has_its_own(short, monkeypatch):
    from oat_bench.methods.trainable import Options

    class Sized(Options):
        hidden: int = 4
        rate: float = 0.5

    class Own(Flat):
        Options = Sized

    monkeypatch.setitem(METHODS.registered, "sized", Own)
    made = short.model_copy(update={"method": "sized", "options": {"hidden": 8}})
    model = Own.build(described(Own, made, drawn()))
    assert short.starting_from(model).options == {"hidden": 8}
    tuned = short.model_copy(update={"method": "sized", "options": {"rate": 0.1}})
    assert tuned.starting_from(model).options == {"hidden": 8, "rate": 0.1}


def test_a_shipped_card_takes_the_models_network(trained):
    card = benchmark_card("digits").starting_from(trained)
    assert card.network == trained.info.network
    assert card.training.lambdas == trained.info.trained_lambdas
    assert card.training.epochs == benchmark_card("digits").training.epochs
