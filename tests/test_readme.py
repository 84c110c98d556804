"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

from oat_bench import datasets
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import benchmark_card
from oat_bench.cli.options import DEFAULT_BENCHMARK

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs(trained_folder, capsys):
    (example,) = blocks("python")
    for shown, here in (
        ("runs/fashion-12x12-seed0", str(trained_folder)),
        ("fashion-12x12", "digits"),
    ):
        assert shown in example
        example = example.replace(shown, here)
    exec(example, {})
    first, *predictions = capsys.readouterr().out.splitlines()
    share = re.fullmatch(r"RA at lambda 0.7: (0\.\d+)", first)
    assert share
    assert 0 <= float(share[1]) < 0.9
    assert len(re.findall(r"\d", " ".join(predictions))) == 100


def test_the_benchmark_card_is_one(tmp_path):
    path = tmp_path / "my-card.toml"
    path.write_text(blocks("toml")[0])
    card = benchmark_card(str(path))
    assert card.dataset == "cifar10"
    assert (card.network.interpolation, card.training.objective.loss) == ("film", "mma")


def test_the_attack_card_is_one_and_attacks(tmp_path, trained):
    path = tmp_path / "auto-pgd.toml"
    path.write_text(blocks("toml")[1])
    card = attack_card(str(path))
    attack = prepare(card, trained.info.threat, n_classes=10, seed=0)
    test = datasets.load("digits").test
    x, y = test.inputs(slice(0, 20)), test.labels[:20]
    model = trained.at(0.0)
    right = model(x).argmax(1) == y
    x_adv = attack(model, x[right], y[right], right.nonzero()[:, 0])
    assert (model(x_adv).argmax(1) == y[right]).sum() < 0.5 * right.sum()


def test_the_table_is_one_that_the_command_writes():
    (title,) = re.findall(r"^\*\*(.*, OAT, .*eps.*)\*\*$", README, re.MULTILINE)
    card = benchmark_card(DEFAULT_BENCHMARK)
    threat = f"{card.threat.norm} eps {card.threat.eps:g}"
    assert title == f"{card.dataset}, {card.network.architecture}, OAT, {threat}"
    rows = re.findall(r"^\| +([\d.]+) \| (\d+) \|", README, re.MULTILINE)
    assert [float(lam) for lam, _ in rows] == card.evaluation.lambdas
    assert {int(n) for _, n in rows} == {card.evaluation.n_examples}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    for target in (a or b for a, b in targets):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        assert (page.parent / file).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (page.parent / file).read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_every_page_is_reached_from_the_readme():
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in README
