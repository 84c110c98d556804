import copy
import gc
import multiprocessing
import pickle
import random
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from art import config
from art.attacks import evasion
from art.data_generators import NumpyDataGenerator
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from torch import nn

from oat_bench import OATClassifier
from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.methods.oat import OAT
from oat_bench.networks.card import NetworkCard
from oat_bench.training.card import TrainingCard
from oat_bench.training.loop import Trainer

SHAPE = (1, 8, 8)
LAMBDAS = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
RECIPE = TrainingCard(epochs=1, lr=0.1, attack_steps=2, lambdas=LAMBDAS)


def build(dropout=0.0, seed=0):
    """A network with fresh weights, in which lambda does not matter yet."""
    info = ModelInfo(
        method="oat",
        dataset="digits",
        classes=[str(digit) for digit in range(10)],
        input_shape=SHAPE,
        network=NetworkCard(architecture="wrn-10-1", dropout=dropout),
        trained_lambdas=LAMBDAS,
        interpolation="linear-codes",
        threat=Threat(eps=0.2, step_size=0.1),
        seed=seed,
        epochs=40,
        selection="last: epoch 40",
        benchmark_card="a card's fingerprint",
    )
    return OAT.build(info)


def perturbed(**options):
    """A network in which every lambda is a different classifier, and so are both batch norms."""
    model = build(**options)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.network.backbone.state_dict().items():
            if name.endswith("running_var"):
                tensor.mul_(0.5 + torch.rand(tensor.shape, generator=noise))
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=noise))
    return model


@pytest.fixture
def model():
    return perturbed()


@pytest.fixture
def classifier(model):
    return OATClassifier(model, lam=0.3, training=RECIPE)


@pytest.fixture
def x(digits):
    return digits.test.inputs(slice(6)).numpy()


@pytest.fixture
def y(digits):
    return np.eye(10, dtype=np.float32)[digits.test.labels[:6].numpy()]


@pytest.fixture
def examples(digits):
    """Images and labels to train with."""
    return digits.train.inputs(slice(600)).numpy(), digits.train.labels[:600].numpy()


def stock(module, **settings):
    """ART's own estimator around a plain network."""
    return PyTorchClassifier(
        module,
        nn.CrossEntropyLoss(),
        SHAPE,
        10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
        **settings,
    )


def tensor(array):
    return torch.as_tensor(array)


def framework_gradient(estimator, x, y):
    """The gradient of logits that ART computes in torch throughout."""
    images = tensor(x).requires_grad_()
    logits, _ = estimator._predict_framework(images)
    logits[:, 3].sum().backward()
    return np.concatenate([images.grad.flatten(), logits.detach().flatten()])


def norm_gradient(estimator, x, y):
    return estimator.custom_loss_gradient(torch.norm, x, x[::-1].copy(), "stage2")


METHODS = {
    "predict": lambda e, x, y: e.predict(x),
    "predict in batches": lambda e, x, y: e.predict(x, batch_size=4),
    "loss_gradient": lambda e, x, y: e.loss_gradient(x, y),
    "class_gradient": lambda e, x, y: e.class_gradient(x),
    "class_gradient of one": lambda e, x, y: e.class_gradient(x, 7),
    "class_gradient of each": lambda e, x, y: e.class_gradient(x, np.arange(6)),
    "compute_loss": lambda e, x, y: e.compute_loss(x, y),
    "compute_loss mean": lambda e, x, y: e.compute_loss(x, y, reduction="mean"),
    "compute_losses": lambda e, x, y: e.compute_losses(x, y)["total"],
    "get_activations by place": lambda e, x, y: e.get_activations(x, 2, batch_size=4),
    "get_activations by name": lambda e, x, y: e.get_activations(x, "stage3", batch_size=4),
}
IN_TORCH = {
    "loss_gradient": lambda e, x, y: e.loss_gradient(tensor(x), tensor(y)).numpy(),
    "compute_loss": lambda e, x, y: e.compute_loss(tensor(x), tensor(y)).numpy(),
    "custom_loss_gradient": norm_gradient,
    "get_activations": lambda e, x, y: (
        e.get_activations(tensor(x), "linear", framework=True).detach().numpy()
    ),
    "_predict_framework": framework_gradient,
}
SETTINGS = {
    "defaults": {},
    "standardised": {"preprocessing": (0.1, 0.8)},
    "smoothed in numpy": {
        "preprocessing": None,
        "preprocessing_defences": SpatialSmoothing(channels_first=True),
    },
}
CASES = [(name, setting) for name in METHODS for setting in SETTINGS]
CASES += [(f"{name} in torch", setting) for name in IN_TORCH for setting in list(SETTINGS)[:2]]


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_equals_stock_at_every_lambda(model, x, y, name, setting):
    method = METHODS.get(name) or IN_TORCH[name.removesuffix(" in torch")]
    lambdas = (0.0, 0.15, 0.7, 1.0)
    settings = SETTINGS[setting]
    expected = {lam: method(stock(model.at(lam), **settings), x, y) for lam in lambdas}
    assert len({result.tobytes() for result in expected.values()}) == 4
    classifier = OATClassifier(model, **settings)
    # back and forth, so that nothing may be left over from another point
    for lam in (0.7, 0.0, 0.7, 0.15, 1.0, 0.0):
        classifier.lam = lam
        np.testing.assert_array_equal(method(classifier, x, y), expected[lam])
        with classifier.operating_point(0.15):
            np.testing.assert_array_equal(method(classifier, x, y), expected[0.15])
    for lam in lambdas:
        np.testing.assert_array_equal(method(classifier.at(lam), x, y), expected[lam])


def test_looks_like_stock(model):
    classifier, plain = OATClassifier(model), stock(model.at(1.0))
    assert isinstance(classifier, PyTorchClassifier)
    for name in ("input_shape", "nb_classes", "layer_names", "channels_first", "device", "is_rnn"):
        assert getattr(classifier, name) == getattr(plain, name)
    np.testing.assert_array_equal(classifier.clip_values, plain.clip_values)
    assert "lam=1" in repr(classifier)


def test_training_mode_is_stock_too_and_stays_out_of_the_model(x, y):
    model = perturbed(dropout=0.5)
    classifier, plain = OATClassifier(model, lam=0.7), stock(model.at(0.7))
    for call in (
        lambda e: e.predict(x, training_mode=True),
        lambda e: e.loss_gradient(x, y, training_mode=True),
        lambda e: e.class_gradient(x, training_mode=True),
    ):
        torch.manual_seed(5)
        expected = call(plain)
        torch.manual_seed(5)
        np.testing.assert_array_equal(call(classifier), expected)
        assert not any(module.training for module in model.network.modules())
    assert not np.array_equal(classifier.predict(x, training_mode=True), classifier.predict(x))


