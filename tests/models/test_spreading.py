import numpy as np
import pytest

from bertline.models.spreading import KNOWN, spread


def test_labels_spread_along_rows_that_are_alike():
    """Two arcs, a label at the end of each. The far end of the first is nearer to the label of the second."""
    angles = np.concatenate([np.linspace(0, 80, 60), np.linspace(110, 190, 60)]) * np.pi / 180
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    start = np.zeros((120, 2))
    start[0, 0] = start[60, 1] = KNOWN
    shares = spread(vectors, np.where(start.any(1, keepdims=True), start, 0.01))
    assert shares.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(shares.argmax(axis=1), [0] * 60 + [1] * 60)


def test_what_rows_begin_with_counts_and_few_rows_are_enough():
    vectors = np.eye(3, dtype=np.float32)  # nothing is like anything
    start = np.array([[KNOWN, 0], [0.2, 0.8], [0.6, 0.4]])
    assert np.array_equal(spread(vectors, start).argmax(axis=1), [0, 1, 0])


def test_the_blocks_of_rows_change_nothing(monkeypatch):
    generator = np.random.default_rng(1)
    vectors, start = generator.normal(size=(50, 8)).astype(np.float32), generator.random((50, 3))
    whole = spread(vectors, start)
    monkeypatch.setattr("bertline.models.spreading._BLOCK", 7)
    assert spread(vectors, start) == pytest.approx(whole, abs=1e-6)
