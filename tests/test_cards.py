"""Cards: those that ship, every way to get one wrong, and text nobody would write."""

import itertools
import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench import cards
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.selection import select_attacks
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.results.entries import Entry
from oat_bench.run import training_identity
from oat_bench.training.card import TrainingCard
from oat_bench.training.sampling import passes

LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"
SMALL = [name for name in cards.names("benchmarks") if name.endswith("-small")]

ATTACK = """
description = "an attack"
engine = "oat_bench"
class = "PGD"
norm = "Linf"
eps = "8/255"
step_size = 0.01
[parameters]
eps = "$eps"
step_size = "$eps/10"
steps = 7
"""
BENCHMARK = """
description = "a benchmark"
dataset = "digits"
method = "oat"
[network]
architecture = "wrn-10-1"
encoding = "dct"
encoding_dim = 16
dropout = 0.1
[threat]
norm = "L2"
eps = "1/2"
[training]
epochs = 3
lr = 0.1
lambdas = [0, "1/10", 1]
ema_decay = 0.99
[evaluation]
lambdas = [0, 1]
attacks = "fgsm"
n_examples = 100
"""
VALID = {"attack": (ATTACK, AttackCard), "benchmark": (BENCHMARK, BenchmarkCard)}


def written(folder: Path, text: str | bytes, name: str = "card.toml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def complaint(call, *arguments: object) -> str:
    """Return the message of the UserError, which must be a single line that can be shown."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert len(message) < 1000
    return message


def parts(text: str) -> dict[str, dict[str, str]]:
    """Split one of the cards above into its tables: values as written, by key."""
    tables: dict[str, dict[str, str]] = {"": {}}
    for line in text.strip().splitlines():
        if line.startswith("["):
            tables[line[1:-1]] = {}
        else:
            key, _, value = line.partition(" = ")
            tables[list(tables)[-1]][key] = value
    return tables


def joined(tables: dict[str, dict[str, str]]) -> str:
    lines = []
    for table, values in tables.items():
        lines += [f"[{table}]"] if table else []
        lines += [f"{key} = {value}" for key, value in values.items()]
    return "\n".join(lines)


def removed(text: str, key: str) -> str:
    """Return the card without a dotted key or table."""
    tables = parts(text)
    table, _, name = key.rpartition(".")
    if not table and name in tables:
        del tables[name]
    else:
        del tables[table][name]
    return joined(tables)


def changed(text: str, key: str, value: str) -> str:
    """Return the card with another value, as TOML, under a dotted key."""
    tables = parts(text)
    table, _, name = key.rpartition(".")
    if not table:
        tables.pop(name, None)
    tables.setdefault(table, {})[name] = value
    return joined(tables)


# --- cards that ship ---


@pytest.mark.parametrize("name", cards.names("attacks"))
def test_every_shipped_attack_card_reads(name):
    card = attack_card(name)
    assert card.name == name
    assert card.description
    assert card.source
    for part in card.chain():
        parameters = part.resolve(Threat(), n_classes=10, seed=0)
        assert parameters.keys() == part.parameters.keys()
        assert not any(str(value).startswith("$") for value in parameters.values())


@pytest.mark.parametrize("name", cards.names("benchmarks"))
def test_every_shipped_benchmark_card_reads(name):
    card = benchmark_card(name)
    assert card.name == name
    assert card.description
    chosen = select_attacks(card.evaluation.attacks, card.threat.norm)
    assert all(attack.norm in (None, card.threat.norm) for attack in chosen)


@pytest.mark.parametrize(
    ("name", "network", "epochs", "lr", "augmentation", "dropout"),
    [
        ("svhn", "wrn-16-8", 80, 0.01, "none", 0.3),
        ("cifar10", "resnet-34", 200, 0.1, "crop-flip", 0),
        ("stl10", "wrn-40-2", 200, 0.1, "crop-flip", 0.3),
    ],
)
def test_benchmarks_at_the_papers_scale(name, network, epochs, lr, augmentation, dropout):
    card = benchmark_card(name)
    assert card.dataset == name
    assert card.network.architecture == network
    assert card.network.norm == "dual"
    assert card.network.dropout == 0
    assert card.threat == Threat(norm="Linf", eps=8 / 255, step_size=2 / 255)
    recipe = card.training
    assert (recipe.epochs, recipe.lr, recipe.augmentation) == (epochs, lr, augmentation)
    assert (recipe.momentum, recipe.weight_decay, recipe.batch_size) == (0.9, 5e-4, 128)
    assert (recipe.attack_steps, recipe.crop_padding, recipe.order) == (7, 4, "attack-first")
    assert recipe.lambdas == card.evaluation.lambdas == [0, 0.1, 0.2, 0.3, 0.4, 1]
    assert (card.evaluation.attacks, card.evaluation.n_examples) == ("all", None)

    # the published code differs in these and in nothing else
    published = benchmark_card(f"{name}-replication")
    changes = {"film": "published", "dropout": dropout}
    assert published.network == card.network.model_copy(update=changes)
    assert published.threat == Threat(norm="Linf", eps=8 / 255, step_size=1.43 / 255)
    assert published.training == recipe.model_copy(update={"order": "published"})
    assert published.evaluation == card.evaluation

    small = benchmark_card(f"{name}-small")
    assert small.dataset == name
    assert small.network.architecture == "wrn-16-2"
    assert small.threat == card.threat
    assert small.training.augmentation == augmentation
    assert small.training.epochs <= 20
    assert "autoattack" not in [attack.name for attack in select_attacks(small.evaluation.attacks)]


@pytest.mark.parametrize(
    ("entry", "card", "changes"),
    [
        ("cifar10/Linf/oat", "cifar10-small-both", {}),
        ("cifar10/Linf/oat-single-bn", "cifar10-small-both", {}),
        ("cifar10/Linf/pgd-at", "cifar10-small-dedicated", {}),
        ("svhn-part/Linf/oat", "image-folder", {}),
        ("svhn-part/Linf/oat-single-bn", "image-folder", {}),
        ("svhn-part/Linf/pgd-at", "image-folder", {"training.lambdas": [0, 0.4, 1]}),
    ],
)
def test_published_models_have_a_card_that_trains_them_again(entry, card, changes):
    published = Entry.read(LEADERBOARDS / f"{entry}-wrn-16-2.json")
    data = SimpleNamespace(
        name=published.dataset,
        input_shape=(3, 32, 32),
        fingerprint=lambda: published.data_fingerprint,
    )
    recipe = benchmark_card(card).with_changes(changes).with_method(published.method)
    identity = training_identity(recipe, data, published.seed, named=True)
    assert identity == published.benchmark_card
    assert recipe.training.loss_sampling == "both"


@pytest.mark.parametrize("name", [*SMALL, "fashion-mnist"])
def test_cards_for_a_cpu_take_a_quarter_of_the_passes(name):
    card, paper = benchmark_card(name), TrainingCard(epochs=1, lr=1)
    usual = {"svhn-small": 8, "stl10-small": 20}.get(name, 10)
    assert passes(card.training) * card.training.epochs <= passes(paper) * usual / 4


@pytest.mark.parametrize("name", ["cifar10", "cifar10-small", "fashion-12x12"])
def test_a_benchmark_in_l2_is_its_sibling_in_another_ball(name):
    linf = benchmark_card(name)
    l2 = benchmark_card("cifar10-l2-small" if name == "cifar10-small" else f"{name}-l2")
    assert l2.threat.norm == "L2"
    for key in ("dataset", "method", "network", "training"):
        assert getattr(l2, key) == getattr(linf, key)
    # RobustBench's ball, and a step by which the attack of training crosses it
    assert l2.threat.eps == 0.5 or l2.dataset != "cifar10"
    assert l2.threat.step_size * l2.training.attack_steps > l2.threat.eps
    for card, once in ((linf, ["fgsm", "mi-fgsm"]), (l2, ["fgm", "mi-fgm"])):
        suite = [a.name for a in select_attacks(card.evaluation.attacks, card.threat.norm)]
        strong = ["autoattack"] if name != "cifar10-small" else []
        assert suite == [*once, "pgd-7", "pgd-20", *strong]


def test_a_folder_in_the_place_of_a_data_set(tmp_path, monkeypatch):
    card = benchmark_card("stl10-small")
    monkeypatch.chdir(tmp_path)
    for folder, named, name in [
        ("./tiny10", True, "tiny10-stl10-small"),
        ("/data/tiny10/", False, "tiny10"),
        ("my images (1)", False, "my-images-1-"),
        ("../..", False, None),
        ("./" + "x" * 200, True, "x" * 32 + "-stl10-small"),
        ("./\u00e9\u00e8", False, "ee"),
        ("./\u732b", False, "images"),
    ]:
        other = card.for_folder(folder, named=named)
        assert other.dataset == folder
        assert name is None or other.name == name
        assert BenchmarkCard.model_validate(other.model_dump())  # the name is one
        assert other.training == card.training


def test_the_folders_hold_what_is_listed():
    root = Path(cards.__file__).parents[1]
    for kind in ("attacks", "benchmarks"):
        assert cards.folder(kind) == root / kind
        assert set(cards.names(kind)) == {p.stem for p in (root / kind).glob("*.toml")}
        assert cards.names(kind) == sorted(cards.names(kind))


def test_all_is_the_default_suite_weakest_first():
    assert [card.name for card in select_attacks("all")] == [
        "fgsm",
        "mi-fgsm",
        "pgd-7",
        "pgd-20",
        "autoattack",
    ]
    assert all(card.default for card in select_attacks("all"))


def test_the_numbers_of_the_papers():
    """Section 4.1 and 4.4 of the OAT paper, under its threat model."""
    threat = Threat(norm="Linf", eps="8/255", step_size="2/255")

    def resolved(name: str) -> dict:
        card = attack_card(name)
        return card.chain()[0].resolve(card.threat(threat), n_classes=10, seed=3)

    pgd = {"norm": "Linf", "eps": 8 / 255, "step_size": 2 / 255}
    assert resolved("fgsm") == {"eps": 8 / 255}
    assert resolved("pgd-7") == {**pgd, "steps": 7}
    assert resolved("pgd-20") == {**pgd, "steps": 20}
    assert resolved("pgd-50-10") == {**pgd, "steps": 50, "restarts": 10}
    assert resolved("pgd-7-published-step") == {**pgd, "steps": 7, "step_size": 1.43 / 255}
    mi_fgsm = {"eps": 8 / 255, "step_size": 0.8 / 255, "steps": 10, "decay": 1.0}
    assert resolved("mi-fgsm") == pytest.approx(mi_fgsm)


# --- selections ---


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("pgd-7", ["pgd-7"]),
        ("pgd-20,fgsm", ["fgsm", "pgd-20"]),
        (" pgd-20 ,, fgsm , ", ["fgsm", "pgd-20"]),
        ("square,apgd-t,pgd-7,square", ["pgd-7", "square", "apgd-t"]),
        ("autoattack,pgd-50-10,pgd-20", ["pgd-20", "pgd-50-10", "autoattack"]),
        ("apgd-ce,all", ["fgsm", "mi-fgsm", "pgd-7", "pgd-20", "autoattack", "apgd-ce"]),
        ("all,all", ["fgsm", "mi-fgsm", "pgd-7", "pgd-20", "autoattack"]),
    ],
)
def test_selection(selection, expected):
    assert [card.name for card in select_attacks(selection)] == expected


_APGD_T = "apgd-t of autoattack (for 4 classes or more)"


@pytest.mark.parametrize(
    ("selection", "norm", "n_classes", "expected", "said"),
    [
        ("all,-autoattack", "Linf", 10, ["fgsm", "mi-fgsm", "pgd-7", "pgd-20"], ""),
        ("-fgsm, all ,- pgd-7", "Linf", 10, ["mi-fgsm", "pgd-20", "autoattack"], ""),
        ("pgd-7,square,-square,-apgd", "Linf", None, ["pgd-7"], ""),
        ("all", "L2", 10, ["fgm", "mi-fgm", "pgd-7", "pgd-20", "autoattack"], ""),
        ("all,-fgm", "L2", 10, ["mi-fgm", "pgd-7", "pgd-20", "autoattack"], ""),
        ("all,-fgsm,-fgm,-mi-fgm", "L2", 10, ["pgd-7", "pgd-20", "autoattack"], ""),
        ("all,-fgsm,-pgd-7,-pgd-20,-mi-fgsm", "Linf", 3, ["autoattack"], _APGD_T),
        ("all,-pgd-7,-pgd-20", "L2", 3, ["fgm", "mi-fgm", "autoattack"], _APGD_T),
        ("autoattack", "L2", 3, ["autoattack"], ""),  # its column says what is in it
    ],
)
def test_all_is_what_applies_less_what_is_left_out(
    capsys, selection, norm, n_classes, expected, said
):
    assert [card.name for card in select_attacks(selection, norm, n_classes)] == expected
    told = f"attacks left out of all: {said}\n" if said else ""
    assert capsys.readouterr().err == told


def test_what_is_left_out_is_an_attack_and_leaves_one():
    assert "unknown attack 'autoatack'; did you mean autoattack or autoattack-rand" in complaint(
        select_attacks, "all,-autoatack"
    )
    for selection in ("-fgsm", "fgsm,-fgsm"):
        message = complaint(select_attacks, selection)
        assert message.startswith("no attack is named after what was left out; use --attacks all")


def test_a_card_by_path_is_left_out_by_its_name_or_path(tmp_path):
    path = written(tmp_path, ATTACK, "mine.toml")
    for left in ("mine", path):
        assert [c.name for c in select_attacks(f"pgd-7,{path},-{left}")] == ["pgd-7"]


def test_every_order_of_a_selection_of_the_suite_is_the_same():
    suite = select_attacks("all")
    for order in itertools.permutations(card.name for card in suite):
        assert select_attacks(",".join(order)) == suite


@pytest.mark.parametrize("selection", ["", " ", ",", " , ,"])
def test_an_empty_selection_is_refused(selection):
    assert "no attack is named; use --attacks all" in complaint(select_attacks, selection)


def test_cards_by_path(tmp_path):
    path = written(tmp_path, ATTACK, "mine.toml")
    card = attack_card(str(path))
    assert card.name == "mine"
    assert select_attacks(f"pgd-20,{path},fgsm") == [
        attack_card("fgsm"),
        attack_card("pgd-20"),
        card,
    ]
    assert benchmark_card(str(written(tmp_path, BENCHMARK, "b.toml"))).name == "b"


def test_one_card_twice_is_one_card(tmp_path):
    copy = shutil.copy(cards.folder("attacks") / "fgsm.toml", tmp_path / "fgsm.toml")
    assert select_attacks(f"fgsm,{copy}") == [attack_card("fgsm")]


def test_two_cards_of_one_name_are_refused(tmp_path):
    path = written(tmp_path, ATTACK, "fgsm.toml")
    for selection in (f"fgsm,{path}", f"{path},fgsm", f"all,{path}"):
        message = complaint(select_attacks, selection)
        assert (
            message == "two attack cards are called 'fgsm'; rename one file, or give one at a time"
        )


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (attack_card, "pgd7", "unknown attack 'pgd7'; did you mean pgd-7"),
        (
            attack_card,
            "autoatack",
            "unknown attack 'autoatack'; did you mean autoattack or autoattack-rand?",
        ),
        (attack_card, "FGSM-x", "unknown attack 'FGSM-x'; known: apgd, apgd-ce, apgd-t"),
        (attack_card, "", "unknown attack ''; known: apgd, apgd-ce"),
        (attack_card, "fgsm\n", r"unknown attack 'fgsm\n'; did you mean"),
        (select_attacks, "fgsm,squared", "unknown attack 'squared'; did you mean square?"),
        (
            benchmark_card,
            "digit",
            "unknown benchmark 'digit'; did you mean digits",
        ),
        (benchmark_card, "fgsm", "unknown benchmark 'fgsm'; known: "),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(find, name, message):
    assert complaint(find, name).startswith(message)


@pytest.mark.parametrize(
    "path", ["nowhere/fgsm.toml", "fgsm.toml", "./fgsm", "a\\b", "/", "a\n/b", "x" * 5000 + ".toml"]
)
def test_a_path_where_there_is_no_card(path):
    with pytest.raises(UserError) as caught:
        attack_card(path)
    message = str(caught.value)
    assert message.startswith("no attack card at ")
    assert message.endswith("; expected a TOML file")
    assert len(message.splitlines()) == 1


def test_a_folder_is_no_card(tmp_path):
    assert "no attack card at" in complaint(attack_card, f"{tmp_path}/")
    assert "cannot be read" in complaint(cards.read, tmp_path, AttackCard)
    assert "cannot be read (No such file" in complaint(
        cards.read, tmp_path / "none.toml", AttackCard
    )


# --- numbers and references ---


@pytest.mark.parametrize(
    ("written_as", "value"),
    [
        ('"8/255"', 8 / 255),
        ('" 8 / 255 "', 8 / 255),
        ('"1.43/255"', 1.43 / 255),
        ('".5"', 0.5),
        ('"5."', 5.0),
        ('"1e-2"', 0.01),
        ('"1e-2/4e0"', 0.0025),
        ('"0/255"', 0.0),
        ("0.03", 0.03),
        ("1", 1.0),
        ("0x10", 16.0),
    ],
)
def test_numbers_and_fractions(tmp_path, written_as, value):
    path = written(tmp_path, changed(ATTACK, "eps", written_as))
    card = cards.read(path, AttackCard)
    assert card.eps == pytest.approx(value, rel=1e-12)
    assert isinstance(card.eps, float)


@pytest.mark.parametrize(
    "written_as",
    [
        *('"8/0"', '"8/0.0"', '"/255"', '"8/"', '"8//255"', '"-8/255"', '"eight"', '""', '"$eps"'),
        *('"1e999"', '"1e308/1e-308"', '"nan"', '"inf"', '"0x10"', '"8/255/2"', '"8 255"', '"1_0"'),
        *("nan", "inf", "-inf", "-1", "-1e-9", "true", "[1]", "{}", "1979-05-27", "1" + "0" * 400),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, written_as):
    path = written(tmp_path, changed(ATTACK, "eps", written_as))
    message = complaint(cards.read, path, AttackCard)
    assert message.startswith(f"{path}: eps: ")
    assert ", got " in message


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("$eps", 0.5),
        ("$step_size", 0.25),
        ("$norm", "L2"),
        ("$n_classes", 7),
        ("$seed", 11),
        ("$eps/10", 0.05),
        ("$eps / 10", 0.05),
        ("$eps*2.5", 1.25),
        ("$step_size*1e1", 2.5),
        ("8/255", 8 / 255),
        ("standard", "standard"),
        ("1/2/3", "1/2/3"),
        ("12", "12"),
        (7, 7),
        (0.5, 0.5),
        (True, True),
        ([1, "$eps"], [1, "$eps"]),
    ],
)
def test_references(reference, value):
    card = AttackCard(name="a", engine="oat_bench", class_="PGD", parameters={"p": reference})
    threat = Threat(norm="L2", eps=0.5, step_size=0.25)
    resolved = card.chain()[0].resolve(threat, n_classes=7, seed=11)["p"]
    assert resolved == pytest.approx(value) if isinstance(value, float) else resolved == value
    assert type(resolved) is type(value)


def test_what_a_card_fixes_holds_against_the_benchmark(tmp_path):
    text = 'engine = "oat_bench"\nclass = "PGD"\n{}[parameters]\na = "$eps"\nb = "$step_size/2"\n'
    threat = Threat(norm="L2", eps=0.5, step_size=0.25)
    for fixed, expected in (
        ("", {"a": 0.5, "b": 0.125}),
        ('eps = "8/255"\n', {"a": 8 / 255, "b": 0.125}),
        ("eps = 0\nstep_size = 1\n", {"a": 0.0, "b": 0.5}),
    ):
        card = cards.read(written(tmp_path, text.format(fixed)), AttackCard)
        (part,) = card.chain()
        resolved = part.resolve(card.threat(threat), n_classes=10, seed=0)
        assert resolved == pytest.approx(expected)
        assert card.threat(threat).norm == "L2"


@pytest.mark.parametrize(
    "reference",
    [
        "$epsilon",
        "$",
        "$$eps",
        "$eps-1",
        "$eps/",
        "$eps/2/3",
        "$EPS",
        "$eps*x",
        "$eps\\n",
        "$eps/-1",
    ],
)
def test_references_to_nothing_are_refused_with_those_that_exist(tmp_path, reference):
    path = written(tmp_path, changed(ATTACK, "parameters.steps", f'"{reference}"'))
    message = complaint(cards.read, path, AttackCard)
    assert message.startswith(f"{path}: parameters.steps refers to ")
    known = "$eps, $step_size, $norm, $n_classes, $n_targets, $seed"
    assert f"expected one of {known}, or such as $eps/10 or $n_targets+1" in message


@pytest.mark.parametrize(
    "reference", ["$eps/0", "$eps+1", "$norm/2", "$n_classes*2", "$n_targets+0.5", "$seed/2"]
)
def test_references_that_cannot_be_computed_are_refused(tmp_path, reference):
    path = written(tmp_path, changed(ATTACK, "parameters.steps", f'"{reference}"'))
    message = complaint(cards.read, path, AttackCard)
    assert message.startswith(f"{path}: parameters.steps: cannot compute '{reference}'")


def test_a_parameter_divided_by_zero_is_named(tmp_path):
    path = written(tmp_path, changed(ATTACK, "parameters.steps", '"1/0"'))
    message = complaint(cards.read, path, AttackCard)
    assert message == f"{path}: parameters.steps divides by zero: '1/0'"


# --- bad cards ---


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("attack", "stps", "1", "unknown key 'stps'; did you mean step_size or"),
        ("attack", "engin", "1", "unknown key 'engin'; did you mean engine"),
        ("attack", "klass", "1", "unknown key 'klass'; did you mean class or"),
        (
            "attack",
            "zzz",
            "1",
            "unknown key 'zzz'; known: class, default, description, engine, eps",
        ),
        ("benchmark", "network.width", "1", "unknown key 'network.width'; did you mean widths"),
        ("benchmark", "network.widths", "1", "network.widths: input should be a valid list"),
        ("benchmark", "network.widths", "[]", "network.widths: list should have at least 1 item"),
        ("benchmark", "network.widths", "[1, 0]", "network.widths.1: input should be greater than"),
        ("benchmark", "network.widths", "[1.5]", "network.widths.0: input should be less than or"),
        (
            "benchmark",
            "network.widths",
            "[0.5, 0.25]",
            "network.widths: several widths share the weights of the full one; add width 1, got",
        ),
        (
            "benchmark",
            "network.heads",
            '"per-width"',
            'network: heads = "per-width" needs several widths, such as [1, 0.75, 0.5]',
        ),
        ("benchmark", "evaluation.widths", "[2]", "evaluation.widths.0: input should be less than"),
        ("benchmark", "training.epoch", "1", "unknown key 'training.epoch'; did you mean epochs"),
        ("benchmark", "threat.epsilon", "1", "unknown key 'threat.epsilon'; did you mean eps or"),
        ("benchmark", "thread.eps", "1", "unknown key 'thread'; did you mean threat"),
        (
            "attack",
            "engine",
            '"foolbox"',
            "engine: unknown engine 'foolbox'; known: art, file",
        ),
        (
            "attack",
            "engine",
            "3",
            "engine: input should be a valid string",
        ),
        ("attack", "norm", '"L1"', "norm: input should be 'Linf' or 'L2', got 'L1'"),
        ("attack", "class", "[]", "class: input should be a valid string, got '[]'"),
        ("attack", "parameters", "3", "parameters: input should be a valid dictionary, got '3'"),
        ("attack", "default", '"maybe"', "default: input should be a valid boolean"),
        ("attack", "version", "1.5", "version: input should be a valid integer"),
        ("attack", "name", "[1]", "name: input should be a valid string, got '[1]'"),
        ("attack", "eps", "-0.1", "eps: input should be greater than or equal to 0, got '-0.1'"),
        ("benchmark", "method", '"oat!"', "method: unknown method 'oat!'; did you mean oat"),
        ("benchmark", "network", "3", "network: input should be a valid dictionary"),
        ("benchmark", "network.encoding", '"sine"', "network.encoding: input should be 'scalar', "),
        (
            "benchmark",
            "network.norm",
            '"triple"',
            "network.norm: input should be 'dual' or 'single'",
        ),
        (
            "benchmark",
            "network.film",
            "0",
            "network.film: input should be 'identity-start', 'published' or 'none'",
        ),
        ("benchmark", "network.dropout", "1", "network.dropout: input should be less than 1, got"),
        ("benchmark", "network.encoding_dim", "0", "network.encoding_dim: input should be greater"),
        (
            "benchmark",
            "network.architecture",
            '"vgg"',
            "network.architecture: unknown architecture 'vgg'; expected resnet-18, resnet-34 or",
        ),
        ("benchmark", "threat.eps", '"8/0"', "threat.eps: expected a number or a fraction such as"),
        (
            "benchmark",
            "training.epochs",
            "0",
            "training.epochs: input should be greater than or eq",
        ),
        (
            "benchmark",
            "training.epochs",
            '"ten"',
            "training.epochs: input should be a valid integer",
        ),
        ("benchmark", "training.lr", "0", "training.lr: input should be greater than 0, got '0'"),
        (
            "benchmark",
            "training.batch_size",
            "1",
            "training.batch_size: input should be greater th",
        ),
        (
            "benchmark",
            "training.lambdas",
            "[0, 2]",
            "training.lambdas.1: input should be less than",
        ),
        ("benchmark", "training.lambdas", "[-1]", "training.lambdas.0: input should be greater th"),
        ("benchmark", "training.lambdas", "[nan]", "training.lambdas.0: "),
        (
            "benchmark",
            "training.lambdas",
            "[]",
            "training.lambdas: list should have at least 1 item",
        ),
        ("benchmark", "training.lambdas", "0.1", "training.lambdas: input should be a valid list"),
        (
            "benchmark",
            "training.sampling",
            '"x"',
            "training.sampling: input should be 'per-image' ",
        ),
        (
            "benchmark",
            "training.selection",
            '"x"',
            "training.selection: input should be 'last' or ",
        ),
        (
            "benchmark",
            "training.ema_decay",
            "1.0",
            "training.ema_decay: input should be less than 1",
        ),
        (
            "benchmark",
            "evaluation.n_examples",
            "0",
            "evaluation.n_examples: input should be greate",
        ),
        (
            "benchmark",
            "evaluation.attacks",
            '""',
            "evaluation.attacks: string should have at least",
        ),
        (
            "attack",
            "eps",
            "0x" + "f" * 5000,
            "eps: input should be a valid number, got a number to",
        ),
        (
            "attack",
            "name",
            "0x" + "f" * 5000,
            "name: input should be a valid string, got a number ",
        ),
    ],
)
def test_a_wrong_value_is_told_with_file_key_and_what_is_allowed(
    tmp_path, kind, key, value, message
):
    text, model = VALID[kind]
    path = written(tmp_path, changed(text, key, value))
    assert complaint(cards.read, path, model).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("attack", "engine"),
        ("attack", "class"),
        ("benchmark", "dataset"),
        ("benchmark", "network"),
        ("benchmark", "network.architecture"),
        ("benchmark", "training"),
        ("benchmark", "training.epochs"),
        ("benchmark", "training.lr"),
    ],
)
def test_a_missing_key_is_named(tmp_path, kind, key):
    text, model = VALID[kind]
    path = written(tmp_path, removed(text, key))
    assert complaint(cards.read, path, model) == f"{path}: key '{key}' is missing"


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", "a/b", "../a", "a,b", "a\\nb", "\u00e4", "x" * 65, "all", "Worst", "sa"],
)
def test_names_that_no_file_or_column_can_have_are_refused(tmp_path, name):
    path = written(tmp_path, changed(ATTACK, "name", f'"{name}"'))
    message = complaint(cards.read, path, AttackCard)
    assert message.startswith(f"{path}: name: expected up to 64 letters, digits and . _ + -, and ")
    # a file's own name is held to the same
    path = written(tmp_path, ATTACK, "a b.toml")
    assert complaint(cards.read, path, AttackCard).startswith(f"{path}: name: expected up to 64")


@pytest.mark.parametrize("name", ["a", "PGD-7", "apgd+t", "1.43_255", "x" * 64, "allx"])
def test_names_of_letters_digits_and_some_signs_are_taken(tmp_path, name):
    path = written(tmp_path, changed(ATTACK, "name", f'"{name}"'))
    assert cards.read(path, AttackCard).name == name


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            [("network.architecture", '"resnet-18"')],
            "network: resnet-18 has no dropout; set dropout = 0",
        ),
        (
            [("training.nesterov", "true"), ("training.momentum", "0")],
            "training: nesterov = true needs a momentum above 0",
        ),
        (
            [("training.attack_steps_start", "9")],
            "training: attack_steps_start is 9; expected at most attack_steps, 7",
        ),
        (
            [("network.encoding_dim", "2")],
            "network.encoding_dim is 2; expected at least 3, one for each lambda of",
        ),
        (
            [("network.norm", '"single"')],
            'network.norm is "single"; expected "dual", or a single-bn method',
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(tmp_path, edits, message):
    text = BENCHMARK
    for key, value in edits:
        text = changed(text, key, value)
    path = written(tmp_path, text)

    def checked():
        return cards.read(path, BenchmarkCard).checked()

    told = complaint(checked)
    assert told.removeprefix(f"{path}: ").startswith(message) or f": {message}" in told


def test_each_of_those_values_goes_with_another(tmp_path):
    for edits in (
        [("network.architecture", '"resnet-18"'), ("network.dropout", "0")],
        [("training.nesterov", "true"), ("training.momentum", "0.9")],
        [("network.encoding_dim", "2"), ("network.encoding", '"scalar"')],
        [("network.encoding_dim", "3")],
        [("network.norm", '"single"'), ("method", '"oat-single-bn"')],
        [("network.encoding_dim", "2"), ("method", '"pgd-at"')],
    ):
        text = BENCHMARK
        for key, value in edits:
            text = changed(text, key, value)
        assert cards.read(written(tmp_path, text), BenchmarkCard).name == "card"


def test_several_faults_are_counted(tmp_path):
    text = changed(changed(BENCHMARK, "training.epochs", "0"), "training.lr", "0")
    message = complaint(cards.read, written(tmp_path, text), BenchmarkCard)
    assert message.endswith("(and 1 more)")


@pytest.mark.parametrize(
    "text",
    [
        b"engine = ",
        b"engine",
        b"= 3",
        b"[parameters",
        b"a = 1\na = 2",
        b'engine = "oat_bench',
        b"\xff\xfe\x00\x01",
        b"\x00" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b'name = "\xed\xa0\x80"',
        b"\xef\xbb\xbf" + ATTACK.encode(),
        b"eps = " + b"1" * 5000,
        b"x = 2021-13-45",
        b"x = " + b"[" * 3000 + b"]" * 3000,
        b"{}",
        b"engine = 'oat_bench'\rclass = 'PGD'",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_what_is_not_toml_is_told_as_such(tmp_path, text):
    path = written(tmp_path, text)
    for model in (AttackCard, BenchmarkCard):
        assert complaint(cards.read, path, model).startswith(f"{path}: not valid TOML: ")


def test_an_empty_file_lacks_a_key(tmp_path):
    path = written(tmp_path, "")
    assert complaint(cards.read, path, AttackCard) == f"{path}: key 'engine' is missing"


def test_nesting_that_cannot_be_written_down_is_refused(tmp_path):
    path = written(tmp_path, ATTACK + "deep = " + "[" * 300 + "]" * 300)
    assert complaint(cards.read, path, AttackCard) == f"{path}: nested too deeply for a card"


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "card.toml"
    with path.open("wb") as file:
        file.truncate(1 << 32)  # sparse: 4 GiB that take no room
    message = complaint(cards.read, path, AttackCard)
    assert message == f"{path}: too large for a card (over 65536 bytes)"
    largest = ATTACK + "#" * ((1 << 16) - len(ATTACK))
    assert cards.read(written(tmp_path, largest), AttackCard).class_ == "PGD"
    assert "too large" in complaint(cards.read, written(tmp_path, largest + "#"), AttackCard)


def test_keys_and_values_with_control_characters_stay_on_one_line(tmp_path):
    for key in ("a\\nb", "\\u2028", "\\u0085x", "\\u001b[2J"):
        path = written(tmp_path, f'"{key}" = 1\n' + ATTACK)
        assert "unknown key" in complaint(cards.read, path, AttackCard)
        path = written(tmp_path, changed(ATTACK, "norm", f'"{key}"'))
        assert "norm: input should be" in complaint(cards.read, path, AttackCard)


def test_long_values_are_cut(tmp_path):
    path = written(tmp_path, changed(ATTACK, "norm", '"' + "x" * 100_000 + '"'))
    assert len(complaint(cards.read, path, AttackCard)) < len(str(path)) + 200


# --- values ---


def test_cards_cannot_be_changed_after_reading():
    card = attack_card("fgsm")
    with pytest.raises(ValueError, match="frozen"):
        card.eps = 0.1


def test_lambdas_are_sorted_and_distinct(tmp_path):
    path = written(tmp_path, changed(BENCHMARK, "training.lambdas", '[1, "1/10", 0, 0.1, 1]'))
    assert cards.read(path, BenchmarkCard).training.lambdas == [0.0, 0.1, 1.0]


def test_the_fingerprint_is_of_the_values_and_not_of_the_words(tmp_path):
    def fingerprint(text: str, name: str = "card.toml") -> str:
        return cards.read(written(tmp_path, text, name), AttackCard).fingerprint()

    original = fingerprint(ATTACK)
    assert re.fullmatch("[0-9a-f]{64}", original)
    assert fingerprint(ATTACK, "other.toml") == original
    assert fingerprint(changed(ATTACK, "description", '"x"')) == original
    assert fingerprint(changed(ATTACK, "source", '"x"')) == original
    assert fingerprint(changed(ATTACK, "eps", repr(8 / 255))) == original
    assert fingerprint("# a comment\n" + ATTACK) == original
    changes = [("eps", "0.1"), ("parameters.steps", "8"), ("norm", '"L2"'), ("version", "2")]
    others = {fingerprint(changed(ATTACK, key, value)) for key, value in changes}
    assert len(others | {original}) == len(changes) + 1


# --- cards that extend cards ---


def extending(folder: Path, parent: str, text: str, name: str = "child.toml") -> Path:
    return written(folder, f"extends = '{parent}'\n{text}", name)


def test_a_card_states_only_what_differs(tmp_path):
    written(tmp_path, BENCHMARK, "parent.toml")
    child = extending(
        tmp_path, "parent.toml", "dataset = 'svhn'\n[training]\nepochs = 5\nlambdas = [0, 0.5]"
    )
    card, parent = benchmark_card(str(child)), benchmark_card(str(tmp_path / "parent.toml"))
    assert (card.name, card.dataset, card.description) == ("child", "svhn", "a benchmark")
    # a table is merged, a list is replaced
    assert card.training == parent.training.model_copy(update={"epochs": 5, "lambdas": [0, 0.5]})
    assert (card.network, card.threat) == (parent.network, parent.threat)


def test_a_card_takes_the_name_of_its_file_or_its_own(tmp_path):
    written(tmp_path, f"name = 'first'\n{ATTACK}", "parent.toml")
    assert attack_card(str(extending(tmp_path, "parent.toml", ""))).name == "child"
    assert attack_card(str(extending(tmp_path, "parent.toml", "name = 'x'"))).name == "x"


def test_parameters_of_an_attack_are_merged(tmp_path):
    card = attack_card(str(extending(tmp_path, "pgd-20", "[parameters]\nsteps = 50")))
    shipped = attack_card("pgd-20")
    assert card.parameters == shipped.parameters | {"steps": 50}
    assert (card.class_, card.engine) == (shipped.class_, shipped.engine)


def test_a_path_is_relative_to_the_file_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    written(tmp_path, ATTACK, "root.toml")
    extending(tmp_path / "a", "../root.toml", "eps = 0.25", "middle.toml")
    leaf = extending(tmp_path / "a" / "b", "../middle.toml", "step_size = 0.5", "leaf.toml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for path in (leaf, Path("../a/b/leaf.toml")):
        card = attack_card(str(path))
        assert (card.eps, card.step_size, card.class_) == (0.25, 0.5, "PGD")
    absolute = extending(tmp_path, str(tmp_path / "root.toml"), "", "absolute.toml")
    assert attack_card(str(absolute)).eps == pytest.approx(8 / 255)


@settings(max_examples=60)
@given(data=st.data())
def test_however_a_card_is_spread_over_files_it_is_the_same_card(folder, data):
    text, model = VALID[data.draw(st.sampled_from(sorted(VALID)))]
    depth = data.draw(st.integers(1, 4))
    spread = [{table: {} for table in parts(text)} for _ in range(depth)]
    for table, values in parts(text).items():
        for key, value in values.items():
            owner = data.draw(st.integers(0, depth - 1))
            spread[owner][table][key] = value
            # what lies below is covered, whatever it says
            for below in range(owner):
                if data.draw(st.booleans()):
                    spread[below][table][key] = data.draw(st.sampled_from(["7", "'no'", "[1]"]))
    for place, tables in enumerate(spread):
        first = "" if place == 0 else f"extends = './{place - 1}.toml'\n"
        written(folder, first + joined(tables), f"{place}.toml")
    whole = cards.read(written(folder, text), model)
    card = cards.read(folder / f"{depth - 1}.toml", model)
    assert card.model_copy(update={"name": whole.name}) == whole
    if model is BenchmarkCard:  # an attack's also says in which order its parameters stand
        assert card.fingerprint() == whole.fingerprint()


def test_the_file_that_states_a_bad_value_is_named(tmp_path):
    parent = written(tmp_path, changed(BENCHMARK, "training.epoch", "3"), "parent.toml")
    child = extending(tmp_path, "parent.toml", "[training]\nlr = 0.2")
    message = complaint(benchmark_card, str(child))
    assert message.startswith(f"{parent}: unknown key 'training.epoch'; did you mean epochs")
    written(tmp_path, BENCHMARK, "parent.toml")
    for text, words in [
        ("[training]\nlr = -1", "training.lr: input should be greater than 0"),
        ("[trainin]\nlr = 1", "unknown key 'trainin'; did you mean training"),
        ("extend = 'x'", "unknown key 'extend'; did you mean extends"),
        ("training = 3", "training: "),
        ("[training]\nlambdas = [0, 2]", "training.lambdas.1: "),
    ]:
        extending(tmp_path, "parent.toml", text)
        assert complaint(benchmark_card, str(child)).startswith(f"{child}: {words}")
    written(tmp_path, removed(BENCHMARK, "training.epochs"), "parent.toml")
    extending(tmp_path, "parent.toml", "")
    message = complaint(benchmark_card, str(child))
    assert message == f"{child}: key 'training.epochs' is missing"


def test_values_that_go_together_in_neither_file_alone(tmp_path):
    written(tmp_path, removed(BENCHMARK, "network.dropout"), "parent.toml")
    child = extending(tmp_path, "parent.toml", "[network]\narchitecture = 'resnet-18'")
    assert benchmark_card(str(child)).network.encoding == "dct"
    extending(tmp_path, "parent.toml", "[network]\narchitecture = 'resnet-18'\ndropout = 0.5")
    assert f"{child}: network: resnet-18 has no dropout" in complaint(benchmark_card, str(child))


def test_cards_that_extend_in_a_circle_are_refused(tmp_path):
    path = extending(tmp_path, "./child.toml", "")
    message = complaint(attack_card, str(path))
    assert message.startswith(f"{path}: extends '/")
    assert message.endswith(", which extends this card in turn")
    extending(tmp_path, "two.toml", "")
    extending(tmp_path, "three.toml", "", "two.toml")
    last = extending(tmp_path, "../" + tmp_path.name + "/child.toml", "", "three.toml")
    assert complaint(attack_card, str(path)).startswith(f"{last}: extends ")


@pytest.mark.parametrize(
    ("extends", "words"),
    [
        ("'pgd-8'", "extends: unknown attack 'pgd-8'; did you mean pgd-7"),
        ("'cifar10'", "extends: unknown attack 'cifar10'"),  # a card of the other kind
        ("'no.toml'", "no.toml; expected a TOML file"),
        ("'../no/such'", "no/such; expected a TOML file"),
        ("'\\u0000.toml'", "expected a TOML file"),
        ("''", "extends: unknown attack ''"),
        ("3", "extends: expected the name or the path of a card, got '3'"),
        ("['pgd-7', 'pgd-20']", "extends: expected the name or the path of a card"),
    ],
)
def test_what_cannot_be_extended(tmp_path, extends, words):
    path = written(tmp_path, f"extends = {extends}")
    message = complaint(attack_card, str(path))
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_card_that_extends_a_damaged_one_names_it(tmp_path):
    parent = written(tmp_path, "epochs = = 3", "parent.toml")
    child = extending(tmp_path, "parent.toml", "")
    assert complaint(benchmark_card, str(child)).startswith(f"{parent}: not valid TOML: ")


def test_a_key_that_came_later_is_hashed_only_where_it_is_set():
    class Grown(Threat):
        hue: float = 0.0

    old, new = Threat(eps=0.1), Grown(eps=0.1)
    assert new.fingerprint() == old.fingerprint() == Grown(eps=0.1, hue=0.0).fingerprint()
    assert Grown(eps=0.1, hue=0.5).fingerprint() != old.fingerprint()
    assert (
        new.model_dump() == old.model_dump() == {"norm": "Linf", "eps": 0.1, "step_size": 2 / 255}
    )
    again = Grown.model_validate_json(Grown(eps=0.1, hue=0.5).model_dump_json())
    assert again.hue == 0.5


def test_what_is_left_out_of_a_dump_is_read_back():
    for name in cards.names("benchmarks"):
        card = benchmark_card(name)
        assert BenchmarkCard.model_validate(card.model_dump()) == card
        assert BenchmarkCard.model_validate_json(card.model_dump_json()) == card


def test_with_another_method(tmp_path):
    card = cards.read(written(tmp_path, BENCHMARK), BenchmarkCard)
    other = card.with_method("pgd-at")
    assert (other.method, other.name) == ("pgd-at", "card-pgd-at")
    assert other.training == card.training
    assert card.with_method("oat") is card
    assert complaint(card.with_method, "pgd_at").endswith("pgd-at or pgd-ats?, got 'pgd_at'")
    single = changed(changed(BENCHMARK, "network.norm", '"single"'), "method", '"oat-single-bn"')
    card = cards.read(written(tmp_path, single), BenchmarkCard)
    assert 'network.norm is "single"' in complaint(card.with_method, "oat")


# --- text nobody would write ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cards")


def assert_card_or_complaint(folder: Path, text: str | bytes, model: type) -> None:
    path = written(folder, text)
    message = card = None
    try:
        card = cards.read(path, model)
    except UserError as error:
        message = str(error)
    if message is not None:
        assert message.startswith(f"{path}: ")
        assert len(message.splitlines()) == 1, message
        return
    assert isinstance(card, model)
    assert card.fingerprint()
    if isinstance(card, AttackCard):
        card.chain()[0].resolve(Threat(), n_classes=10, seed=0)


keys = st.sampled_from(
    [
        *("name", "version", "engine", "class", "norm", "eps", "step_size", "parameters"),
        *("default", "a", '"a\\nb"', "'$'", "parameters.eps", "parameters.steps"),
        *("parameters.x.y", "dataset", "method", "network", "threat", "training"),
        *("evaluation", "network.architecture", "network.encoding_dim"),
        *("training.lambdas", "training.epochs", "training.lr", "training.ema_decay"),
        *("threat.eps", "threat.norm", "evaluation.lambdas", "evaluation.attacks"),
    ]
)
strings = st.one_of(
    st.sampled_from(
        [
            *("8/255", "$eps", "$eps/10", "$n_classes*2", "$eps/0", "1/0", "1e999"),
            *("1e-400/1e-400", "\u0663/\u0664", "\u00b2", "PGD", "L2", "Linf", "wrn-10-1"),
            *("wrn-9994-999", "resnet-18", "oat_bench", "torchattacks", "digits", "oat"),
            *("per-image", "all"),
        ]
    ),
    st.text(max_size=12),
    st.from_regex(r"\$?[a-z_]{0,9}[*/]?[0-9.e+-]{0,6}", fullmatch=True),
)
scalars = st.one_of(
    strings.map(lambda text: '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'),
    st.integers().map(str),
    st.integers(300, 6000).map(lambda length: "7" * length),
    st.integers(300, 6000).map(lambda length: "0x" + "f" * length),
    st.floats().map(str),
    st.sampled_from(["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0xff", "1e5", "nan", "{}"]),
    st.sampled_from(["true", "false", "-0", "+inf", "1e400", "-1e-400", "''"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(keys, inner), max_size=3, unique_by=lambda pair: pair[0]).map(
            lambda pairs: "{" + ", ".join(f"{k} = {v}" for k, v in pairs) + "}"
        ),
    ),
    max_leaves=6,
)
models = st.sampled_from([AttackCard, BenchmarkCard])


@settings(max_examples=300)
@given(
    lines=st.lists(
        st.one_of(
            st.tuples(keys, values).map(lambda pair: f"{pair[0]} = {pair[1]}"),
            keys.map(lambda key: f"[{key}]"),
            keys.map(lambda key: f"[[{key}]]"),
            st.text(max_size=20),
        ),
        max_size=8,
    ),
    model=models,
)
def test_any_toml_is_a_card_or_a_complaint(folder, lines, model):
    assert_card_or_complaint(folder, "\n".join(lines).encode(errors="replace"), model)


@settings(max_examples=400)
@given(kind=st.sampled_from(sorted(VALID)), key=keys, value=values)
def test_a_valid_card_with_one_other_value_is_a_card_or_a_complaint(folder, kind, key, value):
    text, model = VALID[kind]
    assert_card_or_complaint(folder, changed(text, key, value), model)


@settings(max_examples=300)
@given(
    kind=st.sampled_from(sorted(VALID)),
    edits=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 12), st.binary(max_size=6)), max_size=4
    ),
)
def test_a_valid_card_with_bytes_replaced_is_a_card_or_a_complaint(folder, kind, edits):
    text, model = VALID[kind]
    content = text.encode()
    for place, removed, added in edits:
        content = content[:place] + added + content[place + removed :]
    assert_card_or_complaint(folder, content, model)


@settings(max_examples=200)
@given(content=st.binary(max_size=200), model=models)
def test_any_bytes_are_a_card_or_a_complaint(folder, content, model):
    assert_card_or_complaint(folder, content, model)


@settings(max_examples=300)
@given(selection=st.text(max_size=30) | st.text("/\\.,algdpfsm-270\n \x00~", max_size=12))
def test_any_selection_is_attacks_or_a_complaint(selection):
    message, found = "", []
    try:
        found = select_attacks(selection)
    except UserError as error:
        message = str(error)
    assert bool(found) == (message == "")
    assert len({card.name for card in found}) == len(found)
    assert len(message.splitlines()) == (message != "")


def test_the_starting_points_of_those_mutations_are_cards(tmp_path):
    for kind, (text, model) in VALID.items():
        card = cards.read(written(tmp_path, text, f"{kind}.toml"), model)
        assert card.name == kind
        # and the helper that changes them writes the TOML that it says
        for key, value in (("eps", "3"), ("parameters.new", "4"), ("other.thing", "5")):
            table = tomllib.loads(changed(text, key, value))
            for part in key.split("."):
                table = table[part]
            assert table == int(value)