def test_one_lambda_for_each_image(model, classifier, x):
    lam = np.array([0.7, 0.0, 1.0, 0.15, 0.0, 0.7])
    each = [stock(model.at(value)).predict(x[i : i + 1])[0] for i, value in enumerate(lam)]
    for given in (lam, list(lam), tensor(lam)):
        for batch_size in (128, 4, 1):
            logits = classifier.predict(x, batch_size, lam=given)
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, each, rtol=1e-4, atol=1e-4)
    assert classifier.lam == 0.3


def test_one_lambda_for_each_image_goes_through_processing(model, x):
    settings = SETTINGS["standardised"] | {"postprocessing_defences": Softmax()}
    classifier = OATClassifier(model, **settings)
    expected = stock(model.at(0.7), **settings).predict(x)
    np.testing.assert_allclose(classifier.predict(x, lam=np.full(6, 0.7)), expected, atol=1e-5)
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)


def test_one_lambda_for_each_image_ignores_a_network_in_train_mode(x):
    model = perturbed(dropout=0.5)
    classifier, lam = OATClassifier(model), np.linspace(0, 1, 6)
    expected = classifier.predict(x, lam=lam)
    model.network.train()
    np.testing.assert_array_equal(classifier.predict(x, lam=lam), expected)
    assert model.network.training


def test_nothing_leaves_the_device_within_a_loop(classifier, x, y, monkeypatch):
    left, original = [], torch.Tensor.cpu

    def watch(self):
        left.append(tuple(self.shape))
        return original(self)

    def leaving(call):
        left.clear()
        call()
        return list(left)

    monkeypatch.setattr(torch.Tensor, "cpu", watch)
    for lam in (0.7, np.linspace(0, 1, 6)):
        whole = leaving(lambda lam=lam: classifier.predict(x, 6, lam=lam))
        assert leaving(lambda lam=lam: classifier.predict(x, 1, lam=lam)) == whole
        assert whole.count((6, 10)) == 1
    # a gradient of a tensor stays a tensor
    images, labels = torch.as_tensor(x), torch.as_tensor(y)
    assert leaving(lambda: classifier.loss_gradient(images, labels)) == []
    gradient = classifier.loss_gradient(images, labels)
    np.testing.assert_array_equal(gradient.numpy(), classifier.loss_gradient(x, y))

    def attack(steps):
        settings = {"eps": 0.1, "eps_step": 0.05, "batch_size": 3, "verbose": False}
        pgd = evasion.ProjectedGradientDescent(classifier, max_iter=steps, **settings)
        return pgd.generate(x, y)

    # ART's PGD computes on tensors: what leaves does not grow with its steps
    assert leaving(lambda: attack(2)) == leaving(lambda: attack(9))


@pytest.mark.parametrize("lam", [[0.5], np.full(5, 0.5), np.full((6, 1), 0.5)])
def test_one_lambda_for_each_image_needs_as_many(classifier, x, lam):
    with pytest.raises(ValueError, match=r"shape.*\(6,\)"):
        classifier.predict(x, lam=lam)


def test_one_lambda_for_each_image_has_no_training_mode(classifier, x):
    with pytest.raises(ValueError, match="training_mode"):
        classifier.predict(x, lam=np.zeros(6), training_mode=True)


def test_predict_at_another_point_leaves_the_current_one(model, classifier, x):
    before = classifier.predict(x)
    expected = stock(model.at(0.7)).predict(x)
    np.testing.assert_array_equal(classifier.predict(x, lam=0.7), expected)
    np.testing.assert_array_equal(classifier.predict(x, lam=np.float64(0.7)), expected)
    assert classifier.lam == 0.3
    np.testing.assert_array_equal(classifier.predict(x), before)


@pytest.mark.parametrize("lam", [-0.1, 1.01, float("nan"), float("inf")])
def test_lambda_outside_the_unit_interval(model, classifier, x, lam):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        classifier.lam = lam
    with pytest.raises(ValueError, match=r"\[0, 1\]"), classifier.operating_point(lam):
        pass
    for call in (
        lambda: classifier.at(lam),
        lambda: classifier.predict(x, lam=lam),
        lambda: classifier.predict(x, lam=[0, 0, 0, 0, 0, lam]),
        lambda: classifier.set_params(lam=lam),
        lambda: OATClassifier(model, lam=lam),
    ):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            call()
    assert classifier.lam == 0.3


def test_operating_point_is_restored_whatever_happens(classifier):
    with classifier.operating_point(0.7) as inner:
        assert inner is classifier
        assert classifier.lam == 0.7
        with classifier.operating_point(0.0):
            assert classifier.lam == 0.0
        assert classifier.lam == 0.7
    assert classifier.lam == 0.3
    with pytest.raises(KeyError), classifier.operating_point(0.7):
        raise KeyError
    assert classifier.lam == 0.3


def test_fixed_estimator_cannot_be_moved(model, classifier, x):
    fixed = classifier.at(0.7)
    expected = stock(model.at(0.7)).predict(x)
    classifier.lam = 0.0
    assert fixed.lam == 0.7
    assert fixed.tunable is model
    with pytest.raises(AttributeError, match=r"fixed at lam = 0\.7"):
        fixed.lam = 0.2
    with pytest.raises(AttributeError, match="fixed"), fixed.operating_point(0.2):
        pass
    for call in (
        lambda: fixed.predict(x, lam=0.2),
        lambda: fixed.predict(x, lam=np.zeros(6)),
        lambda: fixed.set_params(lam=0.2),
        lambda: copy.copy(fixed).set_params(lam=0.2),
        lambda: copy.deepcopy(fixed).set_params(lam=0.2),
    ):
        with pytest.raises(AttributeError, match="fixed"):
            call()
    fixed.lam = 0.7  # where it is
    np.testing.assert_array_equal(fixed.predict(x, lam=0.7), expected)
    assert fixed.at(0.2).lam == 0.2


# --- weights that change


def nudge(model, optimizer=None):
    """Train a step by hand."""
    optimizer = optimizer or torch.optim.SGD(model.network.parameters(), lr=1e-4)
    optimizer.zero_grad()
    model.network(torch.rand(4, *SHAPE), 0.7).square().sum().backward()
    optimizer.step()


