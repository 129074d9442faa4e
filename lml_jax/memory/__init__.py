"""Memory banks of fixed capacity, as immutable pytrees."""

from lml_jax.memory.banks import class_balanced as class_balanced
from lml_jax.memory.banks import fifo as fifo
from lml_jax.memory.banks import reservoir as reservoir
from lml_jax.memory.banks import task_indexed as task_indexed
from lml_jax.memory.herding import herding as herding
from lml_jax.memory.ordered import sample_then_insert as sample_then_insert
from lml_jax.memory.sampling import draw_each as draw_each
from lml_jax.memory.sampling import sample as sample
from lml_jax.memory.sharded import sharded as sharded
from lml_jax.memory.slots import Bank as Bank
from lml_jax.memory.slots import contents as contents
