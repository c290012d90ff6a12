from dataclasses import replace

import factories
import keras
import numpy as np
import pytest

from bertline.models import attributions, methods, surrogate
from bertline.models.bert import backbone
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.pooling import Pooling
from bertline.models.recipe import TrainOptions

KEYWORDS = {"awful": 0, "refund": 0, "ordered": 1, "great": 2, "love": 2}
TEXTS = [
    "the great item was late",
    "my item was awful and late",
    "it was great and the refund and love",
    "the package it was ordered tuesday",
    "Love, the great one! awful 7",
]


@pytest.fixture(scope="module")
def explainer(tmp_path_factory):
    keras.utils.set_random_seed(1)  # of the places' embeddings, whatever tests came before
    options = factories.tiny_model_options(tmp_path_factory.mktemp("model"), dropout=0.0)
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    return attributions.Explainer([factories.keyword_classifier(options, KEYWORDS)], tokenizer)


def log_odds(probability):
    return np.log(probability) - np.log1p(-probability)


@pytest.mark.parametrize("text", TEXTS)
def test_attributions_sum_to_the_scores_difference(explainer, text):
    reading = explainer.read(text)
    (probabilities,) = explainer.probabilities([reading])
    for found in explainer.integrated_gradients(reading, [0, 1, 2]):
        assert found.score == pytest.approx(log_odds(probabilities[found.label]), abs=1e-3)
        difference = found.score - found.reference
        assert abs(difference - found.values.sum()) <= 0.05 * max(abs(difference), 1)
        assert found.complete


def test_attributions_of_a_mean_are_complete(tmp_path):
    options = factories.tiny_model_options(tmp_path, dropout=0.0)
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    model = factories.keyword_classifier(options, KEYWORDS)
    model.pooling = Pooling("mean", normalised=True)
    explainer = attributions.Explainer([model], tokenizer)
    reading = explainer.read(TEXTS[0])
    found = explainer.integrated_gradients(reading, [0, 1, 2])
    assert all(each.complete for each in found)
    assert found[2].values.argmax() == 1  # "great"


@pytest.mark.parametrize("method", ["prompt", "prefix", "adapters"])
def test_attributions_of_a_model_with_additions_are_complete(tmp_path, method):
    options = factories.tiny_model_options(tmp_path, dropout=0.0)
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    model = factories.keyword_classifier(options, KEYWORDS)
    alone = attributions.Explainer([model], tokenizer)
    methods.choose(model, TrainOptions(method=method), methods.Length(1, 1)).finish()
    model.additions = {name: 20 * array for name, array in model.additions.items()}
    explainer = attributions.Explainer([model], tokenizer)
    reading = explainer.read(TEXTS[0])
    assert np.abs(explainer.probabilities([reading]) - alone.probabilities([reading])).max() > 1e-4
    assert all(each.complete for each in explainer.integrated_gradients(reading, [0, 1, 2]))


def test_the_reference_is_the_row_without_its_words(explainer):
    """The words' places are kept, so the score does not depend on which words they were."""
    one, other = (explainer.integrated_gradients(explainer.read(text), [2])[0] for text in ("great item", "awful my"))
    assert one.reference == pytest.approx(other.reference, abs=1e-5)
    assert one.score > one.reference > other.score


def test_keywords_speak_for_their_label_and_against_the_others(explainer):
    reading = explainer.read("it was Great! and the refund")
    words = ["it was Great! and the refund"[word.start : word.end] for word in reading.words]
    bad, _, good = explainer.integrated_gradients(reading, [0, 1, 2])
    assert words[good.values.argmax()] == words[bad.values.argmin()] == "Great!"
    assert words[bad.values.argmax()] == words[good.values.argmin()] == "refund"
    second = surrogate.lime(explainer.probabilities, reading, 2, samples=300, seed=1)
    assert words[second.values.argmax()] == "Great!"
    assert words[second.values.argmin()] == "refund"


@pytest.mark.parametrize("method", ["integrated gradients", "lime"])
def test_replacing_the_top_word_lowers_the_answers_score_more_than_replacing_another(explainer, method):
    for text in TEXTS[:4]:
        reading = explainer.read(text)
        label = int(explainer.probabilities([reading])[0].argmax())
        if method == "lime":
            values = surrogate.lime(explainer.probabilities, reading, label, samples=300, seed=1).values
        else:
            values = explainer.integrated_gradients(reading, [label])[0].values
        unknown = []
        for word in reading.words:
            ids = reading.ids.copy()
            ids[list(word.tokens)] = 1
            unknown.append(replace(reading, ids=ids))
        scores = explainer.probabilities(unknown)[:, label]
        top = values.argmax()
        # Of two keywords of the label, which count alike, either may be the first.
        assert (scores[top] < np.delete(scores, top)).mean() > 0.8


def test_a_coarse_line_is_cut_finer_and_one_that_stays_coarse_is_called_incomplete(explainer, monkeypatch):
    reading = explainer.read(TEXTS[2])
    monkeypatch.setattr(attributions, "FIRST_POINTS", 2)
    assert explainer.integrated_gradients(reading, [2])[0].complete
    monkeypatch.setattr(attributions, "MOST_POINTS", 2)
    (coarse,) = explainer.integrated_gradients(reading, [2])
    assert not coarse.complete
    assert coarse.residual == pytest.approx(coarse.score - coarse.reference - coarse.values.sum())


def test_long_rows_are_taken_a_few_points_at_a_time_to_the_same_result(explainer, monkeypatch):
    reading = explainer.read(TEXTS[2])
    (whole,) = explainer.integrated_gradients(reading, [2])
    monkeypatch.setattr(attributions, "TOKENS_AT_ONCE", 1)
    (parts,) = explainer.integrated_gradients(reading, [2])
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-4)
    rows = [explainer.read(text) for text in TEXTS]
    np.testing.assert_allclose(
        explainer.probabilities(rows), [explainer.probabilities([row])[0] for row in rows], atol=1e-5
    )


def test_words_that_are_not_read_get_nothing(explainer):
    reading = explainer.read("great " * 20)
    for values in (
        explainer.integrated_gradients(reading, [2])[0].values,
        surrogate.lime(explainer.probabilities, reading, 2, samples=50, seed=1).values,
    ):
        assert (values[:14] != 0).all()
        assert (values[14:] == 0).all()  # 16 tokens with the special ones


def test_a_text_without_words_has_nothing_to_explain(explainer):
    reading = explainer.read("\u200b")
    (found,) = explainer.integrated_gradients(reading, [0])
    assert found.score == pytest.approx(found.reference)
    assert found.values.tolist() == [0.0]
    assert surrogate.lime(explainer.probabilities, reading, 0, samples=50, seed=1).values.tolist() == [0.0]


def test_pairs_are_explained_in_both_texts(explainer):
    reading = explainer.read("the item", "was great")
    assert reading.segments.tolist() == [0, 0, 0, 0, 1, 1, 1]
    (found,) = explainer.integrated_gradients(reading, [2])
    assert found.complete
    assert found.values.argmax() == 3
    assert surrogate.lime(explainer.probabilities, reading, 2, samples=100, seed=1).values.argmax() == 3


def test_lime_is_the_same_for_the_same_seed_and_says_how_well_it_fits(explainer):
    reading = explainer.read(TEXTS[0])
    first, again, other = (
        surrogate.lime(explainer.probabilities, reading, 2, samples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first.values.tolist() == again.values.tolist() != other.values.tolist()
    assert 0.5 < first.fit <= 1
