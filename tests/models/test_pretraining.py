"""Masking as BERT's paper has it, the masked-LM head, and the loop of further pre-training."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from factories import tiny_model_options, tokenised_reviews

from bertline.errors import UserError
from bertline.models import pretraining, training
from bertline.models.bert import backbone, classifier, folder, masked_lm
from bertline.models.bert.masked_lm import MaskedLm
from bertline.models.bert.tokenizer import read_vocabulary
from bertline.models.dataset import Rows
from bertline.models.family import Batch
from bertline.models.masking import Masking
from bertline.models.recipe import ModelOptions, PretrainOptions

SPECIAL = 5  # [PAD], [UNK], [CLS], [SEP], [MASK]: the first of the tests' vocabulary
CLS, SEP, MASK = 2, 3, 4


def masking(words, share=0.15, continues=None):
    return Masking(share, MASK, np.arange(words) < SPECIAL, continues)


# === Masking ===


def drawn(words=1000, rows=400, tokens=64, **settings):
    ids = np.random.default_rng(0).integers(SPECIAL, words, (rows, tokens)).astype(np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    lengths = np.full(rows, tokens, np.int32)
    lengths[::2] = tokens // 2
    made = masking(words, **settings)(tf.constant(ids), tf.constant(lengths), tf.constant([7, 0], tf.int64))
    real = (np.arange(tokens) < lengths[:, None]) & (ids >= SPECIAL)
    return ids, real, made.token_ids.numpy(), made.chosen.numpy()


def test_fifteen_percent_are_chosen_and_eight_tenths_of_them_masked():
    ids, real, masked, chosen = drawn()
    assert not chosen[~real].any()
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    assert chosen[real].mean() == pytest.approx(0.15, abs=0.01)
    assert np.mean(masked[chosen] == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(masked[chosen] == ids[chosen]) == pytest.approx(0.1, abs=0.02)
    others = masked[chosen & (masked != MASK) & (masked != ids)]
    assert len(others) / chosen.sum() == pytest.approx(0.1, abs=0.02)
    assert len(np.unique(others)) > 0.7 * len(others)  # of the whole vocabulary


def test_whole_words_are_chosen_together():
    continues = np.arange(1000) >= 700
    ids, real, _, chosen = drawn(continues=continues)
    goes_on = continues[ids[:, 1:]] & real[:, 1:] & real[:, :-1]
    np.testing.assert_array_equal(chosen[:, 1:][goes_on], chosen[:, :-1][goes_on])
    starts = real & ~continues[ids]
    assert chosen[starts].mean() == pytest.approx(0.15, abs=0.01)


# === The head ===


def network(options, head=None, seed=3):
    keras.utils.set_random_seed(seed)
    return MaskedLm(classifier.from_options(options, 2, seed=seed), head, seed)


def batch_of(rows):
    return Batch(rows.token_ids.to_tensor(), None, tf.cast(rows.token_ids.row_lengths(), tf.int32))


def test_a_written_folder_is_the_network_with_its_head(tmp_path):
    options = tiny_model_options(tmp_path)
    first, rows = network(options), batch_of(tokenised_reviews(options, 6))
    (tmp_path / "written").mkdir()
    folder.write(tmp_path / "written", first, backbone.vocabulary(options), None)
    written = ModelOptions(backbone=str(tmp_path / "written"), max_length=16)
    again = network(written, masked_lm.head_of(tmp_path / "written"))
    all_places = tf.ones_like(rows.token_ids, tf.bool)
    logits, same = (each.at(rows, all_places, tf.float32, None) for each in (first, again))
    np.testing.assert_allclose(same, logits, atol=1e-5)
    assert backbone.vocabulary(written).lowercase
    assert masked_lm.head_of(None) is None
    assert json.loads((tmp_path / "written" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


# === The loop ===


def echoes(options, rows=120):
    """Texts such as "7 7 7 7 7 7": each word tells the others."""
    words = read_vocabulary(backbone.vocabulary(options).path)
    said = [words.index(str(number % 10)) for number in range(rows)]
    return Rows(
        tf.ragged.constant([[CLS, *[word] * 12, SEP] for word in said], tf.int32), None, np.zeros(rows, np.int32)
    )


def fit(options, recipe, checkpoints, on_progress=lambda progress: None):
    words = len(read_vocabulary(backbone.vocabulary(options).path))
    rows, masked = echoes(options), network(options)
    result = pretraining.fit(
        masked,
        masking(words),
        rows.take(np.arange(20, len(rows))),
        rows.take(np.arange(20)),
        recipe,
        precision="float32",
        checkpoints=checkpoints,
        on_progress=on_progress,
    )
    return masked, result


def kill_at(step):
    """What stops a training that has taken so many steps, whenever it says so."""

    def look(progress):
        if progress.step >= step:
            raise KeyboardInterrupt

    return look


def weights(masked):
    return [variable.numpy() for variable in masked.variables]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The options, the recipe and an uninterrupted pre-training of reviews."""
    place = tmp_path_factory.mktemp("pretraining")
    options = tiny_model_options(place)
    recipe = PretrainOptions(epochs=8, steps=30, learning_rate=0.005, checkpoint_steps=3)
    seen = []
    masked, result = fit(options, recipe, place / "checkpoints", on_progress=seen.append)
    return options, recipe, masked, result, seen


def test_the_loss_falls_on_texts_that_it_does_not_train_on(pretrained):
    _, _, masked, (before, history), seen = pretrained
    assert before.validation_loss == pytest.approx(np.log(masked.model.backbone.vocabulary_size), abs=0.2)
    assert history.epochs[-1].validation_loss < 0.6 * before.validation_loss
    assert history.epochs[-1].validation_accuracy > before.validation_accuracy + 0.3
    assert history.step == 30  # of the 32 that 8 epochs would have
    assert (seen[-1].step, seen[-1].steps, seen[-1].epoch, len(history.epochs)) == (30, 30, 8, 8)


def test_a_killed_one_goes_on_and_ends_the_same(pretrained, tmp_path):
    options, recipe, masked, result, _ = pretrained

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "REPORT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            fit(options, recipe, tmp_path / "checkpoints", on_progress=kill_at(23))
    resumed, again = fit(options, recipe, tmp_path / "checkpoints")
    assert again.history.resumed_at == [21]
    for one, other in zip(weights(masked), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.history.epochs == result.history.epochs


def test_one_killed_after_its_last_step_judges_the_epoch_that_it_ends(pretrained, tmp_path, monkeypatch):
    options = pretrained[0]
    recipe = PretrainOptions(epochs=8, steps=6, learning_rate=0.005, checkpoint_steps=3)  # the second of four each
    _, whole = fit(options, recipe, tmp_path / "whole")

    monkeypatch.setattr(training, "REPORT_SECONDS", float("inf"))  # only between the last step and the judging
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fit(options, recipe, tmp_path / "killed", on_progress=kill_at(6))
    _, again = fit(options, recipe, tmp_path / "killed")
    assert again.history.resumed_at[-1] == 6
    assert again.history.epochs == whole.history.epochs and len(again.history.epochs) == 2


def test_weights_that_the_last_step_spoils_are_not_written(pretrained, tmp_path):
    spoils = PretrainOptions(steps=1, warmup_share=0).model_copy(update={"learning_rate": 1e38})
    with pytest.raises(UserError, match=r"held-out texts became nan after epoch 1; lower pretrain.learning_rate"):
        fit(pretrained[0], spoils, tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"training_rows": False}, "name files with texts"),
        ({"text": "body"}, "text: it names the column of source"),
        ({"mask_share": 1}, "mask_share"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PretrainOptions.model_validate(options)