def test_in_place_training_shows_everywhere(model, classifier, x, y):
    classifier.lam = 0.7
    fixed, network, before = classifier.at(0.7), classifier.model, classifier.predict(x)
    fixed.predict(x)
    nudge(model)
    after = stock(model.at(0.7)).predict(x)
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)
    # the network that an attack may have kept comes first, before the estimator is used
    np.testing.assert_array_equal(network(tensor(x)).numpy(), after)
    np.testing.assert_array_equal(classifier.predict(x), after)
    np.testing.assert_array_equal(fixed.predict(x), after)
    nudge(model)
    state = model.at(0.7).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in fixed.model.state_dict().items())


def test_replaced_weights_show(model, classifier, x):
    classifier.predict(x)
    for seed in range(4):  # a freed tensor's address may be given to the next
        state = {name: value + seed for name, value in model.network.backbone.state_dict().items()}
        model.network.backbone.load_state_dict(state, assign=True)
        del state
        np.testing.assert_array_equal(classifier.predict(x), stock(model.at(0.3)).predict(x))


def test_fused_optimizer_in_train_mode_shows(model, classifier, x):
    before = classifier.predict(x)
    model.network.train()
    nudge(model, torch.optim.SGD(model.network.parameters(), lr=1e-4, fused=True))
    model.network.eval()
    assert not np.array_equal(classifier.predict(x), before)
    np.testing.assert_array_equal(classifier.predict(x), stock(model.at(0.3)).predict(x))


def test_refresh_takes_up_what_goes_unnoticed(model, classifier, x):
    before = classifier.predict(x)
    model.network.backbone.linear.bias.data.add_(1.0)
    np.testing.assert_array_equal(classifier.predict(x), before)
    classifier.refresh()
    np.testing.assert_allclose(classifier.predict(x), before + 1, rtol=1e-4, atol=1e-4)


def test_inference_mode_leaves_nothing_behind(model, x, y):
    classifier = OATClassifier(model, lam=0.7)
    with torch.inference_mode():
        classifier.model(tensor(x))
    expected = stock(model.at(0.7)).loss_gradient(x, y)
    np.testing.assert_array_equal(classifier.loss_gradient(x, y), expected)


def test_a_graph_survives_a_change_of_point(model, classifier, x):
    images = tensor(x).requires_grad_()
    with classifier.operating_point(0.0):
        first, _ = classifier._predict_framework(images)
    with classifier.operating_point(1.0):
        second, _ = classifier._predict_framework(images)
    (first + second).sum().backward()
    total = sum(stock(model.at(lam)).class_gradient(x).sum(1) for lam in (0.0, 1.0))
    np.testing.assert_allclose(images.grad.numpy(), total, rtol=1e-3, atol=1e-4)


def test_get_activations_leaves_no_hook(classifier, x):
    kept = []
    classifier.model.stage2.register_forward_hook(lambda *_: kept.append(1))
    classifier.get_activations(x, 2)
    classifier.get_activations(x, "stage2", framework=True)
    assert len(kept) == 2
    hooks = [hook for module in classifier.model.modules() for hook in module._forward_hooks]
    assert len(hooks) == 1
    with pytest.raises(ValueError, match="nowhere"):
        classifier.get_activations(x, "nowhere")


class Sequence(TunableClassifier):
    """A tunable classifier of another kind; ART runs the layers of a Sequential one by one."""

    def __init__(self, info):
        self.info = info
        self.weight = torch.linspace(-1, 1, 640).reshape(10, 64)

    def at(self, lam, width=1.0):
        linear = nn.Linear(64, 10, bias=False)
        linear.weight.data = lam * self.weight
        return nn.Sequential(nn.Flatten(), linear).eval().requires_grad_(False)

    def state_dict(self):
        return {"weight": self.weight}

    @classmethod
    def from_state(cls, info, state):
        raise NotImplementedError

    def to(self, device):
        self.device = device
        return self


def test_any_tunable_classifier_takes_one_lambda_for_each_image(model, x):
    classifier = OATClassifier(Sequence(model.info))
    lam = np.array([0.5, 1, 0, 0.5, 0.25, 1])
    expected = lam[:, None] * classifier.predict(x)
    np.testing.assert_allclose(classifier.predict(x, lam=lam), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        classifier.predict(x, batch_size=2, lam=lam), expected, rtol=1e-5, atol=1e-6
    )
    assert classifier.lam == 1
    with pytest.raises(ValueError, match=r"lam is 1\.5"):
        classifier.predict(x, lam=lam + 0.5)


def test_any_tunable_classifier_can_be_attacked_but_not_trained(model, x, y):
    other = Sequence(model.info)
    classifier = OATClassifier(other)
    attack = evasion.AutoProjectedGradientDescent(
        classifier, eps=0.2, loss_type="cross_entropy", verbose=False
    )
    assert other.device == classifier.device
    once = classifier.predict(x)
    classifier.lam = 0.5
    np.testing.assert_allclose(attack.estimator.predict(x), once / 2, rtol=1e-5)
    other.weight *= 4
    np.testing.assert_allclose(attack.estimator.predict(x), once * 2, rtol=1e-5)
    for call in (
        lambda: classifier.fit(x, y),
        classifier.reset,
        classifier.clone_for_refitting,
    ):
        with pytest.raises(ValueError, match="not possible with a model of method"):
            call()


def test_new_weights_at_the_address_of_old_ones_show(model, x):
    other = Sequence(model.info)
    classifier = OATClassifier(other)
    for _ in range(20):
        before, doubled = classifier.predict(x), (2 * other.weight).tolist()
        del other.weight  # what comes next is likely to be given its memory
        other.weight = torch.tensor(doubled)
        np.testing.assert_allclose(classifier.predict(x), 2 * before, rtol=1e-5)


# --- training


def test_fit_lowers_the_loss_and_everything_follows(examples):
    model = build()
    classifier = OATClassifier(model, training=RECIPE)
    fixed = classifier.at(0.7)
    images, labels = examples
    before = {lam: classifier.at(lam).compute_loss(images, labels).mean() for lam in (0.0, 0.7)}
    torch.manual_seed(0)
    classifier.fit(images, np.eye(10)[labels], batch_size=50, nb_epochs=3)
    for lam in (0.0, 0.7):
        assert classifier.at(lam).compute_loss(images, labels).mean() < 0.5 * before[lam]
    np.testing.assert_array_equal(fixed.predict(images), stock(model.at(0.7)).predict(images))
    assert (fixed.predict(images).argmax(1) == labels).mean() > 0.7
    assert not model.network.training
    assert model.info.epochs == 43
    assert model.info.selection == "last: epoch 3"
    assert model.info.benchmark_card == ""
    trained = fixed.predict(images)
    fixed.fit(images, labels[:, None], batch_size=50, nb_epochs=1)
    assert not np.array_equal(classifier.predict(images, lam=0.7), trained)


