"""Meta-learning-based lifelong learning in functional JAX.

What a notebook needs, and no logic. Functions that build something (data sets, streams, learners,
generators) and the records they return stand here by name; functions that are used together stand
in their module: `lml_jax.losses`, `nets`, `memory`, `heads`, `metrics`, `inner`, `parallel`,
`checkpoint`, `storage`, `plots` and others.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from lml_jax import checkpoint as checkpoint
from lml_jax import cpu as cpu
from lml_jax import evaluate as evaluate
from lml_jax import heads as heads
from lml_jax import inner as inner
from lml_jax import keep as keep
from lml_jax import losses as losses
from lml_jax import memory as memory
from lml_jax import metrics as metrics
from lml_jax import nets as nets
from lml_jax import parallel as parallel
from lml_jax import storage as storage
from lml_jax import updates as updates
from lml_jax._version import __version__ as __version__
from lml_jax.data.arrays import from_arrays as from_arrays
from lml_jax.data.arrays import rotations as rotations
from lml_jax.data.arrays import select as select
from lml_jax.data.augment import Jitter as Jitter
from lml_jax.data.augment import affine as affine
from lml_jax.data.digits import digits as digits
from lml_jax.data.domains import jittered as jittered
from lml_jax.data.domains import permuted as permuted
from lml_jax.data.domains import rotated as rotated
from lml_jax.data.episodes import episodes as episodes
from lml_jax.data.files import from_csv as from_csv
from lml_jax.data.files import from_labelled as from_labelled
from lml_jax.data.files import from_mapping as from_mapping
from lml_jax.data.files import from_npy as from_npy
from lml_jax.data.files import from_npz as from_npz
from lml_jax.data.folder import from_folder as from_folder
from lml_jax.data.glyphs import glyphs as glyphs
from lml_jax.data.images import Pixels as Pixels
from lml_jax.data.mnist import mnist as mnist
from lml_jax.data.omniglot import omniglot as omniglot
from lml_jax.data.prepared import from_tfds as from_tfds
from lml_jax.data.splits import omniglot_split as omniglot_split
from lml_jax.data.stream import Stream as Stream
from lml_jax.data.streams import class_incremental as class_incremental
from lml_jax.data.streams import domain_incremental as domain_incremental
from lml_jax.data.streams import in_time as in_time
from lml_jax.data.streams import of_tasks as of_tasks
from lml_jax.data.synthetic import sinusoids as sinusoids
from lml_jax.generative.gan.gan import conditional_gan as conditional_gan
from lml_jax.generative.metagan.metagan import metagan as metagan
from lml_jax.generative.vaml.images import mlp_parts as mlp_parts
from lml_jax.generative.vaml.images import vaml as vaml
from lml_jax.generative.vaml.regression import vaml_regression as vaml_regression
from lml_jax.generative.vaml.stream import vaml_stream as vaml_stream
from lml_jax.learners.gemcl import gemcl as gemcl
from lml_jax.learners.maml import maml as maml
from lml_jax.learners.matching import matching as matching
from lml_jax.learners.oml import oml as oml
from lml_jax.learners.protonet import protonet as protonet
from lml_jax.learners.reptile import reptile as reptile
from lml_jax.learners.reptile import surrogate as surrogate
from lml_jax.lifelong.agem import agem as agem
from lml_jax.lifelong.derpp import derpp as derpp
from lml_jax.lifelong.er import er as er
from lml_jax.lifelong.er_ace import er_ace as er_ace
from lml_jax.lifelong.ewc import ewc as ewc
from lml_jax.lifelong.finetune import finetune as finetune
from lml_jax.lifelong.generative_replay import lifelong_generative as lifelong_generative
from lml_jax.lifelong.growth import capacity_for as capacity_for
from lml_jax.lifelong.growth import grow as grow
from lml_jax.lifelong.icarl import icarl as icarl
from lml_jax.lifelong.joint import joint as joint
from lml_jax.lifelong.la_maml import la_maml as la_maml
from lml_jax.lifelong.label_space import LabelSpace as LabelSpace
from lml_jax.lifelong.label_space import label_space_of as label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml as lifelong_maml
from lml_jax.lifelong.lwf import lwf as lwf
from lml_jax.lifelong.memory_replay import memory_learner as memory_learner
from lml_jax.lifelong.one_pass import one_pass as one_pass
from lml_jax.lifelong.online import run_online as run_online
from lml_jax.lifelong.program import program as program
from lml_jax.lifelong.restart import with_fresh_optimizer as with_fresh_optimizer
from lml_jax.lifelong.run import run_stream as run_stream
from lml_jax.lifelong.si import si as si
from lml_jax.lifelong.streaming import streaming as streaming
from lml_jax.lifelong.sweep import sweep as sweep
from lml_jax.lifelong.together import run_together as run_together
from lml_jax.train import DivergedError as DivergedError
from lml_jax.train import allow_skips as allow_skips
from lml_jax.train import episode_loss as episode_loss
from lml_jax.train import init_state as init_state
from lml_jax.train import make_train_step as make_train_step
from lml_jax.train import run as run
from lml_jax.types import Batch as Batch
from lml_jax.types import ConditionalNet as ConditionalNet
from lml_jax.types import Dataset as Dataset
from lml_jax.types import Learner as Learner
from lml_jax.types import LifelongLearner as LifelongLearner
from lml_jax.types import LifelongState as LifelongState
from lml_jax.types import MemoryBank as MemoryBank
from lml_jax.types import Net as Net
from lml_jax.types import StreamGenerator as StreamGenerator
from lml_jax.types import Task as Task
from lml_jax.types import TaskGenerator as TaskGenerator
from lml_jax.types import TrainState as TrainState

if TYPE_CHECKING:
    from lml_jax import plots as plots


def __getattr__(name: str) -> ModuleType:
    """`plots`, imported when it is first used: matplotlib takes longer than all the rest."""
    if name == "plots":
        return import_module("lml_jax.plots")
    raise AttributeError(f"module 'lml_jax' has no attribute {name!r}")
