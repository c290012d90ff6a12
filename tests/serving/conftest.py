import shutil

import pytest
from factories import save_mood_model


@pytest.fixture(scope="session")
def mood_models(tmp_path_factory):
    """Two SavedModels: `good` calls texts with "good" positive, `great` those with "great"."""
    folder = tmp_path_factory.mktemp("mood")
    return {word: save_mood_model(folder / word, word) for word in ("good", "great")}


@pytest.fixture(scope="session")
def monitored_model(tmp_path_factory):
    """A served model that has the signature `monitored` too: the embedding is (letters, 1)."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("monitored")

    def answer(text):
        positive = tf.strings.regex_full_match(text, "(?s).*good.*")
        probabilities = tf.where(positive[:, tf.newaxis], [[0.25, 0.75]], [[0.75, 0.25]])
        classes = tf.tile([["negative", "positive"]], [tf.size(text), 1])
        return {
            "label": tf.where(positive, "positive", "negative"),
            "probabilities": probabilities,
            "classes": classes,
            "abstained": ~positive,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        return answer(text)

    def letters(text):
        return tf.strings.length(text)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def monitored(text):
        vector = tf.cast(tf.stack([letters(text), tf.ones_like(letters(text))], 1), tf.float16)
        return answer(text) | {"embedding": vector, "pieces": letters(text) + 2, "unknown": letters(text) % 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def examples(examples):
        return answer(tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature([], tf.string)})["text"])

    signatures = {"text": text, "monitored": monitored, "serving_default": examples}
    tf.saved_model.save(tf.Module(), str(folder / "model"), signatures=signatures)
    shutil.copytree(folder / "model", folder / "serving" / "7")
    return folder / "serving"
