"""Cards that are written down, and cards whose values are changed by key."""

import datetime
import re
import string
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oat_bench import cards
from oat_bench.attacks.card import AttackCard, AttackPart, attack_card
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.card_text import as_toml, literal, number
from oat_bench.cards import Threat
from oat_bench.errors import UserError

SHIPPED = [*((benchmark_card, name) for name in cards.names("benchmarks"))]
SHIPPED += [(attack_card, name) for name in cards.names("attacks")]


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Write a card, and read the file."""
    path = tmp_path_factory.mktemp("cards") / "other.toml"

    def again(card):
        path.write_text(as_toml(card))
        return cards.read(path, type(card))

    return again


def same(one, other):
    return (one, one.fingerprint(), one.name) == (other, other.fingerprint(), other.name)


# --- written and read


@pytest.mark.parametrize(("read", "name"), SHIPPED)
def test_a_card_is_written_in_80_columns_and_read_the_same(again, read, name):
    card = read(name)
    text = as_toml(card)
    assert max(map(len, text.splitlines())) <= 80
    assert same(again(card), card)


@pytest.mark.parametrize(("read", "name"), SHIPPED)
def test_the_defaults_that_are_shown_are_the_defaults(tmp_path, read, name):
    """Without the # before each key the card says the same; but for those of other losses."""
    card = read(name)
    text = re.sub(r"^#(?!beta|eps_max)(\w+ = )", r"\1", as_toml(card), flags=re.MULTILINE)
    path = tmp_path / "whole.toml"
    path.write_text(text)
    assert same(read(str(path)), card)


@pytest.mark.parametrize("model", [BenchmarkCard, AttackCard, AttackPart])
def test_every_key_says_what_it_means(model):
    for key, schema in cards.keys(model).items():
        assert schema.get("description"), key


def test_all_keys_are_shown(tmp_path):
    text = as_toml(benchmark_card("digits"))
    shown = {"": set()}
    for line in text.splitlines():
        if line.startswith("["):
            shown[line[1:-1]] = set()
        elif found := re.match(r"#?(\w+) =", line):
            shown[list(shown)[-1]].add(found[1])
    keys = {f"{table}.{key}".strip(".") for table, own in shown.items() for key in own}
    assert keys | shown.keys() - {""} == cards.keys(BenchmarkCard).keys()


TEXT = (
    st.text() | st.text(" \"\\\x7f\u2028#='[]", max_size=200) | st.text("word wrd ", max_size=300)
)
FRACTION = st.floats(0, 1e6) | st.integers(0, 300).map(lambda n: n / 255)
LEAF = st.integers() | st.floats(allow_nan=False) | TEXT | st.booleans() | st.dates()
#: what a library's class may be given; nothing that refers to the evaluation
PARAMETERS = st.dictionaries(
    TEXT,
    st.recursive(
        LEAF.filter(lambda value: not (isinstance(value, str) and "$" in value)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(
    description=TEXT,
    eps=FRACTION,
    lr=FRACTION.filter(bool),
    lambdas=st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True),
    fewer=st.dictionaries(TEXT, st.integers(1, 9), max_size=2),
    options=PARAMETERS,
)
def test_any_benchmark_is_read_the_same(again, description, eps, lr, lambdas, fewer, options):
    values = benchmark_card("digits").model_dump() | {"description": description}
    options.pop("name", None)  # it is the method's
    values["options"] = options
    values["threat"] |= {"eps": eps}
    values["training"] |= {"lr": lr, "lambdas": lambdas}
    values["evaluation"] |= {"fewer_examples": fewer}
    card = BenchmarkCard.model_validate(values)
    assert same(again(card), card)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(source=TEXT, parameters=PARAMETERS, others=PARAMETERS)
def test_any_attack_is_read_the_same(again, source, parameters, others):
    values = {"name": "mine", "source": source, "engine": "art"}
    try:
        one = AttackCard.model_validate(values | {"class": "X", "parameters": parameters})
        parts = [
            {"name": name, "class": "X", "parameters": of, "min_classes": 3}
            for name, of in (("a", parameters), ("b", others))
        ]
        both = AttackCard.model_validate(values | {"parts": parts})
    except ValueError:  # such as 1/0
        return
    for card in (one, both):
        assert same(again(card), card)


@given(value=LEAF | st.datetimes(timezones=st.just(datetime.UTC)) | st.lists(LEAF, max_size=4))
def test_a_literal_is_toml(value):
    assert tomllib.loads(f"x = {literal(value, typed=False)}") == {"x": value}


@given(value=FRACTION)
def test_a_number_is_written_exactly(value):
    above, _, below = number(value).partition("/")
    assert float(above) / float(below or 1) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (1.43 / 255, "1.43/255"), (0.2, "0.2"), (1.0, "1"), (3 / 16, "0.1875")],
)
def test_a_number_is_written_as_people_do(value, text):
    assert number(value) == text


