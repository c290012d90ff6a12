import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from factories import keyword_classifier, tiny_model_options, tokenised_reviews
from scipy import special, stats
from test_training import RECIPE, build, weights
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, frozen, tiny_classifier

from bertline.errors import UserError
from bertline.models import compression, distillation
from bertline.models.bert import classifier
from bertline.models.bert.encoder import Batch
from bertline.models.dataset import NO_LABEL, Rows
from bertline.models.distillation import Distillation, OfLabels
from bertline.models.kept import Kept
from bertline.models.pooling import Pooling
from bertline.models.recipe import DistillOptions, TrainOptions
from bertline.models.training import fit

KEYWORDS = {"awful": 0, "broken": 0, "late": 0, "refund": 0, "ordered": 1, "arrived": 1, "package": 1, "tuesday": 1}
KEYWORDS |= {"great": 2, "love": 2, "perfect": 2, "thanks": 2}
ROWS = Batch(TOKENS, SEGMENTS, LENGTHS)


def losses_against(teacher, student, labelled=(True, True, True), kept=Kept((0, 1)), **options):
    """The rows' losses of a student against its teacher's answers, and against the labels of those that have one."""
    chosen = Distillation(teacher, kept, DistillOptions(**options), tf.float32)
    logits, states = student.encoder().logits_and_states(student.packed(tf.float32), ROWS)
    of_labels = OfLabels(tf.constant([0.5, 1.0, 2.0]), tf.constant(labelled))
    return chosen.losses(of_labels, logits, states, ROWS).numpy(), logits.numpy()


def test_the_layers_are_those_of_the_papers():
    assert distillation.kept_layers(12, 6) == [0, 2, 4, 7, 9, 11]  # DistilBERT's in Hugging Face's own script
    assert distillation.kept_layers(6, 3) == [0, 2, 5]
    assert distillation.kept_layers(6, 1) == [5]


def test_soft_labels_are_hintons():
    teacher, student = tiny_classifier(), tiny_classifier(pooling=Pooling("mean"))
    theirs = losses_against([teacher], teacher, hidden_weight=0)[1]
    found, mine = losses_against([teacher], student, hidden_weight=0, soft_share=0.25, temperature=3.0)
    divergence = [stats.entropy(*(special.softmax(row / 3) for row in pair)) for pair in zip(theirs, mine, strict=True)]
    np.testing.assert_allclose(found, 0.75 * np.array([0.5, 1.0, 2.0]) + 0.25 * 9 * np.array(divergence), rtol=1e-4)


def test_a_text_without_a_label_has_only_the_teachers_answer():
    teacher, student = tiny_classifier(), tiny_classifier(pooling=Pooling("mean"))
    mixed, soft = (
        losses_against([teacher], student, labelled=labelled, hidden_weight=0, soft_share=share)[0]
        for labelled, share in (((True, False, True), 0.5), ((True, True, True), 1.0))
    )
    assert mixed[1] == soft[1]
    np.testing.assert_allclose(mixed[[0, 2]], (np.array([0.5, 2.0]) + soft[[0, 2]]) / 2, rtol=1e-5)


def test_soft_labels_of_label_sets_are_those_of_each_label():
    teacher, student = tiny_classifier(), tiny_classifier(pooling=Pooling("mean"))
    theirs = losses_against([teacher], teacher, hidden_weight=0)[1]
    teacher.multi_label = True
    found, mine = losses_against([teacher], student, hidden_weight=0, soft_share=1.0, temperature=2.0)
    p, q = special.expit(theirs / 2), special.expit(mine / 2)
    divergence = special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)
    np.testing.assert_allclose(found, 4 * divergence.mean(-1), rtol=1e-3, atol=1e-5)


