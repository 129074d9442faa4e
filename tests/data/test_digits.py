import sys

import pytest

from lml_jax.data.digits import digits


def test_digits_are_floats_in_the_unit_range():
    pytest.importorskip("sklearn")
    data = digits()
    assert data.x.shape == (1797, 8, 8)
    assert (float(data.x.min()), float(data.x.max())) == (0.0, 1.0)
    assert data.count.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_without_scikit_learn_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lml-jax\[digits\]'"):
        digits()