def test_a_path_that_is_not_utf_8_can_be_written():
    card = benchmark_card("digits").model_copy(update={"dataset": "./images-\udcff"})
    assert 'dataset = "./images-?"' in as_toml(card).encode().decode()


# --- changed by key


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"training.lr": "0.05"}, "training.lr", 0.05),
        ({"training.lr": "1/20"}, "training.lr", 0.05),
        ({"training.lr": 0.05}, "training.lr", 0.05),
        ({"training.nesterov": "true"}, "training.nesterov", True),
        ({"training.augmentation": "crop-flip"}, "training.augmentation", "crop-flip"),
        ({"training.augmentation": "'crop'"}, "training.augmentation", "crop"),
        ({"training.weight_decay": ""}, "training.weight_decay", 5e-4),
        ({"training.lambdas": "0,1/10, 1"}, "training.lambdas", [0, 0.1, 1]),
        ({"training.lambdas": '[1, "1/10", 0]'}, "training.lambdas", [0, 0.1, 1]),
        ({"training.lambdas": "1"}, "training.lambdas", [1]),
        ({"training.objective": "mma"}, "training.objective.loss", "mma"),
        ({"training.objective.loss": "mma"}, "training.objective.loss", "mma"),
        ({"training": "{objective = {loss = 'mma'}}"}, "training.objective.loss", "mma"),
        (
            {"training.objective.loss": "mma", "training.objective.eps_max": "12/255"},
            "training.objective.eps_max",
            12 / 255,
        ),
        ({"evaluation.n_examples": "20"}, "evaluation.n_examples", 20),
        ({"evaluation.n_examples": ""}, "evaluation.n_examples", None),
        ({"evaluation.attacks": "fgsm,pgd-7"}, "evaluation.attacks", "fgsm,pgd-7"),
        ({"evaluation.fewer_examples.fgsm": "3"}, "evaluation.fewer_examples", {"fgsm": 3}),
        ({"description": "8"}, "description", "8"),
        ({"image_size": "64"}, "image_size", 64),
        ({"method": "oats"}, "method", "oats"),
        ({"method.standard": "runs/a"}, "options", {"standard": "runs/a"}),
    ],
)
def test_a_value_by_key(changes, key, expected):
    before = benchmark_card("digits")
    card = before.with_changes(changes)
    value = card
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected
    old, new = before.stated(), card.stated()
    differ = {name for name in old | new if old.get(name) != new.get(name)} - {"name"}
    assert differ == {next(iter(changes)).partition(".")[0]}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.lrr", "1", "unknown key 'training.lrr'; did you mean training.lr"),
        ("lr", "1", "unknown key 'lr'; did you mean training.lr?"),
        ("network.epochs", "1", "unknown key 'network.epochs'; did you mean training.epochs?"),
        ("batch_size", "1", "did you mean training.batch_size or evaluation.batch_size?"),
        ("training.lr.x", "1", "unknown key 'training.lr.x'; did you mean training.lr"),
        ("training.objective.gamma", "1", "unknown key 'training.objective.gamma'"),
        ("options.x", "1", "unknown key 'options.x'"),
        ("", "1", "unknown key ''"),
        ("training", "{lrr = 1}", "unknown key 'training.lrr'"),
        ("training", "3", "training: input should be a valid dictionary"),
        ("training.epochs", "many", "training.epochs: input should be a valid integer"),
        ("training.epochs", "2.5", "training.epochs: input should be a valid integer"),
        ("training.epochs", "0", "training.epochs: input should be greater than or equal to 1"),
        ("training.epochs", "", "key 'training.epochs' is missing"),
        ("training.lr", "fast", 'training.lr: expected a number or a fraction such as "8/255"'),
        ("training.nesterov", "maybe", "training.nesterov: input should be a valid boolean"),
        ("training.augmentation", "flip", "training.augmentation: input should be 'none', 'crop'"),
        ("training.lambdas", "0,2", "training.lambdas.1: input should be less than or equal to 1"),
        ("training.lambdas", "[" * 5000, "training.lambdas.0: expected a number"),
        ("training.lr", "9" * 5000, "training.lr: input should be a finite number"),
        ("training.objective.beta", "3", 'training.objective: beta is of loss = "trades"'),
        ("evaluation.fewer_examples.fgsm", "few", "evaluation.fewer_examples.fgsm: input should"),
        ("method", "oast", "unknown method 'oast'; did you mean oat"),
        ("method.path", "\udcff", "method.path: not a value that can be written down"),
        ("threat.norm", "L2", "eps 0.1875 is for Linf; give one for L2 too, such as --eps 0.5"),
        ("threat.eps", "8", "did you mean --eps 8/255?"),
        ("threat.eps", "-1", "threat.eps: input should be greater than or equal to 0"),
        ("name", "a/b", "name: expected up to 64 letters"),
    ],
)
def test_a_key_or_a_value_that_there_is_not(key, value, message):
    with pytest.raises(UserError) as caught:
        benchmark_card("digits").with_changes({key: value})
    assert str(caught.value).startswith("benchmark 'digits': ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_warm_ups_end_before_the_training_does():
    card = benchmark_card("digits-large-eps")
    with pytest.raises(UserError, match=r"eps_warmup_epochs of .* is 20, more than the 5 epochs"):
        card.with_changes({"training.epochs": 5})
    both = card.with_changes({"training.epochs": 5, "training.eps_warmup_epochs": 2})
    assert both.training.eps_warmup_epochs == 2


@settings(max_examples=30)
@given(eps=st.floats(0, 1))
def test_the_step_size_keeps_its_share_of_eps(eps):
    before = benchmark_card("cifar10")
    card = before.with_changes({"threat.eps": eps})
    assert card.threat.eps == eps
    assert card.threat.step_size == pytest.approx(eps / 4, rel=1e-12)
    given_too = before.with_changes({"threat.eps": eps, "threat.step_size": 0.25})
    assert given_too.threat.step_size == 0.25
    assert before.with_changes({"threat.step_size": 0.25}).threat.eps == before.threat.eps


def test_half_the_radius_of_the_paper_is_exact():
    card = benchmark_card("cifar10").with_changes({"threat.eps": 4 / 255})
    assert card.threat == Threat(eps="4/255", step_size="1/255")
    other = benchmark_card("cifar10").with_changes({"threat.eps": 0.5, "threat.norm": "L2"})
    assert other.threat == Threat(norm="L2", eps=0.5, step_size=0.125)


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({"threat.eps": 4 / 255}, "-eps-4-255"),
        ({"threat.eps": "3/16"}, ""),  # what it has already
        ({"training.lr": 0.05, "training.epochs": 3}, "-epochs-3-lr-0.05"),
        ({"training.epochs": 3, "training.lr": 0.05}, "-epochs-3-lr-0.05"),
        ({"network.widths": [1, 0.5], "method": "oats"}, "-oats-widths-1-0.5"),
        ({"training.lambdas": "0,1"}, "-lambdas-0-1"),
        ({"training.weight_decay": ""}, "-weight_decay-0.0005"),
        ({"training.validation_examples": 9}, "-validation_examples-9"),
        ({"evaluation.attacks": "fgsm", "source": "me", "version": 2}, ""),
    ],
)
def test_the_name_says_what_was_changed(changes, ending):
    assert benchmark_card("digits").with_changes(changes).name == f"digits{ending}"


