"""Learners that are kept: taught from a folder, asked, saved to one file, taught more later."""

from lml_jax.keep.asking import NONE as NONE
from lml_jax.keep.asking import Answers as Answers
from lml_jax.keep.asking import FileAnswer as FileAnswer
from lml_jax.keep.asking import ask as ask
from lml_jax.keep.asking import ask_files as ask_files
from lml_jax.keep.asking import ready as ready
from lml_jax.keep.calibration import Calibration as Calibration
from lml_jax.keep.encoders import Encoder as Encoder
from lml_jax.keep.encoders import encoder as encoder
from lml_jax.keep.encoders import own_encoder as own_encoder
from lml_jax.keep.encoding import features as features
from lml_jax.keep.export import exported as exported
from lml_jax.keep.file import load as load
from lml_jax.keep.file import save as save
from lml_jax.keep.kept import Kept as Kept
from lml_jax.keep.kept import new as new
from lml_jax.keep.pretrained import efficientnet_lite0 as efficientnet_lite0
from lml_jax.keep.rules import Rule as Rule
from lml_jax.keep.rules import head_rule as head_rule
from lml_jax.keep.teaching import forget as forget
from lml_jax.keep.teaching import teach as teach
