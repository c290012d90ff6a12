"""Tiny models, vocabularies and texts for the tests, made offline."""


# === Serving ===


def save_mood_model(folder, positive_word: str = "good"):
    """Saves a SavedModel of the line's signatures that calls a text positive (0.75) when it holds `positive_word`.

    Any other text is negative (0.75). Signatures: `text`, `serving_default` (serialized tf.Example) and `add`, which
    adds the float32 [batch, 2] `x` and the int64 scalar `n`.
    """
    import tensorflow as tf

    def classify(texts):
        positive = tf.strings.regex_full_match(texts, f"(?s).*{positive_word}.*")
        probabilities = tf.where(positive[:, tf.newaxis], [[0.25, 0.75]], [[0.75, 0.25]])
        classes = tf.tile([["negative", "positive"]], [tf.size(texts), 1])
        label = tf.where(positive, "positive", "negative")
        return {"label": label, "probabilities": probabilities, "classes": classes}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        return classify(text)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def examples(examples):
        spec = {"text": tf.io.FixedLenFeature([], tf.string)}
        return classify(tf.io.parse_example(examples, spec)["text"])

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([], tf.int64, "n")])
    def add(x, n):
        return {"sum": x + tf.cast(n, tf.float32), "count": n}

    signatures = {"text": text, "serving_default": examples, "add": add}
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
    return folder