def test_fit_is_fixed_by_the_global_seed(examples):
    def trained(seed):
        classifier = OATClassifier(build(), training=RECIPE)
        torch.manual_seed(seed)
        classifier.fit(examples[0][:40], examples[1][:40], batch_size=20, nb_epochs=1)
        return classifier.predict(examples[0][:5])

    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_fit_uses_recipe_and_threat(examples):
    x, y = examples[0][:40], examples[1][:40]
    averaged = TrainingCard(**(RECIPE.model_dump() | {"ema_decay": 0.5}))
    results = []
    for settings in (
        {"training": RECIPE},
        {"training": RECIPE, "threat": Threat(eps=0.0, step_size=0.0)},
        {"training": averaged},
    ):
        model = build()
        torch.manual_seed(0)
        OATClassifier(model, **settings).fit(x, y, batch_size=20, nb_epochs=1)
        assert model.info.threat == settings.get("threat", Threat(eps=0.2, step_size=0.1))
        results.append(stock(model.at(1.0)).predict(x))
    assert model.info.selection == "last of the moving average: epoch 1"
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_fit_uses_optimizer_scheduler_and_drop_last(examples):
    model = build()
    optimizer = torch.optim.Adam(model.network.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    rates = []
    optimizer.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    classifier = OATClassifier(model, optimizer=optimizer, training=RECIPE)
    x, y = examples[0][:45], examples[1][:45]
    classifier.fit(x, y, 20, 2, drop_last=True, scheduler=scheduler)
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.001, 0.001])
    rates.clear()
    classifier.fit(x, y, 20, 1)
    assert len(rates) == 3


def test_fit_applies_the_preprocessing(examples):
    images, labels = examples
    bytes_ = np.round(images[:40] * 255)
    for name, x, settings in (
        ("bytes", bytes_, {"clip_values": (0, 255), "preprocessing": (0.0, 255.0)}),
        ("plain", bytes_.astype(np.float32) / np.float32(255), {}),
    ):
        classifier = OATClassifier(build(), training=RECIPE, **settings)
        torch.manual_seed(0)
        classifier.fit(x, labels[:40], batch_size=20, nb_epochs=1)
        logits = classifier.predict(x.astype(np.float32))
        if name == "bytes":
            expected = logits
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_fit_shows_progress_only_if_asked(examples, monkeypatch):
    shown, train = [], Trainer.train

    def recorded(self, *, show=True):
        shown.append(show)
        return train(self, show=show)

    monkeypatch.setattr(Trainer, "train", recorded)
    classifier = OATClassifier(build(), training=RECIPE)
    classifier.fit(examples[0][:20], examples[1][:20], 20, 1)
    classifier.fit(examples[0][:20], examples[1][:20], 20, 1, verbose=True)
    assert shown == [False, True]


def test_fit_within_a_memory_says_how_its_steps_were_split(examples, monkeypatch):
    model, card = build(), TrainingCard(**(RECIPE.model_dump() | {"memory": "1GiB"}))
    first = [part[:20] for part in examples]
    OATClassifier(model, training=card).fit(*first, 20, 1)
    assert model.info.micro_batch is None
    monkeypatch.setattr("oat_bench.training.loop.limits", lambda *_: (12, 12))
    OATClassifier(model, training=card).fit(*first, 20, 1)
    assert model.info.micro_batch == 10


def test_interrupted_fit_leaves_eval_mode_and_an_honest_description(examples):
    model = build()
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1)

    def interrupt(*_):
        raise KeyboardInterrupt

    optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        OATClassifier(model, optimizer=optimizer, training=RECIPE).fit(*examples, nb_epochs=1)
    assert not any(module.training for module in model.network.modules())
    assert model.info.benchmark_card == ""


def refusal(classifier, x, y, **kwargs):
    before = {name: value.clone() for name, value in classifier.tunable.state_dict().items()}
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the callers match the message)
        classifier.fit(x, y, **({"batch_size": 4, "nb_epochs": 1} | kwargs))
    after = classifier.tunable.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return str(error.value)


def test_fit_refuses_what_it_cannot_do(model, x, y):
    classifier = OATClassifier(model, training=RECIPE)
    assert "epochs, speed" in refusal(classifier, x, y, speed=1, epochs=2)
    assert "training_mode" in refusal(classifier, x, y, training_mode=False)
    assert "drop_last" in refusal(classifier, x, y, batch_size=7, drop_last=True)
    assert "batch_size" in refusal(classifier, x, y, batch_size=1)
    assert refusal(classifier, x, y, nb_epochs=0) == "nb_epochs is 0; expected a whole number >= 1"
    assert "nb_epochs is 1.5" in refusal(classifier, x, y, nb_epochs=1.5)
    assert "floating-point" in refusal(classifier, (x * 255).astype(np.uint8), y)
    assert "of shape" in refusal(classifier, np.zeros((6, 1, 9, 9), np.float32), y)
    assert "range" in refusal(classifier, x * 255, y)
    assert "range" in refusal(OATClassifier(model, preprocessing=(0.5, 0.2)), x, y)
    assert "NaN" in refusal(classifier, x * np.nan, y)
    assert "shape" in refusal(classifier, x[:5], y)
    assert "label -1" in refusal(classifier, x, np.array([0, 1, 2, 3, 4, -1]))
    assert "label 10" in refusal(classifier, x, np.array([[0], [1], [2], [3], [4], [10]]))
    assert "label 0.5" in refusal(classifier, x, np.array([0, 1, 2, 3, 4, 0.5]))
    assert "one-hot" in refusal(classifier, x, y * 0.9)
    assert "one-hot" in refusal(classifier, x, y[:, :9])
    assert "one-hot" in refusal(classifier, x, y * 0)
    for loss in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.MultiMarginLoss()):
        assert "cross-entropy" in refusal(OATClassifier(model, loss=loss), x, y)
    for change, word in (({"lambdas": [0, 1]}, "lambdas"), ({"selection": "best"}, "selection")):
        card = TrainingCard(**(RECIPE.model_dump() | change))
        assert word in refusal(OATClassifier(model, training=card), x, y)