def test_a_name_of_ones_own_stays():
    card = benchmark_card("digits").with_changes({"name": "mine", "training.epochs": 3})
    assert card.name == "mine"


@settings(max_examples=30)
@given(path=st.text(string.printable, min_size=1), lr=st.floats(0.001, 9), epochs=st.integers(1))
def test_any_name_is_a_name_and_its_own(again, path, lr, epochs):
    before = benchmark_card("cifar10-small-dedicated").with_changes(
        {"training.lr_warmup_epochs": 0}
    )
    changes = {"method.path": path, "training.lr": lr, "training.epochs": epochs}
    try:
        card = before.with_changes(changes)
    except UserError:  # an integer that is too long
        return
    assert same(again(card), card)
    assert card.name != before.with_changes(changes | {"training.epochs": epochs + 1}).name


def test_a_card_is_found_by_name_and_by_the_keys_of_its_file(tmp_path):
    kinds = BenchmarkCard, AttackCard
    for text, expected in [
        ("extends = 'digits'", BenchmarkCard),
        ("extends = 'pgd-20'", AttackCard),
        ("extends = 'pgd-20'\ndescription = 'mine'\n[parameters]\nsteps = 3", AttackCard),
        (as_toml(benchmark_card("svhn")), BenchmarkCard),
        (as_toml(attack_card("autoattack")), AttackCard),
    ]:
        path = tmp_path / "card.toml"
        path.write_text(text)
        assert type(cards.find_any(str(path), *kinds)) is expected
    assert cards.find_any("digits", *kinds) == benchmark_card("digits")
    assert cards.find_any("pgd-20", *kinds) == attack_card("pgd-20")
    with pytest.raises(UserError, match="unknown card 'digit'; did you mean digits"):
        cards.find_any("digit", *kinds)
