"""Running mean and variance of batch norm, channel by channel (OAT paper, figure 2)."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from oat_bench.classifier import TunableClassifier
from oat_bench.errors import UserError, nearest
from oat_bench.figures import style
from oat_bench.figures.style import NotApplicableError
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.norms import ConditionalNorm

#: what the batch norms of a layer are called: the lambda values that go through them
_ROUTES = ("BN_c (lambda = 0)", "BN_a (lambda > 0)")


@style.styled
def bn_statistics(classifier: TunableClassifier, layer: str | None = None) -> Figure:
    """Draw each channel's running variance over its running mean, a colour for each batch norm.

    Of one conditional network, or of a family, as in the paper; ``layer`` is the last if None.
    """
    name, statistics = collect(classifier, layer)
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (label, (mean, variance)) in enumerate(statistics.items()):
        look = style.look(place) | {"s": 12, "alpha": 0.6, "linewidths": 0, "label": label}
        axes.scatter(mean.numpy(), variance.numpy(), **look)
    axes.set(
        xlabel=f"running mean of {len(mean)} channels", ylabel="running variance", yscale="log"
    )
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter())
    info = classifier.info
    axes.set_title(f"{info.dataset}, {info.architecture}, {info.method.upper()}: {name}")
    return style.legend(figure)


def collect(
    classifier: TunableClassifier, layer: str | None = None
) -> tuple[str, dict[str, tuple[Tensor, Tensor]]]:
    """Return the layer's name, and running mean and variance [C] of each of its batch norms."""
    # a family has networks by lambda, a conditional method one
    networks = getattr(classifier, "networks", {None: getattr(classifier, "network", None)})
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for lam, network in dict(networks).items():
        if not isinstance(network, ConditionalNetwork):
            continue
        modules = network.backbone.named_modules()
        layers = {name: m for name, m in modules if isinstance(m, ConditionalNorm)}
        layer = list(layers)[-1] if layer is None else layer
        if layer not in layers:
            raise UserError(f"there is no norm layer {layer!r}; {nearest(layer, layers)}")
        # of several widths, the widest
        pair = zip(_ROUTES, layers[layer].batch_norms(network.widths[0]), strict=True)
        norms = {route: norm for route, norm in pair if norm is not None}
        for route, norm in norms.items():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            single = route if len(norms) > 1 else "BN (every lambda)"
            label = single if lam is None else f"lambda {lam:g}"
            found[label] = (norm.running_mean.cpu(), norm.running_var.cpu())
    if layer is None or not found:
        raise NotApplicableError(
            f"batch norm statistics need the networks of oat-bench; {classifier.info.method} has "
            "none that could be read"
        )
    return layer, found
