"""The grid against a linear classifier, of which everything is known in closed form."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from oat_bench.attacks import in_house
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.datasets.splits import nested_order
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.results.outcomes import KEYS, OutcomeStore

EPS = 0.05
THREAT = Threat(eps=EPS, step_size=EPS)
#: nothing to choose: choosing takes a look at one image
PLAIN = {"batch_size": 500, "compile_it": False}


class Line(nn.Module):
    """Two logits that differ by w (x - 1/2) + b; counts the images that it sees."""

    def __init__(self, w, b, seen):
        super().__init__()
        self.w, self.b, self.seen = w, b, seen

    def forward(self, x):
        self.seen["calls"] += 1
        self.seen["images"] += len(x)
        score = (x - 0.5).flatten(1) @ self.w + self.b
        return torch.stack([-score, score], dim=1) / 2


class Lines(TunableClassifier):
    """A family of lines: lambda moves the threshold."""

    def __init__(self, w, slope=1.0, name="lines"):
        self.w, self.slope, self.name = w, slope, name
        self.seen = Counter()
        self.info = SimpleNamespace(dataset="dots", method="lines", architecture="line")

    def at(self, lam, width=1.0):
        OperatingPoint(lam, width)
        self.seen["at"] += 1
        return Line(self.w * width, self.slope * (lam - 0.5), self.seen).eval()

    def state_dict(self):
        return {"w": self.w}

    @classmethod
    def from_state(cls, info, state):
        raise NotImplementedError

    def to(self, device):
        return self

    def fingerprint(self):
        return f"{self.name} {self.w.tolist()} {self.slope}"


def make_data(n=60, seed=0):
    draw = torch.Generator().manual_seed(seed)
    # far enough from 0 and 1 that the box never binds
    images = torch.randint(90, 166, (n, 1, 3, 3), generator=draw).to(torch.uint8)
    return Split(images, torch.randint(0, 2, (n,), generator=draw))


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def lines():
    return Lines(torch.linspace(-2, 2, 9))


def ready(name="fgsm", seed=0, **changes):
    card = attack_card(name).model_copy(update=changes)
    return prepare(card, THREAT, n_classes=2, seed=seed)


def run(lines, data, attacks=None, lambdas=(0.2, 0.5), **options):
    subject = Subject(lines, data, **{"data_fingerprint": "data", **PLAIN, **options})
    points = [OperatingPoint(lam) for lam in lambdas]
    return evaluate(subject, points, [ready()] if attacks is None else attacks, show=False)


def scores(lines, data, lam):
    """How far each image lies on the right side, in the units of the score."""
    x = data.images.double().flatten(1) / 255 - 0.5
    return (x @ lines.w.double() + lines.slope * (lam - 0.5)) * (2 * data.labels - 1)


# --- what is measured


@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "pgd-7"])
def test_a_line_is_broken_where_its_margin_is_below_eps_times_the_l1_norm(lines, data, name):
    frame = run(lines, data, [ready(name)], lambdas=(0.2, 0.5, 0.9))
    reach = EPS * lines.w.abs().sum().double()
    for lam, part in frame.groupby("lam"):
        margin = scores(lines, data, lam).numpy()
        assert np.abs(np.abs(margin) - reach.item()).min() > 1e-6
        clean = part["clean_prediction"] == part["label"]
        robust = clean & (part["attacked_prediction"] == part["label"])
        assert clean.to_list() == (margin > 0).tolist()
        assert robust.to_list() == (margin > reach.item()).tolist()
        assert 0 < robust.sum() < clean.sum() < len(data)


def test_rows_are_points_by_attacks_by_examples(lines, data):
    attacks = [ready("fgsm"), ready("pgd-7")]
    frame = run(lines, data, attacks, lambdas=(0.5, 0.1))
    assert list(frame) == KEYS
    assert len(frame) == 2 * 2 * len(data)
    keys = frame[["lam", "attack"]].drop_duplicates().itertuples(index=False, name=None)
    assert list(keys) == [(0.5, "fgsm"), (0.5, "pgd-7"), (0.1, "fgsm"), (0.1, "pgd-7")]
    for _, part in frame.groupby(["lam", "attack"]):
        assert part["example"].to_list() == list(range(len(data)))
        assert part["label"].to_list() == data.labels.tolist()
    assert (frame["width"] == 1.0).all()


def test_examples_come_in_the_order_that_was_asked_for(lines, data):
    examples = torch.tensor([40, 3, 17, 59])
    everything = run(lines, data).set_index(["lam", "example"])
    frame = run(lines, data, examples=examples)
    assert frame["example"].to_list() == [40, 3, 17, 59] * 2
    for row in frame.itertuples():
        known = everything.loc[(row.lam, row.example)]
        assert row.label == known["label"] == data.labels[row.example]
        assert row.attacked_prediction == known["attacked_prediction"]


def test_an_attack_that_gets_fewer_examples_gets_the_first(lines, data):
    examples = torch.randperm(len(data), generator=torch.Generator().manual_seed(2))
    attacks = [ready("fgsm"), ready("pgd-7")]
    frame = run(lines, data, attacks, examples=examples, fewer={"pgd-7": 9}, lambdas=(0.5,))
    seen = {name: part["example"].to_list() for name, part in frame.groupby("attack")}
    assert seen == {"fgsm": examples.tolist(), "pgd-7": examples[:9].tolist()}
    whole = run(lines, data, attacks, examples=examples, lambdas=(0.5,))
    kept = whole.merge(frame[["attack", "example"]])
    pd.testing.assert_frame_equal(frame, kept[list(frame)])


def test_an_example_that_is_wrong_already_is_not_attacked(data, monkeypatch, lines):
    attacked = []

    def watch(model, x, y, *, example_ids):
        attacked.extend(example_ids.tolist())
        return x

    monkeypatch.setitem(in_house.CLASSES, "Watch", watch)
    card = AttackCard.model_validate({"name": "w", "engine": "oat_bench", "class": "Watch"})
    attack = prepare(card, THREAT, n_classes=2, seed=0)
    frame = run(lines, data, [attack], lambdas=(0.5,), batch_size=7)
    wrong = frame[frame["clean_prediction"] != frame["label"]]
    right = frame[frame["clean_prediction"] == frame["label"]]
    assert len(wrong) > 5
    assert sorted(attacked) == right["example"].to_list()
    assert (wrong["attacked_prediction"] == wrong["clean_prediction"]).all()


def test_an_attack_cannot_mend_a_wrong_prediction(data, monkeypatch, lines):
    monkeypatch.setitem(in_house.CLASSES, "Grey", lambda model, x, y: torch.full_like(x, 0.5))
    card = AttackCard.model_validate({"name": "g", "engine": "oat_bench", "class": "Grey"})
    attack = prepare(card, Threat(eps=1.0), n_classes=2, seed=0)
    frame = run(lines, data, [attack], lambdas=(0.9,))
    wrong = frame["clean_prediction"] != frame["label"]
    assert wrong.any()
    assert (frame["attacked_prediction"] != frame["label"])[wrong].all()


def test_a_classifier_that_is_always_wrong_is_never_attacked(data, lines):
    x = data.images.double().flatten(1) / 255 - 0.5
    predicted = (x @ lines.w.double() > 0).long()
    wrong = run(lines, Split(data.images, 1 - predicted), lambdas=(0.5,), batch_size=500)
    assert (wrong["clean_prediction"] == predicted.numpy()).all()
    assert (wrong["attacked_prediction"] == predicted.numpy()).all()
    assert lines.seen == {"at": 1, "calls": 1, "images": len(data)}


@pytest.mark.parametrize("name", ["fgsm", "pgd-7"])
def test_outcomes_do_not_depend_on_batch_size_or_order(trained, digits, name):
    attack = prepare(attack_card(name), Threat(eps=0.15, step_size=0.05), n_classes=10, seed=0)
    points = [OperatingPoint(0.0), OperatingPoint(0.7)]

    def outcomes(examples, batch_size):
        subject = Subject(trained, digits.test, "", examples, batch_size=batch_size)
        frame = evaluate(subject, points, [attack], show=False)
        return frame.sort_values(["lam", "example"], ignore_index=True)

    ids = torch.arange(24)
    whole = outcomes(ids, 24)
    broken = whole["attacked_prediction"] != whole["clean_prediction"]
    assert 0 < broken.sum() < len(whole)
    for batch_size in (1, 5, 500):
        pd.testing.assert_frame_equal(outcomes(ids, batch_size), whole)
    pd.testing.assert_frame_equal(outcomes(ids.flip(0), 7), whole)


#: attacks that draw random numbers for the whole batch, and of which a start decides the outcome
OTHERS = {
    "torchattacks": {"class": "PGD", "parameters": {"eps": "$eps", "alpha": 0.05, "steps": 2}},
    "art": {
        "class": "ProjectedGradientDescent",
        "parameters": {"eps": "$eps", "eps_step": 0.05, "max_iter": 2, "num_random_init": 1},
    },
}


def other(engine):
    card = AttackCard.model_validate({"name": "other", "engine": engine, **OTHERS[engine]})
    return prepare(card, Threat(eps=0.15, step_size=0.05), n_classes=10, seed=0)


@pytest.mark.parametrize("engine", list(OTHERS))
def test_outcomes_of_other_libraries_depend_on_the_example_alone(trained, digits, engine, tmp_path):
    attack = other(engine)
    order = nested_order(digits.test.labels)

    def outcomes(examples, **options):
        subject = Subject(trained, digits.test, "", examples, **options)
        frame = evaluate(subject, [OperatingPoint(0.7)], [attack], show=False)
        return frame.sort_values("example", ignore_index=True)

    whole = outcomes(order[:150])  # of two blocks
    broken = whole["attacked_prediction"] != whole["clean_prediction"]
    assert 0 < broken.sum() < len(whole)

    def part(examples):
        return whole[whole["example"].isin(examples.tolist())].reset_index(drop=True)

    for examples in (order[:10], order[110:150], order[[149, 3, 20]]):
        pd.testing.assert_frame_equal(outcomes(examples, batch_size=3), part(examples))
    # a second run goes on from what the first one stored
    for count in (5, 133, 150):
        rows = outcomes(order[:count], store=OutcomeStore(tmp_path), batch_size=count)
        pd.testing.assert_frame_equal(rows, part(order[:count]))


@pytest.mark.parametrize("engine", list(OTHERS))
def test_other_libraries_draw_for_the_batch(trained, digits, engine):
    """Else the test above would prove nothing."""
    attack, model = other(engine), trained.at(0.7)
    ids = nested_order(digits.test.labels)[:16]
    x, y = digits.test.inputs(ids), digits.test.labels[ids]
    together = attack(model, x, y, ids)
    apart = torch.cat(
        [attack(model, x[i : i + 1], y[i : i + 1], ids[i : i + 1]) for i in range(16)]
    )
    assert not torch.equal(together, apart)


def test_an_evaluation_leaves_generators_and_weights_alone(trained, digits):
    torch.manual_seed(1)
    np.random.seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()
    weights, kept = trained.fingerprint(), trained.network.training
    subject = Subject(trained, digits.test.take(slice(0, 4)), "")
    evaluate(subject, [OperatingPoint(0.5)], [ready("pgd-7"), ready("apgd-ce")], show=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_before, strict=True)
    )
    assert trained.fingerprint() == weights
    assert trained.network.training == kept is False


# --- attacks made of parts


@pytest.fixture
def two_parts(monkeypatch):
    """An attack whose first part breaks even examples, its second those that 3 divides."""
    seen = []

    def run_part(attack, model, x, y, ids):
        seen.append((attack.part, ids.tolist()))
        broken = ids % (2, 3)[attack.part] == 0
        # far over the line, on the wrong side
        wrong_side = torch.where(y == 1, -1.0, 1.0)[:, None] * model.plain.w.sign()
        return torch.where(broken[:, None, None, None], 0.5 + wrong_side.view_as(x) / 2, x)

    monkeypatch.setattr(in_house, "run", run_part)
    attack = prepare(attack_card("fgsm"), Threat(eps=1.0), n_classes=2, seed=0)
    return replace(attack, chain=attack.chain * 2), seen


def test_each_part_sees_all_that_the_parts_before_it_left_standing(lines, data, two_parts):
    attack, seen = two_parts
    frame = run(lines, data, [attack], lambdas=(0.5,), batch_size=7)
    right = frame["clean_prediction"] == frame["label"]
    ids = frame["example"]
    first = ids[right].to_list()
    assert [i for part, batch in seen if part == 0 for i in batch] == first
    # batches are full though the first part's batches left few standing
    odd = [i for i in first if i % 2]
    assert [batch for part, batch in seen if part == 1] == [
        odd[k : k + 7] for k in range(0, len(odd), 7)
    ]
    robust = right & (frame["attacked_prediction"] == frame["label"])
    assert robust.to_list() == (right & (ids % 2 != 0) & (ids % 3 != 0)).to_list()
    assert 0 < robust.sum() < right.sum()


def test_a_part_that_was_finished_is_not_run_again(lines, data, two_parts, tmp_path, monkeypatch):
    attack, seen = two_parts
    expected = run(lines, data, [attack], lambdas=(0.5,), batch_size=7)
    inner, calls = in_house.run, []

    def stop(attack, model, x, y, ids):
        calls.append(attack.part)
        if calls.count(1) == 2:
            raise KeyboardInterrupt
        return inner(attack, model, x, y, ids)

    with monkeypatch.context() as patch:
        patch.setattr(in_house, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(lines, data, [attack], lambdas=(0.5,), batch_size=7, store=OutcomeStore(tmp_path))
    seen.clear()
    frame = run(lines, data, [attack], lambdas=(0.5,), batch_size=7, store=OutcomeStore(tmp_path))
    pd.testing.assert_frame_equal(frame, expected)
    assert {part for part, _ in seen} == {1}


def test_the_parts_of_autoattack_together_are_autoattack(trained, digits):
    threat = Threat(eps=0.15, step_size=0.05)
    brief = {"steps": 10}
    attack = prepare(
        attack_card("autoattack"),
        threat,
        n_classes=10,
        seed=0,
        recorded={"apgd-ce": brief, "apgd-t": brief, "fab-t": brief, "square": {"n_queries": 100}},
    )
    assert [part.name for part in attack.parts()] == [f"autoattack.{n}" for n in (1, 2, 3, 4)]
    # a data set of a few images is a block of a few
    data, ids = digits.test.take(slice(0, 12)), torch.arange(12)
    model, x, y = trained.at(1.0), data.inputs(), data.labels
    whole = model(attack(model, x, y, ids)).argmax(1)
    subject = Subject(trained, data, "")
    frame = evaluate(subject, [OperatingPoint(1.0)], [attack], show=False)
    assert (frame["attacked_prediction"] == frame["label"]).to_list() == (whole == y).tolist()
    assert 0 < (whole == y).sum() < 12


# --- nothing is computed twice


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_the_store_holds_is_not_computed_again(lines, data, tmp_path, kind):
    memory = OutcomeStore(None)

    def store():
        return memory if kind == "memory" else OutcomeStore(tmp_path)

    attacks = [ready("fgsm"), ready("pgd-7")]
    first = run(lines, data, attacks, store=store(), batch_size=16)
    assert lines.seen["at"] == 2  # once for each lambda, not for each attack
    lines.seen.clear()
    again = run(lines, data, attacks, store=store(), batch_size=16)
    assert lines.seen == {}
    pd.testing.assert_frame_equal(first, again)


def test_when_n_grows_only_the_new_examples_are_computed(lines, data, tmp_path):
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    alone = Lines(lines.w)
    expected = run(alone, data, examples=order, lambdas=(0.5,))
    per_image = alone.seen["images"]
    lines.seen.clear()
    run(lines, data, examples=order[:25], lambdas=(0.5,), store=OutcomeStore(tmp_path))
    part = lines.seen["images"]
    grown = run(lines, data, examples=order, lambdas=(0.5,), store=OutcomeStore(tmp_path))
    # every image costs the same whenever it is computed: in sum not one more
    assert lines.seen["images"] == per_image
    assert 0 < part < per_image
    pd.testing.assert_frame_equal(grown, expected)
    lines.seen.clear()
    fewer = run(lines, data, examples=order[:10], lambdas=(0.5,), store=OutcomeStore(tmp_path))
    assert lines.seen == {}
    pd.testing.assert_frame_equal(fewer, expected[:10])


def test_another_lambda_or_attack_computes_only_itself(lines, data, tmp_path):
    store = OutcomeStore(tmp_path)
    run(lines, data, lambdas=(0.1, 0.2), store=store)
    lines.seen.clear()
    run(lines, data, lambdas=(0.1, 0.15, 0.2), store=store)
    assert lines.seen["at"] == 1
    lines.seen.clear()
    run(lines, data, [ready("fgsm"), ready("pgd-7")], lambdas=(0.1, 0.2), store=store)
    assert lines.seen["at"] == 2
    assert {path.name.split("-lambda")[0] for path in tmp_path.iterdir()} == {"fgsm", "pgd-7"}
    assert len(list(tmp_path.iterdir())) == 5


def test_all_that_decides_outcomes_leads_to_a_new_cell(lines, data, tmp_path):
    base = {"attacks": [ready("pgd-7")], "lambdas": (0.5,), "examples": torch.arange(3)}
    other_weights = Lines(lines.w + 1e-6)
    pgd = attack_card("pgd-7")
    changes = [
        (lines, {}),
        (other_weights, {}),
        (lines, {"data_fingerprint": "other data"}),
        (lines, {"lambdas": (0.5 + 1e-12,)}),
        (lines, {"attacks": [ready("pgd-7", seed=1)]}),
        (lines, {"attacks": [ready("pgd-7", version=2)]}),
        (lines, {"attacks": [ready("pgd-7", parameters=pgd.parameters | {"steps": 8})]}),
        (lines, {"attacks": [ready("pgd-7", eps=0.04)]}),
        (lines, {"attacks": [prepare(pgd, Threat(eps=EPS, norm="L2"), n_classes=2, seed=0)]}),
    ]
    for number, (classifier, change) in enumerate(changes, start=1):
        run(classifier, data, **(base | change), store=OutcomeStore(tmp_path))
        assert len(list(tmp_path.iterdir())) == number, change
    wide = OperatingPoint(0.5, 0.5)
    subject = Subject(lines, data, "data", torch.arange(3), store=OutcomeStore(tmp_path))
    evaluate(subject, [wide], [ready("pgd-7")], show=False)
    assert len(list(tmp_path.iterdir())) == len(changes) + 1


def test_words_about_a_card_do_not_lead_to_a_new_cell(lines, data, tmp_path):
    run(lines, data, store=OutcomeStore(tmp_path))
    lines.seen.clear()
    described = ready("fgsm", description="other words", source="a paper", default=False)
    run(lines, data, [described], store=OutcomeStore(tmp_path))
    assert lines.seen == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_finished_before_an_interruption_is_kept(
    lines, data, tmp_path, monkeypatch, error
):
    expected = run(Lines(lines.w), data, lambdas=(0.5,), batch_size=10)
    calls = []
    fgsm = in_house.CLASSES["FGSM"]

    def stop(model, x, y, *, eps: float):
        calls.append(len(x))
        if len(calls) == 4:
            raise error
        return fgsm(model, x, y, eps=eps)

    with monkeypatch.context() as patch:
        patch.setitem(in_house.CLASSES, "FGSM", stop)
        with pytest.raises(error):
            run(lines, data, lambdas=(0.5,), batch_size=10, store=OutcomeStore(tmp_path))
    (cell,) = tmp_path.iterdir()
    kept = OutcomeStore(tmp_path).read(cell.name)
    assert (kept["clean_prediction"] == kept["label"]).sum() == 30
    missing = torch.tensor(sorted(set(range(60)) - set(kept["example"])))
    lines.seen.clear()
    frame = run(lines, data, lambdas=(0.5,), batch_size=10, store=OutcomeStore(tmp_path))
    pd.testing.assert_frame_equal(frame, expected)
    alone = Lines(lines.w)
    run(alone, data, lambdas=(0.5,), examples=missing)
    assert lines.seen["images"] == alone.seen["images"] > 0


def test_a_cell_stays_below_the_store_whatever_the_card_is_called(lines, data, tmp_path):
    card = attack_card("fgsm").model_copy(update={"name": "x" * 64})
    long = prepare(card, THREAT, n_classes=2, seed=0)
    run(lines, data, [long], store=OutcomeStore(tmp_path / "store"))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    for name in ("../up", "a/b", "", "worst", "SA", "two words", "x" * 65, "a|b", "\u001b[1m"):
        values = {"name": name, "engine": "oat_bench", "class": "FGSM"}
        with pytest.raises(ValueError, match="letters, digits"):
            AttackCard.model_validate(values)
