"""Anybody's network, anybody's family of networks: wrapped, attacked, refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import oat_bench
from oat_bench import OATClassifier
from oat_bench.errors import UserError
from oat_bench.methods.mixing import Mixture, OutputMixing
from oat_bench.training.pgd import pgd
from oat_bench.wrapping import from_source

ATTACKS = "fgsm,pgd-7"


class Net(nn.Module):
    """A small network of somebody's own, with weights that a seed draws."""

    def __init__(self, seed=0, out=10):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, out)
            )

    def forward(self, x):
        return self.layers(x)


class Family:
    """Somebody's own dial: weights between those of two networks."""

    def at(self, lam):
        mixed, ends = Net(), (Net(1).state_dict(), Net(2).state_dict())
        mixed.load_state_dict({k: torch.lerp(v, ends[1][k], lam) for k, v in ends[0].items()})
        return mixed.eval()


def test_a_plain_network_is_a_table_of_one_row(digits, tmp_path):
    net = Net().eval()
    result = oat_bench.evaluate(net, dataset=digits, attacks=ATTACKS, n_examples=60)
    assert len(result.table) == 1
    x, y = digits.test.inputs(), digits.test.labels
    ids = torch.as_tensor(result.outcomes.query("attack == 'fgsm'")["example"].to_numpy())
    right = (net(x[ids]).argmax(1) == y[ids]).float().mean().item()
    assert result.points[0].clean_acc == pytest.approx(100 * right, abs=1e-4)
    eps = result.classifier.info.threat.eps
    x_adv = pgd(net, x[ids], y[ids], eps=eps, step_size=eps, steps=1, random_start=False)
    stands = (net(x_adv).argmax(1) == y[ids]) & (net(x[ids]).argmax(1) == y[ids])
    assert result.points[0].robust["fgsm"].value == pytest.approx(
        100 * stands.float().mean().item(), abs=1e-4
    )
    assert "Net" in str(result)
    assert "fgsm" in str(result)
    folder = result.save(tmp_path / "report")
    assert {"entry.json", "report.md", "table.md", "outcomes.parquet"} <= {
        path.name for path in folder.iterdir()
    }
    assert result.entry.name == "Net"
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_family_is_evaluated_at_each_of_its_lambda_values(digits):
    result = oat_bench.evaluate(
        Family(), dataset="digits", attacks="fgsm", lambdas=[0, 0.5, 1], n_examples=30
    )
    assert [point.lam for point in result.points] == [0, 0.5, 1]
    assert isinstance(result.table, pd.DataFrame)
    whole = oat_bench.evaluate(Net(2).eval(), dataset=digits, attacks="fgsm", n_examples=30)
    assert whole.points[0].clean_acc_interval == result.points[-1].clean_acc_interval
    assert whole.points[0].robust == result.points[-1].robust


def test_normalisation_is_part_of_the_network(digits):
    net, mean, std = Net().eval(), [0.3], [0.2]
    wrapped = oat_bench.wrap(net, dataset=digits, normalize=(mean, std))
    x = digits.test.inputs(slice(0, 8))
    torch.testing.assert_close(wrapped.at(1.0)(x), net((x - 0.3) / 0.2))


def test_the_estimator_follows_a_family_of_somebodys_own(digits):
    wrapped = oat_bench.wrap(Family(), dataset=digits)
    estimator = OATClassifier(wrapped, lam=0.0)
    x = digits.test.inputs(slice(0, 6)).numpy()
    for lam in (0.0, 0.3, 1.0):
        expected = Family().at(lam)(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(estimator.predict(x, lam=lam), expected, rtol=1e-5, atol=1e-6)
        estimator.lam = lam
        np.testing.assert_allclose(estimator.predict(x), expected, rtol=1e-5, atol=1e-6)
    each = estimator.predict(x, lam=[0, 1, 0, 1, 0.3, 0.3])
    np.testing.assert_allclose(each[1], estimator.predict(x[1:2], lam=1.0)[0], rtol=1e-5, atol=1e-6)


class Probabilities(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class NotANumber(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


class OtherImages(Net):
    def forward(self, x):
        return super().forward(x[:, :, 1:])


class Raising:
    def at(self, lam):
        raise RuntimeError("no such\nweights")


class Numbers:
    def at(self, lam):
        return lam


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            Net(out=7).eval(),
            r"Net returns \[4, 7\] for 4 images; expected logits of shape \[4, 10\]",
        ),
        (Probabilities().eval(), "returns probabilities.*leave out the softmax"),
        (Net(), r"is in train mode.*call \.eval\(\)"),
        (NotANumber().eval(), "returns NaN or infinite logits"),
        (OtherImages().eval(), r"fails on images of shape \[4, 1, 8, 8\]"),
        (Raising(), r"Raising\.at\(0\) raises RuntimeError: no such weights"),
        (Numbers(), r"Numbers\.at\(0\) is a float; expected a torch\.nn\.Module"),
        (
            object(),
            r"a model is a object; expected a torch\.nn\.Module, or an object with at\(lam\)",
        ),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(digits, model, told):
    with pytest.raises(UserError, match=told) as caught:
        oat_bench.evaluate(model, dataset=digits)
    assert "\n" not in str(caught.value)


def test_there_is_no_lambda_of_a_network_without_a_dial(digits):
    with pytest.raises(UserError, match="has no dial"):
        oat_bench.evaluate(Net().eval(), dataset=digits, lambdas=[0.5], attacks="fgsm")


# --- a function in a file

SOURCE = """
import torch
from beside import make

def build(path=None):
    net = make()
    if path is not None:
        net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()

def broken():
    raise KeyError("weights")
"""
BESIDE = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "mine_of_the_tests.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text(BESIDE)
    return tmp_path / "mine_of_the_tests.py"


def test_a_function_of_a_file_builds_the_model_from_what_follows_it(source, digits, tmp_path):
    weights = {"1.weight": torch.ones(10, 64), "1.bias": torch.arange(10.0)}
    torch.save(weights, tmp_path / "w.pt")
    built = from_source(f"{source}:build={tmp_path / 'w.pt'}", digits)
    assert built.at(1.0)(torch.zeros(1, 1, 8, 8)).tolist() == [list(range(10))]
    assert (
        built.fingerprint()
        == from_source(f"{source}:build={tmp_path / 'w.pt'}", digits).fingerprint()
    )
    source.write_text(SOURCE + "\n# other code may compute other things\n")
    changed = from_source(f"{source}:build={tmp_path / 'w.pt'}", digits)
    assert built.fingerprint() != changed.fingerprint()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{source}:broken", "raises KeyError: 'weights'"),
        ("{source}:nothing", "has no function 'nothing'; it has broken, build, make"),
        ("{folder}/no.py:build", "no file at"),
        ("{source}:build={folder}/no.pt", "raises FileNotFoundError"),
    ],
)
def test_what_goes_wrong_in_a_file_is_one_line(source, digits, name, told):
    with pytest.raises(UserError, match=told):
        from_source(name.format(source=source, folder=source.parent), digits)


