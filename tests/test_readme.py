"""What the README and the pages that it leads to show works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
from pages import check_command

from oat_bench import datasets
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import benchmark_card
from oat_bench.cli.options import DEFAULT_BENCHMARK

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PAGES += sorted((ROOT / "docs").glob("**/*.md"))
MADE = {"reference/commands.md", "reference/cards.md"}  # by docs/pages.py


def blocks(language, page="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


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
    path.write_text(blocks("toml", "docs/data.md")[0])
    card = benchmark_card(str(path))
    assert card.dataset == "cifar10"
    assert (card.network.interpolation, card.training.objective.loss) == ("film", "mma")


def test_the_attack_card_is_one_and_attacks(tmp_path, trained):
    path = tmp_path / "auto-pgd.toml"
    path.write_text(blocks("toml", "docs/add-an-attack.md")[1])
    card = attack_card(str(path))
    attack = prepare(card, trained.info.threat, n_classes=10, seed=0)
    test = datasets.load("digits").test
    x, y = test.inputs(slice(0, 20)), test.labels[:20]
    model = trained.at(0.0)
    right = model(x).argmax(1) == y
    x_adv = attack(model, x[right], y[right], right.nonzero()[:, 0])
    assert (model(x_adv).argmax(1) == y[right]).sum() < 0.5 * right.sum()


def test_the_table_is_one_that_the_command_writes():
    page = (ROOT / "docs" / "tutorial.md").read_text()
    (title,) = re.findall(r"^\*\*(.*, OAT, .*eps.*)\*\*$", page, re.MULTILINE)
    card = benchmark_card(DEFAULT_BENCHMARK)
    threat = f"{card.threat.norm} eps {card.threat.eps:g}"
    assert title == f"{card.dataset}, {card.network.architecture}, OAT, {threat}"
    rows = re.findall(r"^\| +([\d.]+) \| (\d+) \|", page, re.MULTILINE)
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
        if file in MADE:
            continue  # `make docs` fails where it leads nowhere
        there = page.parent / file if file else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_every_page_is_reached_from_the_readme():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README


def test_every_page_is_in_the_contents_of_the_documentation():
    contents = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("**/*.md"):
        assert re.search(
            rf"\b{page.relative_to(ROOT / 'docs').as_posix()}$", contents, re.MULTILINE
        )


def test_commands_of_the_readme_and_of_the_pages_by_example_are_commands():
    lines = []
    for page in ("README.md", "docs/tutorial.md", "docs/submit.md"):
        for block in blocks("sh", page):
            lines += block.replace("\\\n", " ").splitlines()
    table = (ROOT / "docs" / "commands.md").read_text()
    lines += re.findall(r"^\| `(oat-bench [^`]*)`", table, re.MULTILINE)
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("oat-")]
    assert len(commands) > 40
    for words in commands:
        check_command(words)
