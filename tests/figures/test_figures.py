"""Figures: whole, readable, repeatable files with the numbers in them."""

import struct
import xml.etree.ElementTree as ET
import zlib

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from oat_bench import figures
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError
from oat_bench.figures import batch_norm, jacobian, style
from oat_bench.methods.oat import OAT
from oat_bench.results import models
from oat_bench.results.entries import Entry
from oat_bench.results.points import Cost
from oat_bench.results.published import Published
from oat_bench.statistics.accuracy import WORST

SVG = "{http://www.w3.org/2000/svg}"
TRAINED = (0.0, 0.1, 1.0)


def interval(value):
    return {"value": value, "low": max(value - 3, 0), "high": min(value + 3, 100)}


def make_entry(
    attacks=("fgsm", "pgd-7"), lambdas=(0.0, 0.15, 1.0), widths=(1.0,), worst=True, **changes
):
    points = [
        {
            "lam": lam,
            "width": width,
            "trained": lam in TRAINED,
            "n": 50,
            "clean_acc": 95 - 10 * lam,
            "clean_acc_interval": interval(95 - 10 * lam),
            "autoattack_acc": None,
            "robust_acc": {
                name: interval(60 * lam * width / (k + 1)) for k, name in enumerate(attacks)
            },
            "worst_case_acc": interval(20 * lam) if worst else None,
        }
        for width in widths
        for lam in lambdas
    ]
    values = {
        "name": "OAT wrn-10-1",
        "dataset": "digits & <friends>",
        "architecture": "wrn-10-1",
        "threat_model": "Linf",
        "eps": "8/255",
        "method": "oat",
        "seed": 0,
        "operating_points": points,
        "attacks": [
            {"name": n, "engine": "e", "class": "C", "eps": 8 / 255, "parameters": {}, "card": ""}
            for n in attacks
        ],
        "gradients": "float32",
        "command": "c",
        "benchmark_card": "",
        "model_fingerprint": "",
        "selection": "",
        "interpolation": "linear-codes",
        "versions": {},
    }
    return Entry.model_validate(values | changes)


def row(lam, sa, ra, **changes):
    values = {
        "dataset": "svhn",
        "network": "wrn-16-8",
        "method": "oats",
        "lambda": lam,
        "width": 1,
        "attack": "pgd-7",
        "norm": "Linf",
        "eps": "8/255",
        "SA": sa,
        "RA": ra,
        "uncertainty": 0.3,
        "source": "s",
        "note": "",
    }
    return Published.model_validate(values | changes)


ROWS = [row(1.0, 90.0, 50.0), row(0.0, 96.0, 5.0), row(0.5, None, 30.0)]


def lines(axes):
    """Return the points of every line by its label."""
    found = {}
    for line in axes.get_lines():
        if not line.get_label().startswith("_"):
            found[line.get_label()] = list(zip(*line.get_data(), strict=True))
    for box in axes.containers:
        if not (box.get_label() or "_").startswith("_"):  # None before matplotlib 3.11
            found[box.get_label()] = list(zip(*box.lines[0].get_data(), strict=True))
    return found


def text(figure, tmp_path):
    """Return all that is written in a figure."""
    (path,) = figures.write(figure, tmp_path / "figure.svg")
    comments = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.parse(path, parser=comments).getroot()
    return [node.text.strip() for node in root.iter() if node.tag is ET.Comment]


def kinds(build_classifier, digits):
    entry = make_entry()
    return {
        "frontier": lambda: figures.frontier([entry], ROWS),
        "attacks": lambda: figures.attacks([entry], ROWS),
        "lambda": lambda: figures.by_lambda([entry], ROWS),
        "unseen": lambda: figures.unseen([entry]),
        "bn-statistics": lambda: figures.bn_statistics(build_classifier()),
        "saliency": lambda: figures.saliency(build_classifier(), digits, [0.0, 0.3]),
    }


KINDS = ["frontier", "attacks", "lambda", "unseen", "bn-statistics", "saliency"]


# --- files