def test_fit_refuses_an_optimizer_or_scheduler_of_something_else(model, x, y):
    foreign = torch.optim.SGD(build().network.parameters(), lr=0.1)
    own = torch.optim.SGD(model.network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(foreign, step_size=1)
    assert "optimizer" in refusal(OATClassifier(model, optimizer=foreign), x, y)
    for optimizer in (own, None):
        classifier = OATClassifier(model, optimizer=optimizer)
        assert "scheduler" in refusal(classifier, x, y, scheduler=scheduler)


def test_fit_generator(examples):
    model, (images, labels) = build(), examples
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1, momentum=0.9)
    classifier = OATClassifier(model, optimizer=optimizer, training=RECIPE)
    generator = NumpyDataGenerator(images, np.eye(10)[labels], batch_size=50)
    before = classifier.compute_loss(images, labels).mean()
    classifier.fit_generator(generator, nb_epochs=2)
    assert classifier.compute_loss(images, labels).mean() < 0.8 * before
    assert model.info.epochs == 42
    assert model.info.selection == "last: epoch 2"
    with pytest.raises(ValueError, match="optimizer"):
        OATClassifier(model).fit_generator(generator)
    card = TrainingCard(**(RECIPE.model_dump() | {"ema_decay": 0.9}))
    with pytest.raises(ValueError, match="ema_decay"):
        OATClassifier(model, optimizer=optimizer, training=card).fit_generator(generator)


# --- copies


def holds(optimizer, model):
    mine = {id(parameter) for parameter in model.network.parameters()}
    return all(id(p) in mine for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_clone_for_refitting(model, x, y, kind):
    optimizer = kind(model.network.parameters(), lr=0.03, weight_decay=0.02)
    classifier = OATClassifier(
        model,
        optimizer=optimizer,
        lam=0.7,
        training=RECIPE,
        threat=Threat(eps=0.5),
        preprocessing=None,
    )
    before = classifier.predict(x)
    clone = classifier.clone_for_refitting()
    assert type(clone.optimizer) is kind
    assert clone.optimizer.defaults["weight_decay"] == 0.02
    assert holds(clone.optimizer, clone.tunable)
    assert clone.tunable.info.network == model.info.network
    assert clone.tunable.info.epochs == 0
    for name in ("lam", "training", "threat", "preprocessing"):
        assert getattr(clone, name) == getattr(classifier, name)
    assert not np.allclose(clone.predict(x), before)
    clone.fit(x, y, batch_size=6, nb_epochs=1)
    np.testing.assert_array_equal(classifier.predict(x), before)
    assert classifier.clone_for_refitting().tunable.info.seed != clone.tunable.info.seed


def test_clone_without_optimizer(classifier, x, y):
    clone = classifier.clone_for_refitting()
    assert clone.optimizer is None
    clone.fit(x, y, batch_size=6, nb_epochs=1)


def test_clone_of_a_fixed_estimator_is_fixed(classifier):
    clone = classifier.at(0.7).clone_for_refitting()
    assert clone.lam == 0.7
    with pytest.raises(AttributeError, match="fixed"):
        clone.lam = 0.2


def test_reset(model, classifier, x):
    fixed, before = classifier.at(0.3), classifier.predict(x)
    network = model.network
    classifier.reset()
    assert model.network is network
    fresh = OAT.build(model.info)
    np.testing.assert_array_equal(classifier.predict(x), stock(fresh.at(0.3)).predict(x))
    np.testing.assert_array_equal(fixed.predict(x), classifier.predict(x))
    assert not np.allclose(classifier.predict(x), before)
    assert (model.info.epochs, model.info.benchmark_card) == (0, "")


def test_save(model, x, y, tmp_path, monkeypatch):
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1, momentum=0.9)
    classifier = OATClassifier(model, optimizer=optimizer, training=RECIPE)
    classifier.fit(x, y, batch_size=6, nb_epochs=1)
    classifier.save("net", str(tmp_path / "new"))
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path / "data"))
    OATClassifier(model).save("net")
    assert [p.name for p in sorted((tmp_path / "new").iterdir())] == ["net.model", "net.optimizer"]
    assert [p.name for p in sorted((tmp_path / "data").iterdir())] == ["net.model"]
    state = torch.load(tmp_path / "new" / "net.model", weights_only=True)
    for lam in (0.0, 0.7):
        loaded = OAT.from_state(model.info, state).at(lam)
        np.testing.assert_array_equal(stock(loaded).predict(x), classifier.predict(x, lam=lam))
    slots = torch.load(tmp_path / "new" / "net.optimizer", weights_only=True)["state"]
    assert torch.equal(
        slots[0]["momentum_buffer"], optimizer.state_dict()["state"][0]["momentum_buffer"]
    )


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_pickling(model, x, y, tmp_path, monkeypatch, duplicate):
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path))
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1, momentum=0.9)
    classifier = OATClassifier(model, optimizer=optimizer, lam=0.7, training=RECIPE)
    classifier.fit(x, y, batch_size=6, nb_epochs=1)
    classifier.get_activations(x, 2, framework=True)
    fixed, other = duplicate((classifier.at(0.15), classifier))
    assert list(tmp_path.iterdir()) == []
    assert (fixed.lam, other.lam, other.training) == (0.15, 0.7, RECIPE)
    assert other.tunable is fixed.tunable is not model
    assert holds(other.optimizer, other.tunable)
    assert fixed.optimizer is other.optimizer
    for lam in (0.7, 0.0):
        other.lam = lam
        np.testing.assert_array_equal(other.predict(x), classifier.predict(x, lam=lam))
        np.testing.assert_array_equal(
            other.loss_gradient(x, y), classifier.at(lam).loss_gradient(x, y)
        )
    np.testing.assert_array_equal(fixed.predict(x), classifier.predict(x, lam=0.15))
    before, theirs = classifier.predict(x), other.predict(x)
    other.fit(x, y, batch_size=6, nb_epochs=1)
    np.testing.assert_array_equal(classifier.predict(x), before)
    assert not np.array_equal(other.predict(x), theirs)
    np.testing.assert_array_equal(fixed.predict(x), other.predict(x, lam=0.15))


def test_shallow_copy_shares_weights_but_not_the_operating_point(model, classifier, x):
    other = copy.copy(classifier)
    other.lam = 0.7
    assert classifier.lam == 0.3
    assert other.tunable is model
    np.testing.assert_array_equal(classifier.predict(x), stock(model.at(0.3)).predict(x))


