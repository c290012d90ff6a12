"""What a program without TensorFlow needs of a trained model: model.onnx, tokenizer.json and labels.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import tensorflow as tf
import tokenizers

from bertline.errors import UserError
from bertline.models.family import Classifier, Family, Tokenizer
from bertline.models.features import PROBABILITIES
from bertline.models.portable import families, graph
from bertline.models.portable.graph import Graph
from bertline.models.recipe import ModelOptions

MODEL_FILE, TOKENIZER_FILE, LABELS_FILE = "model.onnx", "tokenizer.json", "labels.json"
LOGITS = "logits"
_WHOLE = 1 << 12  # ids, more than any text of _HARD has
# Texts that tokenizers disagree about. A tokenizer that reads one otherwise than the served model is not written.
_HARD = (
    "",
    "  The CAFÉ's naïve façade, straße №² ﬁne  ",
    "这本书很好 好的世界 駅はどこですか 한국어 भाषा ภาษา",
    "flight 😀👍🏽 👨‍👩‍👧 late\t\r\n again\x00\x07\u200b\xa0\u2028end",
    "[CLS] <s> [MASK] </s> <unk> ##s ▁",
    "x" * 300 + " " + "я" * 60 + " ok",
    "great " * 1000,
)


class Answers(NamedTuple):
    """What turns logits into the answers that the served model gives.

    Attributes:
        labels: names in the order of the logits.
        temperature: what the logits are divided by; one number, or of a multi-label model one per label.
        thresholds: of a multi-label model: the probability from which a row gets each label. None for one label a row.
        abstain: the probability below which the model abstains; None for never.
        pair: whether rows have two texts.
    """

    labels: Sequence[str]
    temperature: float | Sequence[float]
    thresholds: Sequence[float] | None
    abstain: float | None
    pair: bool


def write(folder: Path, members: Sequence[Classifier], family: Family, options: ModelOptions, answers: Answers) -> None:
    """Writes the three files.

    Args:
        folder: is made.
        members: the trained classifiers whose probabilities are averaged; mostly one.
        family: of the members.
        options: names the backbone.
        answers: what is made of the logits.

    Raises:
        UserError: the family cannot be written, or Hugging Face's tokenizer does not read as the model's own.
    """
    portable = families.of(family)
    tokenizer, padding = portable.tokenizer(options)
    whole = options.model_copy(update={"max_length": _WHOLE})
    _check_reads_alike(tokenizer, family.tokenizer(whole), str(options.backbone))
    tokenizer.enable_truncation(options.max_length)
    tokenizer.enable_padding(pad_id=padding.id, pad_token=padding.token)
    facts = {
        "labels": list(answers.labels),
        "multi_label": answers.thresholds is not None,
        "thresholds": answers.thresholds and dict(zip(answers.labels, map(float, answers.thresholds), strict=True)),
        "abstain": answers.abstain,
        "temperature": answers.temperature,
        "max_length": options.max_length,
        "pair": answers.pair,
    }
    if answers.pair:  # see `shortened` in bertline.models.token_rows
        facts["second_keeps"] = (options.max_length - portable.special_of_pair) // 2
    folder.mkdir(parents=True)
    graph.write(model(portable, members, answers, facts), folder / MODEL_FILE)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / LABELS_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def model(
    portable: families.Portable, members: Sequence[Classifier], answers: Answers, facts: dict[str, Any]
) -> onnx.ModelProto:
    """The graph from ids to the members' mean, its logits divided by the temperature, and its probabilities.

    Args:
        portable: of the members' family.
        members: as those of `write`.
        answers: what is made of the logits.
        facts: what the file tells beside.
    """
    nodes, several = Graph(), answers.thresholds is not None
    found = [portable.logits(nodes, portable.inputs, member) for member in members]
    logits = _mean(nodes, found, multi_label=several)
    warm = nodes.add("Div", logits, nodes.constant(answers.temperature), name=LOGITS)
    if several:
        nodes.add("Sigmoid", warm, name=PROBABILITIES)
    else:
        nodes.add("Softmax", warm, name=PROBABILITIES, axis=-1)
    width = len(answers.labels)
    return nodes.model(portable.inputs, {PROBABILITIES: width, LOGITS: width}, facts)


def _mean(nodes: Graph, members: Sequence[str], *, multi_label: bool) -> str:
    """The logits of the mean of the members' probabilities, as bertline.models.ensemble.mean has them."""
    if len(members) == 1:
        return members[0]
    if multi_label:
        yes = [nodes.add("Neg", nodes.add("Softplus", nodes.add("Neg", each))) for each in members]
        no = [nodes.add("Neg", nodes.add("Softplus", each)) for each in members]
        return nodes.add("Sub", _log_of_sum(nodes, yes), _log_of_sum(nodes, no))
    logs = [nodes.add("LogSoftmax", each, axis=-1) for each in members]
    return nodes.add("Sub", _log_of_sum(nodes, logs), nodes.constant(math.log(len(members))))


def _log_of_sum(nodes: Graph, logs: Sequence[str]) -> str:
    """log(sum(exp(logs))), computed from the largest of them, so that very small probabilities are not lost."""
    most = nodes.add("Max", *logs)
    parts = [nodes.add("Exp", nodes.add("Sub", each, most)) for each in logs]
    return nodes.add("Add", nodes.add("Log", nodes.add("Sum", *parts)), most)


def _check_reads_alike(tokenizer: tokenizers.Tokenizer, served: Tokenizer, backbone: str) -> None:
    """Raises UserError where a hard text has other ids than in the served model."""
    expected = served(tf.constant([text.encode() for text in _HARD]))[0].to_list()
    for text, ids in zip(_HARD, expected, strict=True):
        if tokenizer.encode(text).ids != ids:
            raise UserError(
                f"export.also: onnx: Hugging Face's tokenizer with the vocabulary of {backbone} reads {text[:40]!r} "
                "otherwise than the served model, so that answers would differ. Take onnx out of export.also"
            )
