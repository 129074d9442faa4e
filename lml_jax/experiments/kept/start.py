"""What a new kept learner begins with: an encoder that was meta-trained here."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lml_jax import keep, storage
from lml_jax.data.images import Channels, Pixels
from lml_jax.experiments.fewshot.settings import FewShot, Resolved, resolve
from lml_jax.experiments.lifelong import pretrain
from lml_jax.experiments.lifelong import settings as lifelong
from lml_jax.experiments.lifelong.streams import background_of
from lml_jax.experiments.record import Record, read_metrics
from lml_jax.experiments.runner import Place
from lml_jax.types import Params

DEFAULT_HEAD = "lda"
HEAD_OF = {"protonet": "nearest-mean", "gemcl": "gaussian"}  # few-shot learner -> its head


class Begin(NamedTuple):
    """An encoder, how images become its examples, and the head that was trained with it."""

    encoder: keep.Encoder
    pixels: Pixels
    head: str
    head_params: Params | None
    origin: Record


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
    made = keep.encoder(
        plan.settings.start_net, found.params, mean=found.mean, scale=float(found.scale)
    )
    origin = {"meta-trained on": "glyphs", **found.about}
    return Begin(made, Pixels(strict=True), DEFAULT_HEAD, None, origin)


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
    config = read_metrics(path.parent).get("config")
    if config is None:
        raise FileNotFoundError(
            f"there is no metrics.json beside {path}: expected the folder of a `lml-jax fewshot` "
            "run, which says how the parameters were made"
        )
    fields = {name: config[name] for name in Resolved.__dataclass_fields__ if name in config}
    # The data need not be there any more: only the network and the learner matter.
    plan = resolve(FewShot(**{**fields, "data": "glyphs", "data_dir": None}))
    s = plan.settings
    if not plan.entry.embedding:
        raise ValueError(
            f"{path} holds the learner {s.learner!r}, which has no embedding; expected one of "
            "protonet, matching or gemcl"
        )
    norm = "group" if s.batch_statistics == "group" else "transductive"
    made = keep.encoder("conv4", params["net"], filters=s.filters, pool=True, norm=norm)
    head = HEAD_OF.get(s.learner, DEFAULT_HEAD)
    own = params["head"] if s.learner in HEAD_OF else None
    origin = {"few-shot run": str(path), "learner": s.learner, "data": config["data"]}
    pixels = Pixels((s.size, s.size), _channels(params["net"]), strict=True)
    return Begin(made, pixels, head, own, origin)


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