def test_an_ensembles_answers_are_averaged_as_it_is_served():
    first, second = tiny_classifier(), tiny_classifier(pooling=Pooling("mean"))
    mean = np.log(
        (
            special.softmax(losses_against([first], first)[1], -1)
            + special.softmax(losses_against([second], second)[1], -1)
        )
        / 2
    )
    found, mine = losses_against([first, second], first, hidden_weight=0, soft_share=1.0, temperature=1.0)
    wanted = [stats.entropy(np.exp(row), special.softmax(own)) for row, own in zip(mean, mine, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_hidden_states_count_by_their_angle_in_the_rows_own_tokens():
    teacher = tiny_classifier()
    same, _ = losses_against([teacher], teacher, soft_share=0.0, hidden_weight=2.0)
    np.testing.assert_allclose(same, [0.5, 1.0, 2.0], atol=1e-5)
    swapped, _ = losses_against([teacher], teacher, kept=Kept((1, 0)), soft_share=0.0, hidden_weight=2.0)
    _, (first, last) = teacher.encoder().logits_and_states(teacher.packed(tf.float32), ROWS)
    first, last = (state.numpy().reshape(3, 6, 8) for state in (first, last))
    cosines = (first * last).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(last, axis=-1)
    apart = [(1 - cosines[row, :length]).mean() for row, length in enumerate(LENGTHS.numpy())]
    np.testing.assert_allclose(swapped, [0.5, 1.0, 2.0] + 2 * np.array(apart), rtol=1e-4)


def test_a_shortened_network_computes_the_layers_that_it_keeps():
    teacher = tiny_classifier(approximate=True, pooling=Pooling("mean", normalised=True))
    student, both = teacher.shortened(Kept([1])), teacher.shortened(Kept([0, 1]))
    np.testing.assert_array_equal(*(frozen(each)(TOKENS, SEGMENTS, LENGTHS) for each in (teacher, both)))
    packed = teacher.packed(tf.float32)
    by_hand = teacher.encoder().logits(packed._replace(layers=packed.layers[1:]), ROWS)
    np.testing.assert_allclose(student.encoder().logits(student.packed(tf.float32), ROWS), by_hand, atol=1e-6)


def test_a_student_keeps_what_matters_most():
    teacher = tiny_classifier()
    first, last = teacher.backbone.transformer_layers
    for layer, silent in ((first, 0), (last, 1)):  # a head and three units that no answer depends on
        attention, units = layer._self_attention_layer.output_dense.kernel, layer._feedforward_output_dense.kernel
        attention.assign(np.where(np.arange(2)[:, None, None] == silent, 0, attention))
        units.assign(np.where(np.isin(np.arange(16), [4, 5, silent])[:, None], 0, units))
    rows = Rows(tf.RaggedTensor.from_tensor(TOKENS, lengths=LENGTHS), None, np.array([0, 1, 2], np.int32))
    kept = compression.kept_of(teacher, {"heads": 1, "units": 13}, rows, seed=1)
    assert (kept.layers, kept.heads) == ([0, 1], [[1], [0]])
    assert kept.units == [[unit for unit in range(16) if unit not in (4, 5, silent)] for silent in (0, 1)]
    student = teacher.shortened(kept)
    assert (student.size.heads, student.size.units) == (1, 13)
    np.testing.assert_allclose(*(frozen(each)(TOKENS, SEGMENTS, LENGTHS) for each in (teacher, student)), atol=1e-5)
    packed = student.packed(tf.float32).layers[0]
    assert (packed.qkv_kernel.shape, packed.output_kernel.shape, packed.up_kernel.shape) == ((8, 12), (4, 8), (8, 13))
    assert compression.kept_of(teacher, {"layers": 1}, rows, seed=1) == Kept([1])
    with pytest.raises(UserError, match=r"compress.layers: 2 are not fewer than the 2 of model.backbone"):
        compression.kept_of(teacher, {"layers": 2}, rows, seed=1)


def test_a_pruned_network_is_written_and_read(tmp_path):
    student = tiny_classifier().shortened(Kept([0, 1], [[1], [0]], [[0, 3], [1, 2]]))
    student.write(tmp_path, ["a", "b", "c"], backbone_digest="")
    read = classifier.load(tmp_path)
    np.testing.assert_array_equal(*(frozen(each)(TOKENS, SEGMENTS, LENGTHS) for each in (student, read)))
    assert (read.size.heads, read.size.units) == (1, 2)
    assert read.shortened(Kept([1])).size == read.size._replace(layers=1)


def of_places(values, *places):
    """A part of an array: along each axis the places that are named, or all."""
    for axis, wanted in enumerate(places):
        values = values if wanted is None else np.take(values, wanted, axis)
    return values


@pytest.mark.parametrize("embedding", [8, 6], ids=["bert", "electra"])
def test_a_narrower_network_is_a_slice_of_its_teachers(tmp_path, embedding):
    teacher = tiny_classifier(embedding=embedding)
    units, hidden, head = [0, 3, 5], [1, 2, 4, 7], [4, 5, 6, 7]  # of two heads of four the second
    student = teacher.shortened(Kept([1], [[1]], [units], hidden))
    assert student.size == teacher.size._replace(layers=1, hidden=4, heads=1, units=3)
    whole = teacher.packed(tf.float32)
    layer, columns = whole.layers[1], [place + part for part in (0, 8, 16) for place in head]
    norms = ("output_bias", "attention_gamma", "attention_beta", "down_bias", "feedforward_gamma", "feedforward_beta")
    layer = layer._replace(
        qkv_kernel=of_places(layer.qkv_kernel, hidden, columns),
        qkv_bias=of_places(layer.qkv_bias, columns),
        output_kernel=of_places(layer.output_kernel, head, hidden),
        up_kernel=of_places(layer.up_kernel, hidden, units),
        up_bias=of_places(layer.up_bias, units),
        down_kernel=of_places(layer.down_kernel, units, hidden),
        **{name: of_places(getattr(layer, name), hidden) for name in norms},
    )
    if embedding == teacher.size.hidden:
        tables, norm = ("words", "positions", "segments"), ("gamma", "beta")
        below = {name: of_places(getattr(whole, name), None, hidden) for name in tables}
        below |= {name: of_places(getattr(whole, name), hidden) for name in norm}
    else:
        kernel, bias = whole.projection_kernel, whole.projection_bias
        below = {"projection_kernel": of_places(kernel, None, hidden), "projection_bias": of_places(bias, hidden)}
    by_hand = whole._replace(
        layers=(layer,),
        pooler_kernel=of_places(whole.pooler_kernel, hidden, hidden),
        pooler_bias=of_places(whole.pooler_bias, hidden),
        head_kernel=of_places(whole.head_kernel, hidden),
        **below,
    )
    expected = student.encoder().logits(by_hand, ROWS)
    student.write(tmp_path, ["a", "b", "c"], backbone_digest="")
    read = classifier.load(tmp_path)
    for model in (student, read):
        np.testing.assert_allclose(frozen(model)(TOKENS, SEGMENTS, LENGTHS), expected, atol=1e-5)


def test_a_narrower_student_keeps_the_dimensions_that_the_answers_are_read_from(tmp_path):
    options = tiny_model_options(tmp_path)
    teacher, rows = keyword_classifier(options, KEYWORDS), tokenised_reviews(options, 60)
    kept = compression.kept_of(teacher, {"hidden": 32}, rows, seed=1)
    assert kept.hidden[:3] == [0, 1, 2]  # the labels' directions
    assert (len(kept.hidden), len(kept.heads[0]), kept.units) == (32, 1, None)


def test_a_narrower_students_states_are_compared_with_those_that_it_started_from():
    teacher, hidden = tiny_classifier(), [0, 3, 5, 6]
    student = teacher.shortened(Kept([1], [[0]], None, hidden))
    found, _ = losses_against([teacher], student, kept=Kept([1], None, None, hidden), soft_share=0.0)
    theirs = teacher.encoder().logits_and_states(teacher.packed(tf.float32), ROWS)[1][1].numpy()[:, hidden]
    mine = student.encoder().logits_and_states(student.packed(tf.float32), ROWS)[1][0].numpy()
    cosines = (mine * theirs).sum(-1) / np.linalg.norm(mine, axis=-1) / np.linalg.norm(theirs, axis=-1)
    apart = [(1 - row[:length]).mean() for row, length in zip(cosines.reshape(3, 6), LENGTHS.numpy(), strict=True)]
    np.testing.assert_allclose(found, np.add([0.5, 1.0, 2.0], apart), rtol=1e-4)


class Stopped(Exception):
    pass


def stop(progress):
    if progress.step >= 18:
        raise Stopped


def student(folder, wanted=None, **more):
    """A student with only its teacher to learn from: most rows have no label, the others a wrong one.

    It has what is wanted of its teacher; by default one layer, with random weights.
    """
    options = tiny_model_options(folder)
    two = options.model_copy(update={"backbone": options.backbone.model_copy(update={"layers": 2})})
    keras.utils.set_random_seed(3)  # of the teacher's weights on which its answers do not depend
    teacher = keyword_classifier(two, KEYWORDS)
    rows, validation = tokenised_reviews(options, 300), tokenised_reviews(options, 60, seed=1)
    labels = np.where(np.arange(300) < 30, (rows.labels + 1) % 3, NO_LABEL).astype(np.int32)
    taught = dataclasses.replace(rows, labels=labels)
    kept = compression.kept_of(teacher, wanted or {"layers": 1}, rows, seed=1)
    learned = Distillation([teacher], kept, DistillOptions(soft_share=1.0), tf.float32)
    place = {"checkpoints": folder / "checkpoints", "distillation": learned}
    made = (lambda: teacher.shortened(kept)) if wanted else (lambda: build(options))
    return fit(made, taught, validation, RECIPE, **place, **more)


def test_a_student_learns_its_teachers_answers(tmp_path):
    assert student(tmp_path)[1].best.validation_accuracy > 0.9


@pytest.mark.shipped  # what makes a stopped training go on to the bit is tested elsewhere; the teacher adds no state
@pytest.mark.parametrize("wanted", [None, {"hidden": 32}], ids=["random", "narrow"])
def test_a_stopped_student_goes_on_to_the_bit(tmp_path, wanted):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    model, history, logits = student(whole, wanted)
    with pytest.raises(Stopped):
        student(cut, wanted, on_progress=stop)
    resumed, resumed_history, resumed_logits = student(cut, wanted)
    assert resumed_history.resumed_at
    assert resumed_history.epochs == history.epochs
    np.testing.assert_array_equal(weights(resumed), weights(model))
    np.testing.assert_array_equal(resumed_logits, logits)


def test_the_students_recipe_is_the_teachers_but_for_its_method():
    teacher = TrainOptions(method="lora", learning_rate=1e-3, epochs=9, batch_size=16, seed=3, ensemble=4, r_drop=0.5)
    recipe = DistillOptions(epochs=2).recipe(teacher)
    assert (recipe.method, recipe.learning_rate, recipe.epochs, recipe.ensemble, recipe.r_drop) == (
        "full",
        1e-4,
        2,
        1,
        0,
    )
    assert (recipe.batch_size, recipe.seed) == (16, 3)
