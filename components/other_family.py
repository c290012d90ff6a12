"""A student of another family than its teacher's: a network, a vocabulary and rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import learned_vocabulary
from bertline.components.examples import check_order, read_examples
from bertline.components.labelling.pool import Candidate
from bertline.components.options import CompressOptions
from bertline.components.trainer import Task
from bertline.components.transformed_labels import names_of
from bertline.errors import UserError
from bertline.models import compression, families
from bertline.models.dataset import Rows, joined
from bertline.models.family import Classifier
from bertline.models.features import TEXT, TEXT_PAIR
from bertline.models.recipe import OF_FAMILY, ModelOptions
from bertline.models.static import classifier, table

SPLITS = ("train", "validation")


class Student(NamedTuple):
    """What a training needs to make it.

    Attributes:
        build: makes the classifier with its initial weights.
        task: the teacher's, with rows that the student reads.
        places: of its training rows among the teacher's, int64 [rows].
        described: the network in words.
        vocabulary: SHA-256 of the one that it learns, in hex; "" where it has its teacher's.
    """

    build: Callable[[], Classifier]
    task: Task
    places: np.ndarray
    described: str
    vocabulary: str = ""


def prepare(
    task: Task,
    teacher: Sequence[Classifier],
    own: ModelOptions,
    compress: CompressOptions,
    *,
    seed: int,
    folder: Path,
    examples: standard_artifacts.Examples | None,
    texts: Sequence[Candidate] = (),
) -> Student:
    """The student before its training.

    Args:
        task: the teacher's rows; the last ones of training are those of `texts`.
        teacher: its members.
        own: the options of the teacher's vocabulary.
        compress: names the family and its sizes.
        seed: of the student's initial weights.
        folder: of the student's weights, which gets its options and what vocabulary it learns.
        examples: raw Examples, whose texts a student with a vocabulary of its own reads.
        texts: without labels, which it reads too.

    Raises:
        UserError: the student would be larger than its teacher, or the line was compiled without the examples.
    """
    if compress.family == "bilstm" and examples is None:
        raise UserError("compress.family: this line was compiled with another; compile it again, or leave it as it was")
    options = options_of(own, compress)
    folder.mkdir(parents=True, exist_ok=True)
    multi_label, places = task.train.labels.ndim == 2, np.arange(len(task.train))
    if compress.family == "static":
        build = _static(teacher[0], own, options, len(task.labels), seed=seed, multi_label=multi_label)
    else:
        pair = task.train.segment_ids is not None
        learned_vocabulary.write(str(folder), examples.uri, options, pair=pair, section="compress")
        task = _read_again(task, options, folder, examples, texts, pair=pair)
        first, last = len(task.train) - len(texts), len(places) - len(texts)
        places = np.concatenate([places[:first], places[last:]])
        build = partial(
            families.BILSTM.build,
            options,
            len(task.labels),
            seed=seed,
            multi_label=multi_label,
            learned=str(folder),
        )
    check_size(build(), teacher, compress.family)
    (folder / compression.STUDENT).write_text(options.model_dump_json(indent=1) + "\n", encoding="utf-8")
    vocabulary = families.BILSTM.digest(options, str(folder)) if compress.family == "bilstm" else ""
    return Student(build, task, places, _described(options), vocabulary)


def options_of(own: ModelOptions, compress: CompressOptions) -> ModelOptions:
    """The student's model options; its dropout is its family's usual one."""
    sections = {compress.family: getattr(compress, compress.family)}
    if compress.family == "bilstm":
        sections |= {"backbone": ModelOptions().backbone, "sha256": {}, "pooling": "auto"}
    dropout = OF_FAMILY[compress.family]["model"]["dropout"]
    return own.model_copy(update={"family": compress.family, "dropout": dropout, **sections})


def check_size(student: Classifier, teacher: Sequence[Classifier], family: str) -> None:
    """Raises UserError where a student is not smaller than its teacher."""
    mine, theirs = (sum(map(_weights, models)) for models in ([student], teacher))
    if mine >= theirs:
        raise UserError(
            f"compress.family: {family}: the student would have {mine:,} weights, and its teacher has {theirs:,}; "
            f"make compress.{family} smaller"
        )


def _weights(model: Classifier) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.variables)


def _static(
    teacher: Classifier, own: ModelOptions, options: ModelOptions, labels: int, *, seed: int, multi_label: bool
) -> Callable[[], Classifier]:
    """Makes a student whose token vectors come from the teacher's own encoder, as it was fine-tuned."""
    family = families.of(own)
    vectors = table.distilled(teacher, family.spelling(own), family.tokenizer(own), options.static, "compress.static")
    return partial(classifier.with_table, vectors, options, labels, seed=seed, multi_label=multi_label)


def _read_again(
    task: Task,
    options: ModelOptions,
    folder: Path,
    examples: standard_artifacts.Examples,
    texts: Sequence[Candidate],
    *,
    pair: bool,
) -> Task:
    """The task with the rows' texts as the student's own tokenizer reads them; rows without texts here are left out."""
    tokenizer = families.of(options).tokenizer(options, str(folder))

    def tokenised(first: Sequence[str], second: Sequence[str], labels: np.ndarray) -> Rows:
        sides = [first, second] if pair else [first]
        size = learned_vocabulary.BATCH  # a whole split's tokens with their places would take many times its bytes
        parts = [
            tokenizer(*(tf.constant(side[start : start + size]) for side in sides))
            for start in range(0, len(first), size)
        ]
        ids, segments = (
            None if each[0] is None else tf.cast(tf.concat(each, axis=0), tf.int32) for each in zip(*parts, strict=True)
        )
        return Rows(ids, segments, labels)

    def rows_of(split: str) -> Rows:
        place = artifact_utils.get_split_uri([examples], split)
        table = read_examples(place, [], multi_label=task.train.labels.ndim == 2)
        labels = getattr(task, split).labels[: len(table[TEXT])]
        check_order(names_of(labels, task.labels), table)
        return tokenised(table[TEXT], table[TEXT_PAIR], labels)

    train, validation = map(rows_of, SPLITS)
    if texts:
        labels = task.train.labels[-len(texts) :]
        train = joined(train, tokenised([row.text for row in texts], [row.text_pair for row in texts], labels))
    return replace(task, train=train, validation=validation)


def _described(options: ModelOptions) -> str:
    if options.family == "static":
        return f"a vector of {options.static.dimensions} per token, a hidden layer of {options.static.hidden}"
    return f"a bilstm of {options.bilstm.embedding} per token, {options.bilstm.units} units each way"