def test_few_networks_are_kept_and_none_is_pickled(model, classifier, x, monkeypatch):
    made, at = [], model.at

    def recorded(lam, width=1.0):
        network = at(lam, width)
        made.append(weakref.ref(network))
        return network

    monkeypatch.setattr(model, "at", recorded)
    before = len(made)
    for lam in np.linspace(0, 1, 21):
        classifier.predict(x, lam=lam)
        classifier.predict(x, lam=lam)
    gc.collect()
    assert 21 <= len(made) - before < 42
    assert sum(network() is not None for network in made) <= 8
    monkeypatch.undo()
    used, new = (len(pickle.dumps(c)) for c in (classifier, OATClassifier(model, training=RECIPE)))
    assert used < 1.1 * new


def test_a_copy_of_the_plain_network_is_on_its_own(model, classifier, x):
    network = copy.deepcopy(classifier.model)
    classifier.lam = 1.0
    nudge(model)
    classifier.predict(x)
    assert not np.array_equal(network(tensor(x)).numpy(), classifier.predict(x))


def test_params_round_trip(model, x):
    classifier = OATClassifier(
        model, lam=0.7, training=RECIPE, threat=Threat(eps=0.1), **SETTINGS["standardised"]
    )
    params = classifier.get_params()
    assert set(params) == set(OATClassifier.estimator_params)
    assert set(params) > set(PyTorchClassifier.estimator_params)
    twin = OATClassifier(**params)
    assert twin.tunable is model
    assert twin.threat.eps == 0.1
    np.testing.assert_array_equal(twin.predict(x), classifier.predict(x))
    twin.set_params(lam=0.0, preprocessing=None)
    twin.set_params(**params)
    np.testing.assert_array_equal(twin.predict(x), classifier.predict(x))
    with pytest.raises(ValueError, match="keeps its model"):
        twin.set_params(model=build())


def test_constructor_refuses_what_contradicts_the_model(model):
    OATClassifier(model, nn.CrossEntropyLoss(), SHAPE, 10)
    for arguments, word in (
        ({"input_shape": (3, 8, 8)}, "input_shape"),
        ({"nb_classes": 2}, "nb_classes"),
        ({"use_amp": True}, "use_amp"),
        ({"channels_first": False}, "channels_first"),
    ):
        with pytest.raises(ValueError, match=word):
            OATClassifier(model, **arguments)


# --- what images may be


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_floating_type_is_taken_as_float32(classifier, x, dtype):
    given = x.astype(dtype)
    expected = stock(classifier.tunable.at(0.3)).predict(given.astype(np.float32))
    logits = classifier.predict(given)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected)
    each = classifier.predict(given, lam=np.full(len(x), 0.3))
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-4)


FOREIGN_IMAGES = {
    "uint8": (lambda x: (x * 255).astype(np.uint8), "x: of type uint8; expected .* by x / 255$"),
    "int64": (lambda x: x.astype(np.int64), "x: of type int64"),
    "bool": (lambda x: x > 0.5, "x: of type bool"),
    "complex": (lambda x: x + 0j, "x: of type complex64"),
    "text": (lambda x: x.astype(str), "x: of type <U"),
    "0 to 255": (lambda x: x * 255, r"from 0 to 255; expected numbers in \[0, 1\]"),
    "0 to 16": (lambda x: x * 16, "from 0 to 16; expected"),
    "NaN": (lambda x: np.where(x == 0, np.nan, x), "NaN or infinite values"),
    "infinite": (lambda x: np.where(x == 0, np.inf, x), "NaN or infinite values"),
    "9x9": (lambda x: np.zeros((2, 1, 9, 9), np.float32), r"\(2, 1, 9, 9\); expected \[n, 1, 8, 8"),
    "channels": (lambda x: x.repeat(3, 1), r"of shape \(6, 3, 8, 8\)"),
    "channels last": (lambda x: x.transpose(0, 2, 3, 1), r"of shape \(6, 8, 8, 1\)"),
    "one image": (lambda x: x[0], r"of shape \(1, 8, 8\)"),
    "flat": (lambda x: x.reshape(6, 64), r"of shape \(6, 64\)"),
}
DOORS = {
    "predict": lambda e, x, y: e.predict(x),
    "predict each": lambda e, x, y: e.predict(x, lam=np.full(len(x), 0.3)),
    "predict with dropout": lambda e, x, y: e.predict(x, training_mode=True),
    "loss_gradient": lambda e, x, y: e.loss_gradient(x, y[: len(x)]),
    "class_gradient": lambda e, x, y: e.class_gradient(x),
    "compute_loss": lambda e, x, y: e.compute_loss(x, y[: len(x)]),
    "get_activations": lambda e, x, y: e.get_activations(x, 2),
    "fit": lambda e, x, y: e.fit(x, y[: len(x)], nb_epochs=1),
}


@pytest.mark.parametrize("door", DOORS)
def test_what_are_no_images_of_the_model_is_refused_at_every_door(classifier, x, y, door):
    before = {name: value.clone() for name, value in classifier.tunable.state_dict().items()}
    in_torch = door in ("loss_gradient", "class_gradient")
    for change, message in FOREIGN_IMAGES.values():
        if in_torch and "type" in message:
            message = ""  # torch, which ART hands x to before, has a word of its own
        with pytest.raises((ValueError, RuntimeError, TypeError), match=message):
            DOORS[door](classifier, change(x), y)
    after = classifier.tunable.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_no_images_have_empty_answers(classifier, x, y):
    for options in ({}, {"training_mode": True}, {"lam": []}):
        logits = classifier.predict(x[:0], **options)
        assert logits.shape == (0, 10)
        assert logits.dtype == np.float32
    assert classifier.loss_gradient(x[:0], y[:0]).shape == (0, *SHAPE)
    assert classifier.class_gradient(x[:0]).shape == (0, 10, *SHAPE)
    assert classifier.compute_loss(x[:0], y[:0]).shape == (0,)
    expected = classifier.get_activations(x, 2).shape[1:]
    assert classifier.get_activations(x[:0], 2).shape == (0, *expected)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "all"])
def test_a_batch_has_images(classifier, x, batch_size):
    with pytest.raises(ValueError, match=r"batch_size is .*; expected a whole number >= 1"):
        classifier.predict(x, batch_size)


def test_images_have_the_range_of_the_clip_values(model, x):
    bytes_ = OATClassifier(model, clip_values=(0, 255), preprocessing=(0.0, 255.0))
    expected = OATClassifier(model).predict(x)
    given = (x * 255).astype(np.float32)
    np.testing.assert_allclose(bytes_.predict(given), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"x: of type uint8; .* by x.astype\('float32'\)"):
        bytes_.predict(given.astype(np.uint8))
    # what has no range is only finite
    assert np.isfinite(OATClassifier(model, clip_values=None).predict(x * 20)).all()


# --- attacks


