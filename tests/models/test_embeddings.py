import numpy as np
import pytest
import tensorflow as tf
from tiny_bert import tiny_classifier

from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.dataset import Rows
from bertline.models.embeddings import FrozenEncoder
from bertline.models.pooling import POOLER, Pooling

LENGTHS = [3, 12, 2, 7, 5]


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize("pooling", [POOLER, Pooling("mean", normalised=True)], ids=str)
def test_the_vectors_are_the_encoders_in_the_order_of_the_rows(pooling, pair):
    draw = np.random.default_rng(3)
    ids, segments = (
        tf.RaggedTensor.from_row_lengths(draw.integers(most, size=sum(LENGTHS)).astype(np.int32), LENGTHS)
        for most in (10, 2)
    )
    model = tiny_classifier(pooling=pooling)
    rows = Rows(ids, segments if pair else None, np.zeros(len(LENGTHS), np.int32))
    batch = Batch(ids.to_tensor(), segments.to_tensor() if pair else None, tf.constant(LENGTHS))
    expected = Encoder.of(model).vectors(pack(model, tf.float32), batch)
    np.testing.assert_allclose(FrozenEncoder(model, tf.float32)(rows), expected, atol=1e-5)
    some = rows.take(np.array([1, 3]))
    np.testing.assert_allclose(FrozenEncoder(model, tf.float32)(some), expected.numpy()[[1, 3]], atol=1e-5)
