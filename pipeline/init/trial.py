"""How long a network takes on this machine: one of the proposed sizes with random weights, as a server would run it.

TensorFlow is imported here, so `bertline init` imports this module only where it is asked for a time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from bertline.models import families
from bertline.models.bert.tokenizer import SPECIAL
from bertline.models.family import Batch, Frozen
from bertline.models.recipe import BilstmOptions, ModelOptions, RandomBert, StaticOptions
from bertline.models.static import classifier as static
from bertline.serving.protos import ConfigProto
from bertline.serving.servable import Call, Servable

WARM_UP, TIMED = 5, 40  # calls of each network; of milliseconds each they take half a second


def of_berts(networks: list[dict[str, int]], dtype: str, tokens: int) -> list[float]:
    """Median milliseconds that one text takes in each network.

    Args:
        networks: layers, hidden, heads and intermediate of each.
        dtype: of `export.dtype`.
        tokens: of the text.
    """
    with tempfile.TemporaryDirectory(prefix="bertline-trial-") as folder:
        words = Path(folder) / "vocab.txt"
        words.write_text("".join(f"{word}\n" for word in SPECIAL))  # how many words there are takes no time
        options = [
            ModelOptions(backbone=RandomBert(**sizes, vocabulary=str(words)), max_length=tokens) for sizes in networks
        ]
        models = [families.BERT.build(each, 2, seed=1) for each in options]
    return _p50_ms([model.frozen(tf.as_dtype(dtype)) for model in models], tokens)


def of_static(tokens: int) -> float:
    """The same of a model of the family static, whose vocabulary takes no time either."""
    model = static.Classifier(len(SPECIAL), 2, StaticOptions(), dropout=0.0)
    return _p50_ms([model.frozen(tf.float32)], tokens)[0]


def of_bilstm(texts: list[str], tokens: int) -> tuple[float, int]:
    """The same of a bilstm with the vocabulary of the texts, and how many words that has."""
    options = ModelOptions(family="bilstm", bilstm=BilstmOptions(), max_length=tokens)
    with tempfile.TemporaryDirectory(prefix="bertline-trial-") as folder:
        families.BILSTM.learn(options, [tf.constant(texts)], folder)
        words = len(families.BILSTM.vocabulary(options, folder).read_text(encoding="utf-8").splitlines())
        model = families.BILSTM.build(options, 2, seed=1, learned=folder)
    return _p50_ms([model.frozen(tf.float32)], tokens)[0], words


class _Network(tf.Module):
    """A network from the ids of one text to its logits, as a module to export."""

    def __init__(self, frozen: Frozen):
        super().__init__()
        self._frozen = frozen

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")])
    def logits(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(ids)
        return {"logits": self._frozen.logits(Batch(ids, None, tf.repeat(shape[1], shape[0])))}


def _p50_ms(networks: list[Frozen], tokens: int) -> list[float]:
    """Median milliseconds of a call with one text, on one thread, as `bertline serve` runs it.

    The networks are called in turns, so that a machine whose speed drifts is as slow for each.
    """
    servables = [_loaded(frozen) for frozen in networks]
    ids = np.ones([1, tokens], np.int32)  # which ids they are takes no time
    turns = [[_seconds(servable, ids) for servable in servables] for _ in range(WARM_UP + TIMED)]
    for servable in servables:
        servable.close()
    return (np.median(turns[WARM_UP:], axis=0) * 1e3).tolist()


def _loaded(frozen: Frozen) -> Servable:
    module = _Network(frozen)
    with tempfile.TemporaryDirectory(prefix="bertline-trial-") as folder:
        tf.saved_model.save(module, folder, signatures=module.logits)
        return Servable(folder, "trial", 1, session_config=ConfigProto(intra_op_parallelism_threads=1))


def _seconds(servable: Servable, ids: np.ndarray) -> float:
    """What a call takes: the better of two, as another program may have taken the processor in one of them."""
    signature = servable.signatures["serving_default"]
    call = Call({signature.inputs["ids"].name: ids}, (signature.outputs["logits"].name,))

    def once() -> float:
        began = time.perf_counter()
        servable.run(call)
        return time.perf_counter() - began

    return min(once(), once())
