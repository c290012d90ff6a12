"""The families that can be written for programs without TensorFlow.

They are apart from bertline.models.families, so that training does not depend on the code here: a change of it starts
no new training.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import tensorflow as tf
import tokenizers

from bertline.errors import UserError
from bertline.models import families
from bertline.models.bert import backbone
from bertline.models.family import Classifier, Family
from bertline.models.portable import bert, sentencepiece, wordpiece
from bertline.models.portable.graph import Graph, Inputs
from bertline.models.recipe import ModelOptions
from bertline.models.xlm_roberta.backbone import vocabulary
from bertline.models.xlm_roberta.vocabulary import input_prefix


class Padding(NamedTuple):
    """The token that fills rows up."""

    token: str
    id: int


class Portable(Protocol):
    """What a family has beside the methods of Family, if it can be written.

    Attributes:
        inputs: of its graphs.
        special_of_pair: how many tokens stand around and between the texts of a pair.
    """

    inputs: Inputs
    special_of_pair: int

    def tokenizer(self, options: ModelOptions) -> tuple[tokenizers.Tokenizer, Padding]:
        """The tokenizer of the options' backbone, which neither shortens nor pads, and what rows are padded with.

        Its ids are those of `Family.tokenizer`.

        Raises:
            UserError: the backbone's tokenizer is one that the library does not have.
        """

    def logits(self, graph: Graph, inputs: Inputs, classifier: Classifier) -> str:
        """Adds a classifier's network to the graph, and names its logits, float32 [batch, labels]."""


class _Network:
    """BERT's network, whatever its vocabulary."""

    def logits(self, graph: Graph, inputs: Inputs, classifier: Any) -> str:
        """BERT's nodes."""
        return bert.logits(graph, inputs, classifier.encoder(), classifier.packed(tf.float32))


class Bert(_Network):
    """BERT with a WordPiece vocabulary; the methods are those of Portable."""

    inputs, special_of_pair = Inputs(), 3

    def tokenizer(self, options: ModelOptions) -> tuple[tokenizers.Tokenizer, Padding]:
        """WordPiece."""
        words = backbone.vocabulary(options)
        made = wordpiece.tokenizer(words.path, lowercase=words.lowercase)
        return made, Padding(*wordpiece.padding(words.path))


class XlmRoberta(_Network):
    """XLM-RoBERTa and its kin, whose texts are all of the first segment; the methods are those of Portable."""

    inputs, special_of_pair = Inputs(segments=None), 4

    def tokenizer(self, options: ModelOptions) -> tuple[tokenizers.Tokenizer, Padding]:
        """SentencePiece, with the folder's input prefix."""
        words = vocabulary(options)
        made = sentencepiece.tokenizer(words, prefix=input_prefix(words.path.parent))
        return made, Padding(*sentencepiece.PADDING)


_PORTABLE: dict[str, Portable] = {"bert": Bert(), "xlm_roberta": XlmRoberta()}


def of(family: Family) -> Portable:
    """How a family is written.

    Raises:
        UserError: it cannot be.
    """
    if family.name not in _PORTABLE:
        raise UserError(
            f"export.also: onnx: a model of the family {family.name} cannot be written as ONNX; those of "
            f"{' and '.join(_PORTABLE)} can. Take onnx out of export.also"
        )
    return _PORTABLE[family.name]


def check(options: ModelOptions) -> None:
    """Raises UserError where a model of the options' backbone cannot be written, before it is trained."""
    of(families.of(options))