@pytest.mark.parametrize("kind", KINDS)
def test_both_files_are_whole_and_not_blank(kind, build_classifier, digits, tmp_path):
    draw = kinds(build_classifier, digits)[kind]
    written = figures.write(draw(), tmp_path / kind)
    assert [path.name for path in written] == [f"{kind}.svg", f"{kind}.png"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{kind}.svg", f"{kind}.png"}

    root = ET.parse(tmp_path / f"{kind}.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}path"))) > 5

    png = (tmp_path / f"{kind}.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, []
    while place < len(png):  # every chunk with its checksum
        (length,) = struct.unpack(">I", png[place : place + 4])
        chunk = png[place + 4 : place + 8 + length]
        (crc,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert zlib.crc32(chunk) == crc
        chunks.append(chunk[:4])
        place += 12 + length
    assert chunks[0] == b"IHDR"
    assert chunks[-1] == b"IEND"

    pixels = matplotlib.image.imread(tmp_path / f"{kind}.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 400
    ink = (pixels[..., :3].mean(axis=2) < 0.6).mean()
    assert 0.002 < ink < 0.9
    # nothing is cut: the border is white
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == 1).all() for edge in edges)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_figure_is_the_same_file(kind, build_classifier, digits, tmp_path):
    draw = kinds(build_classifier, digits)[kind]
    for name in ("one", "two"):
        figures.write(draw(), tmp_path / name)
    for ending in ("svg", "png"):
        one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_other_numbers_are_another_file(tmp_path):
    for name, lambdas in (("one", (0.0, 0.1)), ("two", (0.0, 0.2))):
        figures.write(figures.frontier([make_entry(lambdas=lambdas)]), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(
    ("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_the_ending_is_the_format(tmp_path, ending, magic):
    path = tmp_path / "folder" / f"a.{ending}"
    assert figures.write(figures.frontier([make_entry()]), path) == [path]
    assert path.read_bytes().startswith(magic)
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown format '\.jpg'; expected \.svg, \.png, \.pdf"):
        figures.write(figures.frontier([make_entry()]), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_drawing_changes_nothing_of_matplotlib(tmp_path):
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    figures.write(figures.frontier([make_entry()]), tmp_path / "a")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_the_colours_can_be_told_apart_without_red_and_green():
    """Machado et al.'s matrices for full deuteranopia and protanopia (IEEE TVCG 15(6), 2009)."""
    deutan = np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    )
    protan = np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    )
    colours = np.array([matplotlib.colors.to_rgb(c) for c in style.COLOURS])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), deutan, protan):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.4)
        gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 9 * np.eye(len(seen))
        assert gaps.min() > 0.1


# --- frontiers


def test_the_frontier_is_drawn_at_its_numbers(tmp_path):
    entry = make_entry()
    figure = figures.frontier([entry])
    assert lines(figure.axes[0]) == {"OAT": [(95, 0), (93.5, 3), (85, 20)]}
    written = text(figure, tmp_path)
    assert "OAT" in written
    assert [label.get_text() for label in figure.axes[0].texts] == ["0", "0.15", "1"]
    assert figure.axes[0].get_title() == (
        "digits & <friends>, Linf eps 8/255: worst case over attacks (numbers: lambda)"
    )


@pytest.mark.parametrize("name", ["my$set$", "a--b", "$\\frac{$", "\u00e9t\u00e9"])
def test_names_are_written_as_they_are(tmp_path, name):
    """A folder of images may have any name; none of it is mathematics."""
    figures.write(figures.attacks([make_entry(dataset=name)]), tmp_path / "a")
    ET.parse(tmp_path / "a.svg")


def test_what_the_font_lacks_is_written_by_its_code(tmp_path, build_classifier, digits, recwarn):
    strange = make_entry(name="\u732b\tna\u00efve \u0444 \udcc3", dataset="\u72ac")
    written = text(figures.frontier([strange, make_entry(method="x", name="x")], []), tmp_path)
    assert any("\\u72ac" in line for line in written)
    assert style.drawable(strange.name) == "\\u732b na\u00efve \u0444 \\udcc3"
    classes = ("0", "a\tb", "2", "\u732b" * 9, *digits.classes[4:])
    data = Dataset("x", classes, digits.train, digits.validation, digits.test)
    written = text(figures.saliency(build_classifier(), data, [0.0]), tmp_path)
    assert {"a b", "\\u732b\\u732."} < {*written}
    assert [str(warning.message) for warning in recwarn] == []


def test_an_attack_can_be_chosen_and_published_points_come_with_it(tmp_path):
    figure = figures.frontier([make_entry()], ROWS, "pgd-7")
    assert lines(figure.axes[0]) == {
        "OAT": [(95, 0), (93.5, 4.5), (85, 30)],
        "OATS, published": [(96, 5), (90, 50)],  # what has only RA is not drawn
    }
    assert "OATS, published" in text(figure, tmp_path)
    assert list(lines(figures.frontier([make_entry()], ROWS, "fgsm").axes[0])) == ["OAT"]
    with pytest.raises(
        UserError, match="'pgd-20' was not run on every model at every lambda; did you mean pgd-7"
    ):
        figures.frontier([make_entry()], ROWS, "pgd-20")


