import numpy as np
import pytest
import tensorflow as tf
from factories import MOODS, keyword_classifier, tiny_model_options
from scipy.special import expit, softmax

from bertline.models import attributions, ensemble, families
from bertline.models.bert import backbone, classifier
from bertline.models.bert.encoder import Batch, Encoder, pack
from bertline.models.bert.inference import FrozenClassifier
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.recipe import TrainOptions


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """A tokenizer, and two classifiers that know different words."""
    folder = tmp_path_factory.mktemp("members")
    options = tiny_model_options(folder, dropout=0.0)
    words = backbone.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=options.max_length)
    known = ({"awful": 0, "ordered": 1, "great": 2}, {"refund": 0, "ordered": 1, "great": 2})
    return tokenizer, [keyword_classifier(options, words) for words in known]


def test_the_mean_is_that_of_the_probabilities():
    logits = np.random.default_rng(0).normal(0, 5, (3, 6, 4)).astype(np.float32)
    logits[0, 0] = [300, -300, 0, 0]  # as sure as float32 can be, and wrong or right
    found = ensemble.mean(list(logits), multi_label=False)
    np.testing.assert_allclose(softmax(found, axis=-1), softmax(logits, axis=-1).mean(0), atol=1e-6)
    found = ensemble.mean(list(logits), multi_label=True)
    np.testing.assert_allclose(expit(found), expit(logits).mean(0), atol=1e-6)
    assert np.isfinite(found).all()
    alone = logits[0]
    for several in (False, True):
        assert ensemble.mean([alone], multi_label=several) is alone


def test_the_exported_members_answer_as_their_mean(members):
    _, models = members
    batch = Batch(tf.constant([[2, 5, 6, 3], [2, 7, 3, 0]]), None, tf.constant([4, 3]))
    frozen = [FrozenClassifier(Encoder.of(each), pack(each, tf.float32), tf.float32) for each in models]
    both = ensemble.FrozenEnsemble(frozen, multi_label=False)
    alone = [Encoder.of(each).logits(pack(each, tf.float32), batch) for each in models]
    expected = softmax(alone, axis=-1).mean(0)
    assert np.abs(softmax(alone[0], axis=-1) - expected).max() > 0.01
    np.testing.assert_allclose(softmax(both.logits(batch), axis=-1), expected, atol=1e-5)
    vectors = [Encoder.of(each).vectors(pack(each, tf.float32), batch) for each in models]
    np.testing.assert_allclose(both.vectors_and_logits(batch)[0], np.mean(vectors, axis=0), atol=1e-5)


def test_explanations_are_of_the_mean_at_the_served_temperature(members):
    tokenizer, models = members
    alone = [attributions.Explainer([each], tokenizer) for each in models]
    both = attributions.Explainer(models, tokenizer)
    warm = attributions.Explainer(models, tokenizer, 2.0)
    reading = both.read("awful refund and great")
    mean = np.mean([each.probabilities([reading])[0] for each in alone], axis=0)
    np.testing.assert_allclose(both.probabilities([reading])[0], mean, atol=1e-5)
    np.testing.assert_allclose(warm.probabilities([reading])[0], mean**0.5 / (mean**0.5).sum(), atol=1e-5)
    (found,) = both.integrated_gradients(reading, [0])
    assert found.complete
    assert found.score == pytest.approx(np.log(mean[0] / (1 - mean[0])), abs=1e-3)
    awful, refund, _, great = found.values  # each of the first two is known to one member only
    assert min(awful, refund) > 0.1 and great < -0.1


def test_members_lie_in_folders_of_their_own(members, tmp_path):
    _, models = members
    assert ensemble.folder(tmp_path, 1, 1) == tmp_path
    for number, each in enumerate(models, start=1):
        classifier.save(each, ensemble.folder(tmp_path, number, 2), list(MOODS), backbone_digest="")
    for one, other in zip(ensemble.load(families.BERT, tmp_path), models, strict=True):
        np.testing.assert_array_equal(
            one.backbone.token_embedding.embeddings, other.backbone.token_embedding.embeddings
        )


def test_a_probe_has_no_seeds_to_average():
    with pytest.raises(ValueError, match="ensemble: method: probe gives the same model whatever the seed"):
        TrainOptions(method="probe", ensemble=3)
    recipe = TrainOptions(ensemble=3, seed=5)
    assert [(own.seed, own.ensemble) for own in map(recipe.of_member, (1, 2, 3))] == [(5, 1), (6, 1), (7, 1)]
