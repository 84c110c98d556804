"""`export`."""

from pathlib import Path
from typing import Any

import click

from oat_bench.cli.context import Context
from oat_bench.cli.group import command
from oat_bench.cli.options import FILE, flag, option
from oat_bench.errors import UserError


@command("export runs/fashion-12x12-seed0 --lambda 0.2 --to onnx --out net.onnx")
@click.argument("model")
@option("--lambda", ("LAMBDA", click.FloatRange(0, 1)), "Of the network.", None, "lam")
@flag("--dynamic", "Keep lambda an input of the file: one for each image, or all.")
@option("--width", float, "Share of the channels. [default: the widest]")
@option("--to", ["onnx", "pt2", "safetensors"], "Format. [default: that of --out, or onnx]")
@option(
    "--out",
    FILE,
    "The file. [default: named by its operating point, in the run's folder or under runs/]",
)
def export(
    model: str, lam: float | None, dynamic: bool, width: float | None, to: Any, out: Path | None
) -> None:
    """Write the plain network of one operating point to a file: images in [0, 1] to logits.

    Batch norm and FiLM are folded, a narrow network is really narrow, batches are of any size. The
    file is loaded back and compared before it is kept. `oat-bench evaluate FILE` attacks it.
    """
    if dynamic == (lam is not None):
        raise UserError("expected either --lambda, such as --lambda 0.2, or --dynamic")
    import torch

    from oat_bench import deployment
    from oat_bench.evaluation.cost import latency_ms, machine

    context = Context(model, device="cpu")
    trained = context.checkpoint
    width = trained.info.widths[0] if width is None else width
    if out is None:
        point = "dynamic" if lam is None else f"lambda{lam:g}"
        narrow = "" if width == 1 else f"-width{width:g}"
        out = context.default_out() / f"{point}{narrow}.{to or 'onnx'}"
    done = deployment.export(trained, out, lam=lam, width=width, to=to)
    exported, about = done.exported, done.exported.description
    at = 0.0 if lam is None else lam
    image = torch.rand(1, *about.model.input_shape)
    inputs = f"images [n, {', '.join(map(str, image.shape[1:]))}] in [0, 1]"
    where = f"lambda {at:g}"
    took = f"{latency_ms(exported.at(at, about.width), image):.3f} ms by torch"
    if dynamic:
        inputs, where = f"{inputs} and lam [n] or [1]", "every lambda"
        took += " at one lambda"
    program = exported.deployed(at, about.width)
    if program is not None:
        runtime = {".onnx": "onnxruntime", ".pt2": "torch.export"}[done.path.suffix.lower()]
        took = f"{latency_ms(program, image):.3f} ms by {runtime}, {took}"
    click.echo(
        f"{inputs} to {about.model.num_classes} logits at {where}, width {about.width:g}\n"
        f"largest difference to the checkpoint's logits on {done.n_images} images: "
        f"{done.difference:.1e} (allowed: {done.tolerance:g} of the largest logit)\n"
        f"one image: {took} ({machine(image.device)})\n"
        f"{done.path}: {done.size / 1e3:.0f} kB"
    )
