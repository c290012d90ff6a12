"""The SavedModel: raw text in, label or labels and probabilities out, with no code of ours inside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from bertline.models.ensemble import FrozenEnsemble
from bertline.models.family import Batch, Classifier
from bertline.models.features import (
    ABSTAINED,
    ASSIGNED,
    CLASSES,
    EMBEDDING,
    LABEL,
    LABEL_ID,
    PIECES,
    PREDICTED_LABEL,
    PROBABILITIES,
    SEGMENT_IDS,
    TEXT,
    TEXT_PAIR,
    TOKEN_IDS,
    UNKNOWN,
)
from bertline.models.transform_graph import TransformGraph


class ServedModel(tf.Module):
    """What is exported: Transform's graph, the frozen classifier and the label names.

    Args:
        members: the trained classifiers whose probabilities are averaged; mostly one.
        transform_output: folder of Transform's output.
        vocabulary: the file of the tokens. It becomes an asset, for people and tools to read.
        unknown: the id of the token that stands for what the vocabulary lacks.
        labels: names in the order of the logits.
        dtype: of the stored kernels and of the matrix products.
        pair: whether rows have two texts.
        temperature: what the logits are divided by before they become probabilities; for a multi-label model one
            number per label.
        thresholds: for a multi-label model, the probability from which a row gets each label.
        abstain: predictions whose largest probability is below it are marked. With None there is no such output.
        tokens: in place of Transform's graph, where the model has another vocabulary.
    """

    def __init__(
        self,
        members: Sequence[Classifier],
        transform_output: Path,
        vocabulary: Path,
        unknown: int,
        labels: Sequence[str],
        *,
        dtype: tf.DType,
        pair: bool,
        temperature: float | Sequence[float] = 1.0,
        thresholds: Sequence[float] | None = None,
        abstain: float | None = None,
        tokens: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ):
        super().__init__()
        output = tft.TFTransformOutput(str(transform_output))
        self._features = [TEXT, TEXT_PAIR] if pair else [TEXT]
        self._raw_spec = output.raw_feature_spec()
        self.transform = tokens or TransformGraph(output)
        frozen = [member.frozen(dtype) for member in members]
        several = members[0].multi_label
        self.classifier = FrozenEnsemble(frozen, multi_label=several) if len(frozen) > 1 else frozen[0]
        self.labels = tf.constant(list(labels))
        self._temperature, self._abstain = tf.constant(temperature, tf.float32), abstain
        self._thresholds = tf.constant(thresholds, tf.float32) if several else None
        self.vocabulary = tf.saved_model.Asset(str(vocabulary))
        self._unknown = unknown

    def signatures(self) -> dict[str, tf.types.experimental.GenericFunction]:
        """The functions that `tf.saved_model.save` names."""
        examples = tf.TensorSpec([None], tf.string, name="examples")
        texts = [tf.TensorSpec([None], tf.string, name=name) for name in self._features]
        # Nothing here branches on a tensor. Autograph would rewrite it all, Transform's graph too, and take 20 s.
        traced = functools.partial(tf.function, autograph=False)
        return {
            "serving_default": traced(self.predict_examples, input_signature=[examples]),
            "text": traced(self.predict_texts, input_signature=texts),
            "monitored": traced(self.monitor_texts, input_signature=texts),
            "transform_features": traced(self.transform_examples, input_signature=[examples]),
        }

    def predict_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts serialized tf.Examples, string [batch]; outputs as `predict_texts`."""
        return self._predict(self._parsed(examples, self._features))

    def predict_texts(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Predicts texts, string [batch].

        Returns:
            label string [batch], probabilities float32 [batch, labels], classes string [batch, labels]; with a
            threshold, abstained bool [batch]. Of a multi-label model, in place of label, assigned bool [batch, labels].
        """
        return self._predict(self._raw(text, text_pair))

    def monitor_texts(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Predicts texts, string [batch], and says what tells their kind: for whoever watches the served model.

        Returns:
            As `predict_texts`, with the same values, and beside them embedding float16 [batch, hidden], pieces int32
            [batch] and unknown int32 [batch]. Computing them costs nothing that the answer does not cost.
        """
        features = self.transform(self._raw(text, text_pair))
        batch = _batch(features)
        vectors, logits = self.classifier.vectors_and_logits(batch)
        ids = features[TOKEN_IDS]
        unknown = tf.cast(tf.equal(ids.values, self._unknown), tf.int32)
        beside = {
            EMBEDDING: tf.cast(vectors, tf.float16),
            PIECES: batch.lengths,
            UNKNOWN: tf.math.unsorted_segment_sum(unknown, ids.indices[:, 0], tf.size(batch.lengths)),
        }
        return self._answer(logits) | beside

    def _raw(self, text: tf.Tensor, text_pair: tf.Tensor | None) -> dict[str, tf.Tensor | tf.SparseTensor]:
        named = zip(self._features, (text, text_pair), strict=False)
        return {name: self._as_raw(name, value) for name, value in named}

    def _predict(self, raw: dict[str, tf.Tensor | tf.SparseTensor]) -> dict[str, tf.Tensor]:
        return self._answer(self.classifier.logits(_batch(self.transform(raw))))

    def _answer(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = {CLASSES: tf.tile(self.labels[None], [tf.shape(logits)[0], 1])}
        return answer | (self._one_label(logits) if self._thresholds is None else self._label_sets(logits))

    def _one_label(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(logits / self._temperature)
        # From the logits before the division, so that its rounding cannot change an answer.
        label = tf.gather(self.labels, tf.argmax(logits, axis=-1))
        answer = {PREDICTED_LABEL: label, PROBABILITIES: probabilities}
        if self._abstain is not None:
            answer[ABSTAINED] = tf.reduce_max(probabilities, axis=-1) < self._abstain
        return answer

    def _label_sets(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.sigmoid(logits / self._temperature)
        return {ASSIGNED: probabilities >= self._thresholds, PROBABILITIES: probabilities}

    def transform_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialized tf.Examples, string [batch], to int64 token_ids (0 in the padding) and label_id.

        label_id is int64 [batch], -1 without a label; of a multi-label model [batch, labels], 1 or 0.
        """
        features = self.transform(self._parsed(examples, [*self._features, LABEL]))
        return {TOKEN_IDS: tf.sparse.to_dense(features[TOKEN_IDS]), LABEL_ID: features[LABEL_ID]}

    def _parsed(self, examples: tf.Tensor, names: list[str]) -> dict[str, tf.Tensor | tf.SparseTensor]:
        """The raw features; a feature that an Example lacks is an empty text."""
        spec = {name: tf.io.FixedLenFeature([], tf.string, default_value="") for name in names}
        if self._thresholds is not None and LABEL in names:
            spec[LABEL] = tf.io.VarLenFeature(tf.string)
        return {name: self._as_raw(name, value) for name, value in tf.io.parse_example(examples, spec).items()}

    def _as_raw(self, name: str, value: tf.Tensor | tf.SparseTensor) -> tf.Tensor | tf.SparseTensor:
        """The texts or labels in the form that Transform's schema gives the feature."""
        if isinstance(value, tf.SparseTensor):
            if not isinstance(self._raw_spec[name], tf.io.FixedLenFeature):
                return value
            value = tf.sparse.to_dense(value, default_value="")
        if isinstance(self._raw_spec[name], tf.io.FixedLenFeature):
            return tf.reshape(value, [-1, *self._raw_spec[name].shape])
        rows = tf.shape(value, out_type=tf.int64)[0]
        indices = tf.stack([tf.range(rows), tf.zeros([rows], tf.int64)], axis=1)
        return tf.SparseTensor(indices, value, tf.stack([rows, 1]))


def _batch(features: dict[str, tf.SparseTensor]) -> Batch:
    """The transformed features as the classifier takes them."""
    token_ids = tf.sparse.to_dense(features[TOKEN_IDS])
    segment_ids = tf.sparse.to_dense(features[SEGMENT_IDS]) if SEGMENT_IDS in features else None
    lengths = tf.RaggedTensor.from_sparse(features[TOKEN_IDS]).row_lengths()
    return Batch(token_ids, segment_ids, tf.cast(lengths, tf.int32))


def export(module: ServedModel, folder: Path) -> None:
    """Writes the SavedModel with its four signatures into the folder."""
    tf.saved_model.save(module, str(folder), signatures=module.signatures())
