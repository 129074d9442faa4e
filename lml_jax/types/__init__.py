"""Records and function types that the whole package shares.

A record is a NamedTuple of pure functions or a pytree of arrays; what is static lives in the
function that built the record. Each function type is a `Protocol` that says what its arguments
are. A leading axis is written first in brackets: `[n, H, W]` is a batch of n images. `init` takes
a batch of examples x [n, ...] everywhere; only its shape and dtype matter, except where a
docstring says otherwise.
"""

from lml_jax.types.data import Batch as Batch
from lml_jax.types.data import Dataset as Dataset
from lml_jax.types.data import Fast as Fast
from lml_jax.types.data import Key as Key
from lml_jax.types.data import Metrics as Metrics
from lml_jax.types.data import Params as Params
from lml_jax.types.data import PyTree as PyTree
from lml_jax.types.data import Task as Task
from lml_jax.types.data import TrainState as TrainState
from lml_jax.types.generators import Encode as Encode
from lml_jax.types.generators import Generate as Generate
from lml_jax.types.generators import Generator as Generator
from lml_jax.types.generators import GeneratorEndTask as GeneratorEndTask
from lml_jax.types.generators import GeneratorInit as GeneratorInit
from lml_jax.types.generators import GeneratorState as GeneratorState
from lml_jax.types.generators import GeneratorStep as GeneratorStep
from lml_jax.types.generators import StreamGenerator as StreamGenerator
from lml_jax.types.generators import TaskGenerator as TaskGenerator
from lml_jax.types.learners import Adapt as Adapt
from lml_jax.types.learners import Apply as Apply
from lml_jax.types.learners import ConditionalApply as ConditionalApply
from lml_jax.types.learners import ConditionalInit as ConditionalInit
from lml_jax.types.learners import ConditionalNet as ConditionalNet
from lml_jax.types.learners import Context as Context
from lml_jax.types.learners import ContextQuery as ContextQuery
from lml_jax.types.learners import ContextSupport as ContextSupport
from lml_jax.types.learners import ExampleLoss as ExampleLoss
from lml_jax.types.learners import Freeze as Freeze
from lml_jax.types.learners import Init as Init
from lml_jax.types.learners import Learner as Learner
from lml_jax.types.learners import Loss as Loss
from lml_jax.types.learners import Net as Net
from lml_jax.types.learners import Predict as Predict
from lml_jax.types.lifelong import EndTask as EndTask
from lml_jax.types.lifelong import LifelongInit as LifelongInit
from lml_jax.types.lifelong import LifelongLearner as LifelongLearner
from lml_jax.types.lifelong import LifelongState as LifelongState
from lml_jax.types.lifelong import LifelongStep as LifelongStep
from lml_jax.types.lifelong import Observe as Observe
from lml_jax.types.lifelong import PredictFrom as PredictFrom
from lml_jax.types.lifelong import Recall as Recall
from lml_jax.types.memory import BankContents as BankContents
from lml_jax.types.memory import BankInit as BankInit
from lml_jax.types.memory import BankInsert as BankInsert
from lml_jax.types.memory import BankSample as BankSample
from lml_jax.types.memory import MemoryBank as MemoryBank
