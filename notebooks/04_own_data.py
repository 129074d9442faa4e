# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own images
#
# A folder with one folder of images per class becomes a learner in one file. It is asked, taught
# new classes later, and saved again. On the command line:
#
#     lml-jax teach mine.kept my_images
#     lml-jax ask mine.kept new_images --reject
#     lml-jax teach mine.kept more_images
#
# Here is the same in Python, with a folder that is drawn first.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import display
from PIL import Image

import lml_jax as lml
from lml_jax import keep

folder = Path(tempfile.mkdtemp())
drawn = lml.glyphs(size=32, per_class=20)


def write(part, classes, first, last):
    """Images `first` to `last` of each class, dark on white, in a folder per class."""
    for c in classes:
        (folder / part / f"letter {c}").mkdir(parents=True)
        for i, row in enumerate(drawn.rows_of(c)[first:last]):
            Image.fromarray(255 - drawn.x[row]).save(folder / part / f"letter {c}" / f"{i}.png")


write("january", range(8), 0, 15)
write("february", range(8, 11), 0, 15)
write("new", range(11), 15, 20)
write("unknown", range(11, 20), 15, 20)

# %% [markdown]
# ## A learner
#
# It has an encoder, which is frozen, and a head, which learns. The encoder here is the simplest:
# the pixels themselves; `lml-jax teach` takes a meta-trained embedding. `Pixels` says how files
# become arrays, and is kept with the learner.

# %%
pixels = lml.Pixels(size=(16, 16), invert=True)
kept = keep.new(keep.encoder("flat", {}), "lda", pixels=pixels)
kept = keep.teach(kept, folder / "january")
path = keep.save(folder / "mine.kept", kept)
print(kept.classes, path.stat().st_size, "bytes")

# %% [markdown]
# ## Asking
#
# Some examples were held out by a hash of their pixels. They say how good the learner is, and how
# far its probabilities can be trusted.

# %%
kept = keep.ready(keep.load(path))
print(kept.calibration)
files = sorted((folder / "new" / "letter 3").iterdir())
for answer in keep.ask_files(kept, files):
    print(answer.file.name, answer.name, round(answer.probability, 2))

# %% [markdown]
# ## Next month
#
# Three more classes. The learner stores no images, and has forgotten nothing: its statistics are
# those of all examples at once. What was taught before is skipped.

# %%
kept = keep.teach(kept, folder / "february")
kept = keep.teach(kept, folder / "january")
print(kept.provenance["taught"][-1])
new = lml.from_folder(folder / "new", pixels)
answers = keep.ask(kept, new.x)
y = np.repeat(new.names, np.asarray(new.count))
right = np.array(answers.names) == y
print(f"right: {right.mean():.0%} of {len(y)} new images of {len(kept.classes)} classes")

# %% [markdown]
# ## None of these
#
# `known` is the probability that an image is of any class that the learner knows. It is learned
# from the held-out examples: without its own class, each of them is unknown.

# %%
unknown = lml.from_folder(folder / "unknown", pixels)
of_unknown = keep.ask(kept, unknown.x, reject=0.5)
print(f"known: {answers.known.mean():.2f} of known, {of_unknown.known.mean():.2f} of unknown")
print(f"rejected: {np.mean([name == keep.NONE for name in of_unknown.names]):.0%} of unknown")

# %% [markdown]
# ## Which classes are taken for which

# %%
place = {name: i for i, name in enumerate(kept.classes)}
counts = np.zeros((len(place),) * 2)
for was, said in zip(y, answers.names, strict=True):
    counts[place[was], place[said]] += 1
display(lml.plots.confusion(counts, kept.classes))
