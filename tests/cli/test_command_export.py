"""`oat-bench export`, and `oat-bench evaluate` of what it wrote."""

import re
import shutil

import pytest
from commands import run_here

from oat_bench.errors import UserError


@pytest.fixture(scope="module")
def folder(trained_folder, tmp_path_factory):
    """A run with a file beside its checkpoint."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    shutil.copytree(trained_folder, folder)
    said = run_here("export", folder, "--lambda", "0.5", cwd=folder)
    path = folder / "lambda0.5.onnx"
    assert path.is_file()
    assert re.match(
        r"images \[n, 1, 8, 8\] in \[0, 1\] to 10 logits at lambda 0\.5, width 1\n"
        r"largest difference to the checkpoint's logits on 32 images: \d\.\de-0\d .*\n"
        r"one image: \d+\.\d+ ms by onnxruntime, \d+\.\d+ ms by torch \(.*\)\n"
        rf"{path}: \d+ kB\n$",
        said,
    )
    return folder


def test_an_exported_file_is_evaluated(folder, tmp_path):
    arguments = ("--attacks", "fgsm", "--n-examples", "40", "--out")
    file = folder / "lambda0.5.onnx"
    said = run_here("evaluate", file, *arguments, tmp_path / "file", cwd=tmp_path)
    model = ("--model", folder, "--lambda", "0.5")
    where = tmp_path / "checkpoint"
    expected = run_here("evaluate", *model, *arguments, where, cwd=tmp_path)

    def row(text):
        (line,) = re.findall(r"^\| +0\.5 .*$", text, re.MULTILINE)
        return line.split()

    assert row(said) == row(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{}", "--lambda", "0,0.5"], "lambda 0 asked for; .* at lambda 0.5 alone"),
        (["evaluate", "{}", "--widths", "0.5"], "width 0.5 asked for; the network has 1"),
        (["evaluate", "{}", "--interpolation", "film"], "the rule between lambda is in the file"),
        (["evaluate"], "expected one model: oat-bench evaluate MODEL"),
        (["evaluate", "{}", "--model", "{}"], "expected one model"),
        (
            ["export", "{}", "--lambda", "0.5"],
            "is an exported file; expected a checkpoint",
        ),
        (["calibrate", "{}", "--min-sa", "0.5"], "is an exported file; expected a checkpoint"),
        (["figure", "bn-statistics", "{}"], "is an exported file; expected a checkpoint"),
        (["export", "{run}"], "expected either --lambda"),
        (["export", "{run}", "--lambda", "1", "--dynamic"], "expected either --lambda"),
        (["export", "{run}", "--dynamic", "--to", "safetensors"], "no graph that lambda"),
        (["export", "{run}", "--lambda", "1", "--width", "0.5"], "width 0.5 asked for"),
    ],
)
def test_what_does_not_go_together_ends_in_one_line(folder, arguments, message):
    names = {"run": folder}
    written = [part.format(folder / "lambda0.5.onnx", **names) for part in arguments]
    with pytest.raises(UserError, match=message):
        run_here(*written, cwd=folder)
