"""The field's baselines by name: one entry each.

All that store examples have room for as many as lifelong MAML: `capacity` for each task.
"""

from operator import itemgetter

from lml_jax import heads, memory
from lml_jax.experiments.lifelong.entries import Context, LifelongEntry, examples_per_step
from lml_jax.learners.oml import oml
from lml_jax.lifelong.agem import agem
from lml_jax.lifelong.derpp import derpp
from lml_jax.lifelong.er import er
from lml_jax.lifelong.er_ace import er_ace
from lml_jax.lifelong.ewc import ewc
from lml_jax.lifelong.icarl import icarl
from lml_jax.lifelong.la_maml import la_maml
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.lwf import lwf
from lml_jax.lifelong.si import si
from lml_jax.lifelong.streaming import streaming
from lml_jax.types import Key, LifelongLearner, LifelongState, MemoryBank, Params, PyTree


def _room(c: Context) -> int:
    """How many examples a learner may store."""
    return c.plan.settings.capacity * c.stream.tasks


def _reservoir(c: Context) -> MemoryBank:
    return memory.reservoir(_room(c))


def _icarl(c: Context) -> LifelongLearner:
    classes = c.stream.classes
    per_class = max(1, _room(c) // classes)
    return icarl(
        c.plan.net.embedding(c.plan.settings.width),
        c.tx,
        c.space,
        bank=memory.herding(per_class, classes=classes, feature_of=itemgetter(2)),
        past_batch=c.plan.past_batch,
    )


def _la_maml(c: Context, *, alpha_rate: float | None) -> LifelongLearner:
    """`inner_rate` is the first alpha; theta has the step size alpha too where alpha is learned."""
    given = c.plan.settings.outer_rate
    return la_maml(
        c.plan.net.head(c.stream.classes, c.plan.settings.width),
        c.space,
        bank=_reservoir(c),
        past_batch=c.plan.past_batch,
        alpha=c.plan.inner_rate,
        alpha_rate=alpha_rate,
        rate=given if alpha_rate is not None else c.plan.outer_rate,
        **c.plan.options,  # type: ignore[arg-type]
    )


def _exact(c: Context, name: str) -> LifelongLearner:
    """A closed-form head on the embedding, from the embedding's parameters alone."""
    net, head = heads.HEADS[name](c.plan.net.embedding(c.plan.settings.width))
    base = streaming(heads.head_learner(net, head, classes=c.stream.classes), c.space)

    def init(key: Key, x: PyTree, params: Params | None = None) -> LifelongState:
        # The head that was meta-trained with the embedding may have been another one.
        given = None if params is None else {"net": params["net"], "head": head.params()}
        return base.init(key, x, given)

    return base._replace(init=init)


def _oml(c: Context) -> LifelongLearner:
    """OML along the stream: its loss on past tasks is that of lifelong MAML, without decay."""
    net = c.plan.net.embedding(c.plan.settings.width)
    few_shot = oml(net, classes=c.stream.classes, rate=c.plan.inner_rate)
    base = lifelong_maml(
        few_shot,
        c.tx,
        c.space,
        bank=_reservoir(c),
        decay=1.0,
        past_batch=c.plan.past_batch,
        recall_examples=_room(c),
        recall_on="bank",
    )

    def init(key: Key, x: PyTree, params: Params | None = None) -> LifelongState:
        # An embedding that was meta-trained comes without this head.
        given = None if params is None else few_shot.init(key, x) | {"net": params["net"]}
        return base.init(key, x, given)

    return base._replace(init=init)


_REPLAY = {"past_batch": examples_per_step}  # as many stored examples as new ones
_ONCE = {"steps": 1}  # of learners that learn at the end of a task
_LOOK = {"glances": 1, "first_order": True}

baselines: dict[str, LifelongEntry] = {
    "er": LifelongEntry(
        lambda c: er(c.classifier, c.tx, c.space, bank=_reservoir(c), past_batch=c.plan.past_batch),
        "experience replay",
        defaults=_REPLAY,
    ),
    "er-ace": LifelongEntry(
        lambda c: er_ace(
            c.classifier, c.tx, c.space, bank=_reservoir(c), past_batch=c.plan.past_batch
        ),
        "experience replay with an asymmetric cross-entropy",
        defaults=_REPLAY,
    ),
    "derpp": LifelongEntry(
        lambda c: derpp(
            c.classifier,
            c.tx,
            c.space,
            bank=_reservoir(c),
            past_batch=c.plan.past_batch,
            **c.plan.options,  # type: ignore[arg-type]
        ),
        "DER++, replay of stored logits and labels",
        defaults=_REPLAY,
        options={"logits_weight": 1.0, "labels_weight": 0.5},
    ),
    "agem": LifelongEntry(
        lambda c: agem(
            c.classifier, c.tx, c.space, bank=_reservoir(c), past_batch=c.plan.past_batch
        ),
        "A-GEM, gradients projected by those of stored examples",
        defaults=_REPLAY,
    ),
    "ewc": LifelongEntry(
        lambda c: ewc(c.classifier, c.tx, c.space, **c.plan.options),  # type: ignore[arg-type]
        "online elastic weight consolidation",
        options={"strength": 180.0, "decay": 1.0},
    ),
    "si": LifelongEntry(
        lambda c: si(c.classifier, c.tx, c.space, **c.plan.options),  # type: ignore[arg-type]
        "synaptic intelligence",
        options={"strength": 0.1, "damping": 0.1},
    ),
    "lwf": LifelongEntry(
        lambda c: lwf(c.classifier, c.tx, c.space, **c.plan.options),  # type: ignore[arg-type]
        "learning without forgetting",
        options={"strength": 1.0, "temperature": 2.0},
    ),
    "icarl": LifelongEntry(
        _icarl, "iCaRL, the nearest mean of exemplars", start="embedding", defaults=_REPLAY
    ),
    "ncm": LifelongEntry(
        lambda c: _exact(c, "nearest-mean"),
        "the nearest class mean in a fixed embedding",
        start="embedding",
        defaults=_ONCE,
        own_rule=True,
    ),
    "ridge": LifelongEntry(
        lambda c: _exact(c, "ridge"),
        "ridge regression in a fixed embedding",
        start="embedding",
        defaults=_ONCE,
        own_rule=True,
    ),
    "la-maml": LifelongEntry(
        lambda c: _la_maml(c, alpha_rate=0.3),
        "La-MAML, online meta-learning with learned step sizes",
        defaults={"inner_rate": 0.15, "outer_rate": 0.15},
        options=_LOOK,
        own_rule=True,
    ),
    "c-maml": LifelongEntry(
        lambda c: _la_maml(c, alpha_rate=None),
        "C-MAML, La-MAML without learned step sizes",
        defaults={"inner_rate": 0.1, "outer_rate": 0.1},
        options=_LOOK,
        own_rule=True,
    ),
    "oml": LifelongEntry(
        _oml,
        "OML, a representation for a head that learns online",
        start="embedding",
        defaults=_REPLAY,
    ),
}