class Softmax(Postprocessor):
    """SimBA wants probabilities."""

    params = []

    def __init__(self):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, preds):
        return torch.softmax(tensor(preds), 1).numpy()


class AnyFloat(nn.Module):
    """With numpy 2, HopSkipJump and Boundary bring float64, on which ART's own estimator fails."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.float())


def auto_attack(e):
    apgd = [
        evasion.AutoProjectedGradientDescent(
            e, eps=0.2, max_iter=3, nb_random_init=1, loss_type=loss, verbose=False
        )
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]
    return evasion.AutoAttack(e, eps=0.2, attacks=apgd)


QUIET = {"verbose": False}
ATTACKS = {
    "FGSM": lambda e: evasion.FastGradientMethod(e, eps=0.2),
    "PGD": lambda e: evasion.ProjectedGradientDescent(
        e, eps=0.2, eps_step=0.05, max_iter=3, num_random_init=1, **QUIET
    ),
    "AutoPGD": lambda e: evasion.AutoProjectedGradientDescent(
        e, eps=0.2, max_iter=3, nb_random_init=1, **QUIET
    ),
    "AutoPGD DLR": lambda e: evasion.AutoProjectedGradientDescent(
        e, eps=0.2, max_iter=3, nb_random_init=1, loss_type="difference_logits_ratio", **QUIET
    ),
    "AutoAttack": auto_attack,
    "DeepFool": lambda e: evasion.DeepFool(e, max_iter=5, nb_grads=5, epsilon=0.1, **QUIET),
    "Carlini L2": lambda e: evasion.CarliniL2Method(
        e, max_iter=2, binary_search_steps=1, initial_const=10.0, **QUIET
    ),
    "Carlini Linf": lambda e: evasion.CarliniLInfMethod(
        e, max_iter=4, learning_rate=0.2, initial_const=10.0, largest_const=15.0, **QUIET
    ),
    "Square": lambda e: evasion.SquareAttack(e, eps=0.2, max_iter=5, nb_restarts=1, **QUIET),
    "HopSkipJump": lambda e: evasion.HopSkipJump(
        e, max_iter=1, max_eval=10, init_eval=5, init_size=20, **QUIET
    ),
    "Boundary": lambda e: evasion.BoundaryAttack(
        e, targeted=False, max_iter=10, num_trial=3, sample_size=5, init_size=20, **QUIET
    ),
    "Zoo": lambda e: evasion.ZooAttack(
        e,
        max_iter=1,
        binary_search_steps=1,
        initial_const=100.0,
        learning_rate=1.0,
        nb_parallel=32,
        variable_h=0.2,
        use_resize=False,
        use_importance=False,
        **QUIET,
    ),
    "SimBA": lambda e: evasion.SimBA(e, max_iter=5, epsilon=0.3, **QUIET),
    "ElasticNet": lambda e: evasion.ElasticNet(
        e, max_iter=2, binary_search_steps=1, initial_const=10.0, **QUIET
    ),
    "NewtonFool": lambda e: evasion.NewtonFool(e, max_iter=2, **QUIET),
}
LOSS_ASCENT = ("FGSM", "PGD", "AutoPGD", "AutoPGD DLR", "AutoAttack")


@pytest.fixture
def seeded(monkeypatch):
    """Make ART's attacks reproducible; some draw from a generator without a seed."""
    plain = np.random.RandomState
    monkeypatch.setattr(np.random, "RandomState", lambda *_: plain(0))
    if find_spec("multiprocess") is None:  # AutoAttack imports it, but ART does not require it
        monkeypatch.setitem(sys.modules, "multiprocess", multiprocessing)

    def run(attack, x, y):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        return attack.generate(x=x, y=y)

    return run


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_see_the_operating_point(trained, x, y, seeded, name):
    make = ATTACKS[name]
    settings = {"postprocessing_defences": Softmax()} if name == "SimBA" else {}
    expected = {
        lam: seeded(make(stock(AnyFloat(trained.at(lam)), **settings)), x, y) for lam in (0.0, 0.7)
    }
    assert not np.array_equal(expected[0.0], expected[0.7])
    classifier = OATClassifier(trained, lam=0.7, **settings)
    attack = make(classifier)  # made at another point than it is first used at
    for lam in (0.0, 0.7):
        classifier.lam = lam
        x_adv = seeded(attack, x, y)
        np.testing.assert_array_equal(x_adv, expected[lam])
        np.testing.assert_array_equal(seeded(make(classifier.at(lam)), x, y), expected[lam])
        assert x_adv.shape == x.shape
        assert np.isfinite(x_adv).all()
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert not np.array_equal(x_adv, x)
        if name in LOSS_ASCENT:
            clean, robust = (
                (classifier.predict(images).argmax(1) == y.argmax(1)).mean()
                for images in (x, x_adv)
            )
            assert robust <= clean - 0.4
        assert not any(module.training for module in trained.network.modules())


def test_an_attack_made_before_training_attacks_the_trained_weights(model, x, y, seeded):
    classifier = OATClassifier(model, lam=0.7, training=RECIPE)
    attacks = [ATTACKS[name](classifier) for name in ("AutoPGD DLR", "AutoAttack")]
    nudge(model)
    for attack, name in zip(attacks, ("AutoPGD DLR", "AutoAttack"), strict=True):
        expected = seeded(ATTACKS[name](stock(model.at(0.7))), x, y)
        np.testing.assert_array_equal(seeded(attack, x, y), expected)


# --- several widths


@pytest.fixture(scope="module")
def slim():
    """A model of three widths, at which it is three different classifiers."""
    info = build().info
    card = NetworkCard(architecture="wrn-10-1", encoding_dim=8, widths=[1, 0.75, 0.5])
    model = OAT.build(info.model_copy(update={"network": card}))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.network.backbone.state_dict().items():
            if name.endswith("running_var"):
                value.mul_(0.5 + torch.rand(value.shape, generator=noise))
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn(value.shape, generator=noise))
    return model


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("width", [1, 0.75, 0.5])
def test_equals_stock_at_every_width(slim, x, y, lam, width):
    expected = stock(slim.at(lam, width))
    moved = OATClassifier(slim, lam=0.4, width=0.75)
    moved.lam, moved.width = lam, width
    for estimator in (OATClassifier(slim, lam=lam, width=width), moved, moved.at(lam, width)):
        assert (estimator.lam, estimator.width) == (lam, width)
        np.testing.assert_allclose(estimator.predict(x), expected.predict(x), rtol=1e-5)
        np.testing.assert_allclose(
            estimator.loss_gradient(x, y), expected.loss_gradient(x, y), rtol=1e-4, atol=1e-7
        )