def test_every_method_and_width_is_a_curve_of_its_own():
    entries = [make_entry(), make_entry(method="pgd-at"), make_entry(widths=(0.5, 1.0), seed=1)]
    figure = figures.frontier(entries, (), "pgd-7")
    assert list(lines(figure.axes[0])) == [
        "OAT seed 0",
        "PGD-AT",
        "OAT seed 1, width 1",
        "OAT seed 1, width 0.5",
    ]


def test_a_panel_for_each_attack():
    attacks = ("fgsm", "mi-fgsm", "pgd-7", "autoattack")
    figure = figures.attacks([make_entry(attacks)], ROWS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [*attacks, "worst case over attacks"]
    for axes, name in zip(figure.axes, attacks, strict=False):
        points = make_entry(attacks).operating_points
        expected = [(p.clean_acc_interval.value, p.robust_acc[name].value) for p in points]
        assert lines(axes)["OAT"] == expected
        assert ("OATS, published" in lines(axes)) == (name == "pgd-7")


def test_only_attacks_that_all_have_are_drawn():
    entries = [make_entry(("fgsm", "pgd-7")), make_entry(("pgd-7", "pgd-20"), method="pgd-at")]
    assert models.common_attacks(entries) == ["pgd-7"]  # no worst case: not the same attacks
    assert [axes.get_title() for axes in figures.attacks(entries).axes] == ["pgd-7"]
    assert models.choose_attack(entries) == "pgd-7"
    nothing = [make_entry(("fgsm",)), make_entry(("pgd-7",))]
    with pytest.raises(UserError, match="no attack was run, with one card, on every"):
        figures.attacks(nothing)
    other = make_entry(method="pgd-at")
    changed = [a.model_copy(update={"card": "x"}) for a in other.attacks if a.name == "fgsm"]
    other = other.model_copy(update={"attacks": [*changed, other.attacks[1]]})
    assert models.common_attacks([make_entry(), other]) == ["pgd-7"]  # fgsm is another fgsm
    assert models.common_attacks([make_entry(worst=False)]) == ["fgsm", "pgd-7"]
    assert models.choose_attack([make_entry()]) == WORST


def test_labels_say_what_differs_and_no_more():
    def labels(*changes):
        return models.labels([make_entry(**c) for c in changes])

    assert labels({}) == ["OAT"]
    assert labels({}, {"method": "pgd-at"}) == ["OAT", "PGD-AT"]
    assert labels({}, {"seed": 1}, {"method": "pgd-at", "seed": 3}) == [
        "OAT seed 0",
        "OAT seed 1",
        "PGD-AT",
    ]
    assert labels({}, {"architecture": "wrn-16-2"}) == ["OAT wrn-10-1", "OAT wrn-16-2"]
    assert labels({}, {}) == ["OAT no. 1", "OAT no. 2"]


@pytest.mark.parametrize("attacks", [("fgsm",), ("fgsm", "pgd-7", "autoattack")])
@pytest.mark.parametrize("lambdas", [(0.5,), (0.0, 1.0)])
@pytest.mark.parametrize("worst", [True, False])
def test_any_entry_can_be_drawn(tmp_path, attacks, lambdas, worst):
    entry = make_entry(attacks, lambdas, worst=worst)
    for name, draw in (("f", figures.frontier), ("a", figures.attacks), ("l", figures.by_lambda)):
        figures.write(draw([entry]), tmp_path / f"{name}.svg")
        ET.parse(tmp_path / f"{name}.svg")


# --- lambda


def test_accuracies_over_lambda():
    left, right = figures.by_lambda([make_entry()], ROWS, "pgd-7").axes
    assert lines(left) == {
        "OAT": [(0, 95), (0.15, 93.5), (1, 85)],
        "OATS, published": [(0, 96), (1, 90)],
    }
    assert lines(right) == {
        "OAT": [(0, 0), (0.15, 4.5), (1, 30)],
        "OATS, published": [(0, 5), (0.5, 30), (1, 50)],
    }


def test_unseen_lambda_are_stars_beside_the_trained():
    entry = make_entry(lambdas=(0.0, 0.1, 0.15, 0.7, 1.0))
    left, right = figures.unseen([entry]).axes
    assert lines(left) == {
        "OAT, trained": [(0, 95), (0.1, 94), (1, 85)],
        "OAT, unseen": [(0.15, 93.5), (0.7, 88)],
    }
    assert [x for x, _ in lines(right)["OAT, unseen"]] == [0.15, 0.7]
    stars = [line for line in left.get_lines() if line.get_label() == "OAT, unseen"]
    assert stars[0].get_marker() == "*"
    assert stars[0].get_linestyle() == "None"


def test_without_unseen_lambda_the_figure_says_so():
    with pytest.raises(figures.NotApplicableError, match="no lambda was evaluated that was not"):
        figures.unseen([make_entry(lambdas=(0.0, 1.0))])
    figures.unseen([make_entry(lambdas=(0.15,))])  # nothing trained either: stars alone


# --- batch norm


def test_statistics_are_those_of_the_last_layer(build_classifier):
    classifier = build_classifier()
    norm = classifier.network.backbone.norm
    name, found = batch_norm.collect(classifier)
    assert name == "norm"
    assert list(found) == ["BN_c (lambda = 0)", "BN_a (lambda > 0)"]
    for (mean, variance), layer in zip(found.values(), (norm.bn_c, norm.bn_a), strict=True):
        assert torch.equal(mean, layer.running_mean)
        assert torch.equal(variance, layer.running_var)
    (axes,) = figures.bn_statistics(classifier).axes
    for dots, (mean, variance) in zip(axes.collections, found.values(), strict=True):
        drawn = torch.as_tensor(np.asarray(dots.get_offsets()), dtype=torch.float32)
        assert torch.allclose(drawn, torch.stack([mean, variance], 1))


def test_any_norm_layer_can_be_chosen(build_classifier):
    classifier = build_classifier()
    name, found = batch_norm.collect(classifier, "stage2.blocks.0.norm2")
    layer = classifier.network.backbone.stage2.blocks[0].norm2
    assert name == "stage2.blocks.0.norm2"
    assert torch.equal(found["BN_a (lambda > 0)"][0], layer.bn_a.running_mean)
    with pytest.raises(UserError, match=r"no norm layer 'stage2\.blocks\.0\.norm3'; did you mean"):
        figures.bn_statistics(classifier, "stage2.blocks.0.norm3")


def test_a_single_batch_norm_and_a_family_of_networks(build_classifier, perturbed):
    classifier = build_classifier()
    single = OAT(classifier.info, perturbed(num_classes=10, norm="single"))
    _, found = batch_norm.collect(single)
    assert list(found) == ["BN (every lambda)"]

    class Family:
        info = classifier.info
        networks = {
            lam: perturbed(num_classes=10, norm="single", seed=seed)
            for seed, lam in enumerate((0.0, 0.5, 1.0))
        }

    _, found = batch_norm.collect(Family())
    assert list(found) == ["lambda 0", "lambda 0.5", "lambda 1"]
    norm = Family.networks[0.5].backbone.norm.bn_a
    assert torch.equal(found["lambda 0.5"][0], norm.running_mean)


def test_a_classifier_without_batch_norm_says_so(build_classifier):
    class Other:
        info = build_classifier().info

    with pytest.raises(figures.NotApplicableError, match="oat has none"):
        figures.bn_statistics(Other())


# --- several widths


def with_costs(entry):
    points = [
        point.model_copy(
            update={
                "cost": Cost(
                    parameters=1000,
                    flops=int(4e6 * point.width**2),
                    latency_ms=1.0,
                    machine="m",
                )
            }
        )
        for point in entry.operating_points
    ]
    return entry.model_copy(update={"operating_points": points})


def test_a_panel_for_each_width(tmp_path):
    slim = with_costs(make_entry(widths=(0.5, 1.0, 0.75), method="oats"))
    other = make_entry(widths=(1.0, 0.5), method="pgd-ats")
    drawn = figures.widths([slim, other], attack="pgd-7")
    assert [axes.get_title() for axes in drawn.axes] == [
        "width 1, 4 M FLOPs",
        "width 0.75, 2.25 M FLOPs",
        "width 0.5, 1 M FLOPs",
    ]
    for axes, width, count in zip(drawn.axes, (1, 0.75, 0.5), (2, 1, 2), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert [line.get_label() for line in lines] == ["OATS", "PGD-ATS"][:count]
        for line in lines:
            assert list(line.get_xdata()) == [95, 93.5, 85]
            assert list(line.get_ydata()) == pytest.approx([0, 4.5 * width, 30 * width])
    colours = [
        [line.get_color() for line in axes.lines if len(line.get_xdata()) == 3]
        for axes in drawn.axes
    ]
    assert colours[0] == colours[2]
    assert colours[1] == colours[0][:1]
    written = text(drawn, tmp_path)
    assert {"OATS", "PGD-ATS"} <= set(written)
    for axes in figures.widths([slim]).axes:  # lambda beside the points
        assert [annotation.get_text() for annotation in axes.texts] == ["0", "0.15", "1"]


def test_accuracy_over_cost():
    drawn = figures.cost(with_costs(make_entry(widths=(1.0, 0.5))), "pgd-7")
    for axes, expected in zip(drawn.axes, ([85, 85], [15, 30]), strict=True):
        line = next(line for line in axes.lines if line.get_label() == "lambda 1")
        assert list(line.get_xdata()) == [1e6, 4e6]
        assert list(line.get_ydata()) == expected


def test_figures_of_widths_need_several_and_their_costs():
    with pytest.raises(style.NotApplicableError, match="only one width was evaluated"):
        figures.widths([make_entry()])
    with pytest.raises(style.NotApplicableError, match="only one width was evaluated"):
        figures.cost(with_costs(make_entry()))
    with pytest.raises(style.NotApplicableError, match="the entry has no costs"):
        figures.cost(make_entry(widths=(1.0, 0.5)))


def test_batch_norm_statistics_of_several_widths_are_the_widest(perturbed, build_classifier):
    classifier = build_classifier()
    classifier.network = perturbed("wrn-10-1", widths=[1, 0.5])
    _, found = batch_norm.collect(classifier)
    assert list(found) == ["BN_c (lambda = 0)", "BN_a (lambda > 0)"]
    assert all(len(mean) == 64 for mean, _ in found.values())


# --- saliency


def test_the_gradient_is_that_of_the_loss(build_classifier, digits):
    """Against the conditional network, and against finite differences in float64."""
    classifier = build_classifier()
    images, labels = digits.test.inputs(slice(0, 4)), digits.test.labels[:4]
    before = images.clone()
    gradient = jacobian.input_gradient(classifier, images, labels, 0.3)
    assert torch.equal(images, before)
    assert not images.requires_grad
    x = images.clone().requires_grad_()
    F.cross_entropy(classifier.network(x, 0.3), labels, reduction="sum").backward()
    assert torch.allclose(gradient, x.grad, atol=1e-5)

    model = classifier.at(0.3).double()
    for image, label, slope in zip(images.double(), labels, gradient, strict=True):
        direction = slope.double() / slope.double().norm()
        step = 1e-5
        ends = [model((image + s * direction)[None]) for s in (step, -step)]
        high, low = (F.cross_entropy(logits, label[None]) for logits in ends)
        assert ((high - low) / (2 * step)).item() == pytest.approx(slope.norm().item(), rel=1e-3)


def test_gradients_are_shown_around_grey():
    gradient = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gradient[2] = 0
    shown = jacobian._shown(gradient)
    assert (shown[2] == 0.5).all()
    assert 0 <= shown.min() < 0.1
    assert 0.9 < shown.max() <= 1
    assert torch.equal(shown[:2] > 0.5, gradient[:2] > 0)
    # an image's own scale: a steeper loss looks the same
    assert torch.allclose(jacobian._shown(100 * gradient), shown, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_mosaic_holds_every_picture_in_its_place(channels):
    grid = torch.rand(2, 3, channels, 24, 36)
    whole = jacobian._mosaic(grid, 3)
    assert whole.shape == (24 * 2 + 3, 36 * 3 + 2 * 3, 3)
    for row in range(2):
        for column in range(3):
            found = whole[row * 27 : row * 27 + 24, column * 39 : column * 39 + 36]
            picture = grid[row, column]
            grey = picture.mean(0)[..., None].expand(24, 36, 3)
            assert np.allclose(found, picture.permute(1, 2, 0) if channels == 3 else grey)
    assert (whole[24:27] == 1).all()


def test_the_grid_has_one_image_a_class_and_a_column_a_lambda(build_classifier, digits, tmp_path):
    written = text(figures.saliency(build_classifier(), digits, [0.0, 0.25, 1.0]), tmp_path)
    assert [word for word in written if word.startswith(("image", "lambda"))] == [
        "image",
        "lambda 0",
        "lambda 0.25",
        "lambda 1",
    ]
    classes = [word for word in written if word in digits.classes]
    assert len(classes) == len(set(classes)) == jacobian.N_IMAGES
