"""What a new kept learner begins with: an encoder that was meta-trained here."""

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lml_jax import keep, storage
from lml_jax.data.folder import class_files, readable
from lml_jax.data.images import Channels, Pixels
from lml_jax.experiments.datasets import datasets
from lml_jax.experiments.fewshot import settings as few_shot
from lml_jax.experiments.lifelong import pretrain
from lml_jax.experiments.lifelong import settings as lifelong
from lml_jax.experiments.lifelong.pretrain import FrozenEmbedding
from lml_jax.experiments.lifelong.settings import Plan
from lml_jax.experiments.lifelong.streams import background_of
from lml_jax.experiments.record import Record, read_metrics
from lml_jax.experiments.runner import Place
from lml_jax.keep.encoders import ANY
from lml_jax.keep.pretrained import NAME as EFFICIENTNET
from lml_jax.pixels import Span
from lml_jax.types import Params

DEFAULT_HEAD = "lda"
DEFAULT_PIXELS = Pixels(strict=True)
_LOOKED_AT = 50  # images that say whether ink is dark
HEAD_OF = {"protonet": "nearest-mean", "gemcl": "gaussian"}  # few-shot learner -> its head


class Begin(NamedTuple):
    """An encoder, how images become its examples, and the head that was trained with it.

    `bright_ink`: it was trained on characters, which are bright on a dark ground. `any_size`: it
    resizes images itself.
    """

    encoder: keep.Encoder
    pixels: Pixels
    head: str
    head_params: Params | None
    origin: Record
    bright_ink: bool
    any_size: bool = False


def default_begin(*, steps: int = 500, progress: bool = True) -> Begin:
    """The embedding that `lml-jax lifelong` meta-trains on characters of 11 scripts, and caches.

    Args:
        steps: updates of the meta-training, where it is not in the cache.
        progress: show a progress bar.
    """
    plan = lifelong.resolve(lifelong.Lifelong(start_steps=steps))
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), progress=progress)
        found = pretrain.embedding_of_start(plan, background_of(plan), place)
    made = encoder_of(plan, found)
    origin = {"meta-trained on": "glyphs", **found.about}
    return Begin(made, DEFAULT_PIXELS, DEFAULT_HEAD, None, origin, bright_ink=True)


def encoder_of(plan: Plan, found: FrozenEmbedding, *, clip: Span = ANY) -> keep.Encoder:
    """The embedding of lifelong runs as an encoder; of an unregistered network, its function."""
    s = plan.settings
    options: dict[str, dict[str, Any]] = {
        "convnet": {},
        "conv4": {"norm": "group", "pool": True},
        "mlp": {"hidden": (s.width, s.width), "features": 64},
    }
    given: dict[str, Any] = {"mean": found.mean, "scale": float(found.scale), "clip": clip}
    if s.start_net not in options:
        return keep.own_encoder(found.net.apply, found.params, **given)
    return keep.encoder(s.start_net, found.params, **given, **options[s.start_net])


def begin_with(encoder: str) -> Begin:
    """What `--encoder` names: EfficientNet-Lite0, or a few-shot run."""
    return pretrained_begin() if encoder == EFFICIENTNET else few_shot_begin(encoder)


def pretrained_begin() -> Begin:
    """EfficientNet-Lite0 for photos in colour.

    Raises:
        ModuleNotFoundError: where its weights are not installed.
    """
    made, origin = keep.efficientnet_lite0(), {"trained on": "ImageNet"}
    pixels = Pixels((128, 128), "colour", "bicubic")
    return Begin(made, pixels, DEFAULT_HEAD, None, origin, bright_ink=False, any_size=True)


def few_shot_begin(path: str | Path) -> Begin:
    """The embedding of a few-shot run.

    Args:
        path: `params.npz`, which `lml-jax fewshot` writes beside `metrics.json`; or their folder.

    Raises:
        FileNotFoundError: for no such file, or none that says how the parameters were made.
        ValueError: for a learner without an embedding, such as MAML.
    """
    path = Path(path)
    path = path / "params.npz" if path.is_dir() else path
    params = storage.load(path)
    record = read_metrics(path.parent)
    config = record.get("config")
    if config is None:
        raise FileNotFoundError(
            f"there is no metrics.json beside {path}: expected the folder of a `lml-jax fewshot` "
            "run, which says how the parameters were made"
        )
    fields = {
        name: config[name] for name in few_shot.Resolved.__dataclass_fields__ if name in config
    }
    # The data need not be there any more: only the network and the learner matter.
    plan = few_shot.resolve(few_shot.FewShot(**{**fields, "data": "glyphs", "data_dir": None}))
    if image := record.get("image_size"):
        plan = plan._replace(image=(int(image[0]), int(image[1])))
    origin = {"few-shot run": str(path), "learner": config["learner"], "data": config["data"]}
    return begin_of(plan, params, origin)


def begin_of(plan: few_shot.Plan, params: Params, origin: Record) -> Begin:
    """The embedding of the parameters that a few-shot run has trained.

    Raises:
        ValueError: for a learner without an embedding.
    """
    s = plan.settings
    if not plan.entry.embedding:
        raise ValueError(
            f"{origin['few-shot run']} holds the learner {s.learner!r}, which has no embedding; "
            "expected one of protonet, matching or gemcl"
        )
    norm = "group" if s.batch_statistics == "group" else "transductive"
    made = keep.encoder("conv4", params["net"], filters=s.filters, pool=True, norm=norm)
    head = HEAD_OF.get(s.learner, DEFAULT_HEAD)
    own = params["head"] if s.learner in HEAD_OF else None
    pixels = Pixels(plan.image_size, _channels(params["net"]), strict=True)
    # Data of the user's own were trained on as they are.
    return Begin(made, pixels, head, own, origin, bright_ink=origin["data"] in datasets)


def inverts(folder: str, begin: Begin) -> bool:
    """Whether ink is dark here, and was bright where the encoder was trained."""
    if not begin.bright_ink:
        return False
    found = class_files(folder)
    # Evenly over the classes, and without inverting anything.
    every = max(1, len(found.files) // _LOOKED_AT)
    some = type(found)(found.files[::every], found.labels[::every])
    images = [x for x, _ in islice(readable(some, begin.pixels, quiet=True), _LOOKED_AT)]
    return bool(images) and mostly_bright(images)


def mostly_bright(images: list[np.ndarray]) -> bool:
    """Whether more than half of the pixels are bright: dark ink on white paper, mostly.

    Example:
        >>> mostly_bright([np.full((2, 2), 250, np.uint8)])
        True
    """
    return bool(np.median(np.concatenate([image.reshape(-1) for image in images])) > 127)


def _channels(net: Params) -> Channels:
    """The channels that the first convolution takes."""
    kernels = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(net)
        if "conv1" in jax.tree_util.keystr(path) and np.ndim(leaf) == 4
    ]  # fmt: skip
    return "colour" if kernels and kernels[0].shape[2] == 3 else "grey"