# --- mixed outputs


def test_a_mixture_is_the_log_of_the_mixed_probabilities(digits):
    standard, robust = Net(3).eval(), Net(4).eval()
    x = digits.test.inputs(slice(0, 9))
    for share in (0.0, 0.3, 1.0):
        mixed = (1 - share) * standard(x).double().softmax(1) + share * robust(x).double().softmax(
            1
        )
        found = Mixture(standard, robust, share)(x)
        torch.testing.assert_close(found, mixed.log().float(), rtol=1e-4, atol=1e-5)


def test_the_attack_goes_through_the_mixture(digits):
    """Its gradient is that of the mixed loss, by finite differences."""
    mixture = Mixture(Net(3).eval(), Net(4).eval(), 0.4).double()
    x = digits.test.inputs(slice(0, 1)).double().requires_grad_()
    y = digits.test.labels[:1]

    def loss(images):
        return nn.functional.cross_entropy(mixture(images), y)

    (gradient,) = torch.autograd.grad(loss(x), x)
    step = 1e-6
    for place in (10, 27, 44):
        nudge = torch.zeros(64, dtype=torch.double)
        nudge[place] = step
        nudge = nudge.view_as(x)
        slope = (loss(x + nudge) - loss(x - nudge)) / (2 * step)
        assert gradient.flatten()[place].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-8)


def test_two_lambda_values_of_one_network_are_mixed_saved_and_read_back(
    digits, trained_folder, tmp_path
):
    one = oat_bench.load(trained_folder)
    info = one.info.model_copy(
        update={"method": "output-mixing", "trained_lambdas": [0.0, 0.5, 1.0], "options": {}}
    )
    mixed = OutputMixing.of(info, {"standard": one})
    oat_bench.save(mixed, tmp_path / "mixed.safetensors")
    again = oat_bench.load(tmp_path / "mixed.safetensors")
    x = digits.test.inputs(slice(0, 5))
    ends = one.at(0.0)(x).softmax(1), one.at(1.0)(x).softmax(1)
    for lam in (0.0, 0.25, 1.0):
        expected = (1 - lam) * ends[0] + lam * ends[1]
        torch.testing.assert_close(again.at(lam)(x).exp(), expected, rtol=1e-4, atol=1e-6)
    assert again.fingerprint() == mixed.fingerprint()
    made = oat_bench.export(mixed, tmp_path / "mixed.onnx", lam=0.25)
    assert made.difference < 1e-4


def test_a_card_mixes_two_runs_and_trains_nothing(trained_folder, invoke):
    Path("mix.toml").write_text(
        f'''
extends = "digits"
[method]
name = "output-mixing"
standard = "{trained_folder}"
standard_lambda = 0
robust_lambda = 1
[training]
lambdas = [0, 0.5, 1]
[evaluation]
lambdas = [0, 0.5, 1]
attacks = "pgd-7"
n_examples = 40
fewer_examples = {{}}
'''
    )
    code, out, err = invoke("run", "--benchmark", "mix.toml", "--out", "runs/mix")
    assert code == 0, err
    assert "OUTPUT-MIXING" in out
    rows = [line for line in out.splitlines() if line.startswith("|  ")]
    assert len(rows) == 4
    code, _, err = invoke("evaluate", "runs/mix", "--attacks", "fgsm", "--n-examples", "20")
    assert code == 0, err


def test_lambda_values_that_were_not_trained_have_a_star_even_alone(digits, trained_folder):
    result = oat_bench.evaluate(
        oat_bench.load(trained_folder), dataset=digits, lambdas=[0.7], attacks="fgsm", n_examples=20
    )
    assert "0.7 *" in str(result)
    assert "* lambda was not trained" in str(result)