def test_the_network_of_a_width_is_narrow_and_says_so(slim, x):
    estimator = OATClassifier(slim, width=1)
    for width, channels in ((1, 64), (0.5, 32), (0.75, 48)):
        estimator.width = width
        conv = estimator.model.stage3.blocks[0].conv2
        assert (conv.in_channels, conv.out_channels) == (channels, channels)
        assert conv.weight.shape[:2] == (channels, channels)
        assert estimator.model.linear.in_features == channels
        estimator.predict(x)


def test_width_is_taken_as_lam_is(slim, x):
    estimator = OATClassifier(slim, lam=0.2)
    assert estimator.width == 1
    full = estimator.predict(x)
    narrow = estimator.predict(x, width=0.5)
    assert np.abs(full - narrow).max() > 1e-2
    assert (estimator.lam, estimator.width) == (0.2, 1)
    with estimator.operating_point(width=0.5):
        np.testing.assert_array_equal(estimator.predict(x), narrow)
        with estimator.operating_point(0.4, 0.75):
            assert (estimator.lam, estimator.width) == (0.4, 0.75)
        assert (estimator.lam, estimator.width) == (0.2, 0.5)
    np.testing.assert_array_equal(estimator.predict(x), full)
    each = np.array([0, 0.1, 0.2, 0.3, 0.4, 1])
    rows = [estimator.predict(x[i : i + 1], lam=each[i], width=0.5) for i in range(6)]
    np.testing.assert_allclose(
        estimator.predict(x, lam=each, width=0.5), np.vstack(rows), rtol=1e-4, atol=1e-5
    )


def test_an_estimator_fixed_at_a_width_stays_there(slim, x):
    estimator = OATClassifier(slim, lam=0.2).at(width=0.5)
    assert (estimator.lam, estimator.width) == (0.2, 0.5)
    message = r"fixed at lam = 0\.2, width = 0\.5; for another point call at\(0\.2, width=1\)"
    with pytest.raises(AttributeError, match=message):
        estimator.width = 1
    with pytest.raises(AttributeError):
        estimator.predict(x, width=1)
    twin = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(twin.predict(x), estimator.predict(x))
    assert copy.copy(estimator).width == 0.5
    assert repr(estimator).endswith(", lam=0.2, width=0.5)")
    assert estimator.get_params()["width"] == 0.5


@pytest.mark.parametrize("width", [0.6, 0, 2, float("nan")])
def test_a_width_that_the_model_lacks(slim, x, width):
    estimator = OATClassifier(slim, width=0.5)
    for call in (
        lambda: OATClassifier(slim, width=width),
        lambda: estimator.at(width=width),
        lambda: estimator.predict(x, width=width),
        lambda: setattr(estimator, "width", width),
    ):
        with pytest.raises(ValueError, match=r"^width "):
            call()
    assert estimator.width == 0.5


def test_attacks_see_the_width(slim, x, y):
    """FGSM at each width is ART's own on the plain network of that width."""
    estimator = OATClassifier(slim, lam=0.3)
    attack = evasion.FastGradientMethod(estimator, eps=0.1)
    found = []
    for width in (1, 0.75, 0.5):
        estimator.width = width
        own = evasion.FastGradientMethod(stock(slim.at(0.3, width)), eps=0.1)
        found.append(attack.generate(x, y))
        np.testing.assert_allclose(found[-1], own.generate(x, y), atol=1e-6)
    assert not np.array_equal(found[0], found[2])


def test_fit_trains_every_width(slim, examples):
    model = copy.deepcopy(slim)
    estimator = OATClassifier(model, training=RECIPE)
    before = copy.deepcopy(model.network.state_dict())
    estimator.fit(*(part[:64] for part in examples), batch_size=32, nb_epochs=1)
    after = model.network.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    for width in ("norm.bn_a", "norm.narrow.0.bn_a", "norm.narrow.1.bn_a"):
        assert f"backbone.{width}.weight" in moved


# --- threads


@pytest.fixture
def hasty():
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(calls):
    """Call each in a thread of its own, five times, all at once; return what came of it."""
    start = threading.Barrier(len(calls))

    def repeat(call):
        start.wait(60)
        return [call() for _ in range(5)]

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(repeat, calls))


@pytest.mark.usefixtures("hasty")
def test_an_argument_of_one_thread_is_not_anothers(model, classifier, x, y):
    each = np.linspace(0, 1, len(x))
    lambdas = [0.0, 0.1, 0.45, 1.0]
    expected = [stock(model.at(lam)).predict(x) for lam in lambdas]
    calls = [lambda lam=lam: classifier.predict(x, lam=lam) for lam in lambdas]
    # beside them threads that say nothing, ask for gradients, and for one lambda an image
    still = stock(model.at(0.3))
    calls += [lambda: classifier.predict(x), lambda: classifier.loss_gradient(x, y)]
    calls += [lambda: classifier.predict(x, lam=each)]
    expected += [still.predict(x), still.loss_gradient(x, y)]
    alone = [stock(model.at(lam)).predict(x[[i]]) for i, lam in enumerate(each)]
    expected += [np.concatenate(alone)]
    for found, right in zip(in_threads(calls), expected, strict=True):
        for result in found:
            np.testing.assert_allclose(result, right, atol=2e-5)
    assert classifier.lam == 0.3
    np.testing.assert_allclose(classifier.predict(x), still.predict(x), atol=2e-5)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("method", ["loss_gradient", "class_gradient", "compute_loss"])
def test_threads_with_estimators_of_their_own_differ_in_the_point(model, classifier, x, y, method):
    lambdas = [0.0, 0.1, 0.45, 1.0]
    expected = [METHODS[method](stock(model.at(lam)), x, y) for lam in lambdas]

    def call(lam):
        return METHODS[method](classifier.at(lam), x, y)

    found = in_threads([lambda lam=lam: call(lam) for lam in lambdas])
    for results, right in zip(found, expected, strict=True):
        for result in results:
            np.testing.assert_allclose(result, right, atol=2e-5)


def test_an_argument_with_dropout_on_leaves_the_point(x):
    classifier = OATClassifier(perturbed(dropout=0.5), lam=0.3)
    before = classifier.model
    seen = []
    handle = before.register_forward_hook(lambda *_: seen.append(classifier.lam))
    classifier.predict(x, lam=0.9, training_mode=True)
    handle.remove()
    assert not seen  # the estimator's own network had no part in it
    assert classifier.lam == 0.3
