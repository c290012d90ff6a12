"""A BERT of two thin layers with weights far from zero, a batch for it, and two references for its logits."""

import numpy as np
import tensorflow as tf

from bertline.models.bert import classifier, network
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.bert.inference import FrozenClassifier
from bertline.models.pooling import POOLER, Pooling

TOKENS = tf.constant([[5, 6, 7, 8, 9, 1], [5, 9, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0]])
SEGMENTS = tf.constant([[0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
LENGTHS = tf.constant([6, 2, 4])


def tiny_classifier(approximate: bool = False, dropout: float = 0.0, pooling: Pooling = POOLER, embedding: int = 8):
    below = network.build(
        vocabulary_size=10,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        embedding_dim=embedding,  # of the tables
        intermediate_dim=16,
        max_sequence_length=12,
        dropout=dropout,
    )
    network.set_gelu(below, approximate=approximate)
    model = classifier.build(below, 3, dropout=dropout, seed=1, pooling=pooling)
    draw = np.random.default_rng(7)
    for variable in model.trainable_variables:  # far from zero, or mistakes hide in small numbers
        variable.assign(draw.normal(1.0 if variable.name == "gamma" else 0.0, 0.5, variable.shape))
    return model


def keras_logits(model):
    mask = tf.sequence_mask(LENGTHS, TOKENS.shape[1])
    return model({"token_ids": TOKENS, "segment_ids": SEGMENTS, "padding_mask": mask}, training=False)


def frozen(model, dtype=tf.float32, classifier=None):
    """The logits as a graph of any batch and length: eagerly, the remapper would not fuse anything."""
    classifier = classifier or FrozenClassifier(Encoder.of(model), pack(model, dtype), dtype)

    def ids(shape):
        return tf.TensorSpec(shape, tf.int32)

    @tf.function(input_signature=[ids([None, None]), ids([None, None]), ids([None])])
    def logits(tokens, segments, lengths):
        return classifier.logits(Batch(tokens, segments, lengths))

    return logits
