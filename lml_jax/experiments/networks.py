"""Networks of lifelong runs by name: one entry each."""

from collections.abc import Callable
from typing import NamedTuple

from lml_jax import nets
from lml_jax.execution import NetKind
from lml_jax.types import Net

FEATURES = Net(init=lambda key, x: {}, apply=lambda params, x: x)  # of data already embedded


class NetworkEntry(NamedTuple):
    """A network as the commands use it.

    Attributes:
        about: one line for the documentation.
        kind: whether it has convolutions, which decides how it is executed.
        head: (classes, width) -> a network with that many logits.
        embedding: (width,) -> a network without a head.
    """

    about: str
    kind: NetKind
    head: Callable[[int, int], Net]
    embedding: Callable[[int], Net]


# GroupNorm: statistics over a test batch would tell which task it is from. Features are normalised
# before a head: without it, training on one task after another ends with dead ReLUs on RGB images.
networks: dict[str, NetworkEntry] = {
    "mlp": NetworkEntry(
        "two hidden layers",
        "dense",
        lambda classes, width: nets.mlp([width] * 2, classes),
        lambda width: nets.mlp([width] * 2, 64),
    ),
    "conv4": NetworkEntry(
        "four convolutions of 64 filters with GroupNorm",
        "conv",
        lambda classes, width: nets.conv4(classes, norm="group", norm_features=True),
        lambda width: nets.conv4(None, norm="group", pool=True),
    ),
    "convnet": NetworkEntry(
        "four convolutions of 32 and 64 filters with GroupNorm, all features kept",
        "conv",
        lambda classes, width: nets.convnet(classes, norm_features=True),
        lambda width: nets.convnet(None),
    ),
    "linear": NetworkEntry(
        "a linear layer, for features",
        "dense",
        lambda classes, width: nets.mlp([], classes),
        lambda width: FEATURES,
    ),
}
