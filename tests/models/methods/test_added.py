import numpy as np
import pytest
import tensorflow as tf
from test_methods import HOULSBY, PFEIFFER, PREFIX, PROMPT, chosen, logits, moved, paths
from tiny_bert import LENGTHS, SEGMENTS, TOKENS, tiny_classifier

from bertline.errors import UserError
from bertline.models.bert.encoder import Batch, Encoder, _Ops
from bertline.models.pooling import POOLER, Pooling


def norm(x, layer_norm):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-12) * layer_norm.gamma + layer_norm.beta


def gelu(x):
    return 0.5 * x * (1 + tf.math.erf(x / 2**0.5).numpy())


def relu(x):
    return np.maximum(x, 0)


# === Adapters ===


@pytest.mark.parametrize("changes", [HOULSBY, PFEIFFER], ids=["houlsby", "pfeiffer"])
def test_adapters_begin_close_to_the_pretrained_weights(changes):
    model = tiny_classifier()
    np.testing.assert_allclose(logits(model, chosen(model, **changes).pack(tf.float32)), logits(model), atol=0.01)


def test_houlsby_trains_the_layer_norms_too_and_pfeiffer_has_half_the_bottlenecks():
    model = tiny_classifier()
    houlsby, pfeiffer = chosen(model, **HOULSBY), chosen(model, **PFEIFFER)
    assert len(houlsby.own) == 2 * len(pfeiffer.own) == 2 * 2 * 4
    kept = paths([*houlsby.own.values(), *pfeiffer.own.values(), *model.output_dense.trainable_variables])
    layers = model.backbone.transformer_layers
    norms = [each for layer in layers for each in (layer._self_attention_layer_norm, layer._feedforward_layer_norm)]
    assert paths(houlsby.variables) - kept == paths([v for each in norms for v in each.trainable_variables])
    assert paths(pfeiffer.variables) <= kept


@pytest.mark.parametrize("changes", [HOULSBY, PFEIFFER], ids=["houlsby", "pfeiffer"])
def test_a_layer_with_adapters_is_that_of_the_paper(changes):
    """For a token x, and h of what the attention gives."""
    model = tiny_classifier()
    method = moved(chosen(model, **changes))
    own = {name: variable.numpy() for name, variable in method.own.items()}
    layer = model.backbone.transformer_layers[0]
    x, h = np.random.default_rng(5).normal(size=(2, 8)).astype(np.float32)

    def through(name, h, nonlinearity):
        narrow = nonlinearity(h @ own[f"{name}/down"] + own[f"{name}/down_bias"])
        return narrow @ own[f"{name}/up"] + own[f"{name}/up_bias"]

    def feedforward(x):
        up, down = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
        return gelu(x @ up.kernel + up.bias) @ down.kernel + down.bias

    first, last = layer._self_attention_layer_norm, layer._feedforward_layer_norm
    if changes is HOULSBY:
        middle = norm(x + h + through("0/attention", h, gelu), first)
        expected = norm(middle + feedforward(middle) + through("0/feedforward", feedforward(middle), gelu), last)
    else:
        middle = norm(x + h, first)
        read = norm(middle + feedforward(middle), last)
        expected = norm(middle + feedforward(middle) + through("0/after_norm", read, relu), last)
    # An attention whose projection is zero gives the projection's bias.
    packed = method.pack(tf.float32).layers[0]._replace(output_kernel=tf.zeros([8, 8]), output_bias=tf.constant(h))
    np.testing.assert_allclose(through_the_layer(model, packed, x), expected, atol=1e-4)


def through_the_layer(model, packed, x):
    """What the encoder's layer makes of a row of one token."""
    encoder, token = Encoder.of(model), tf.constant(x[None])
    return encoder._layer(packed, (token, token), tf.constant([[True]]), _Ops(encoder, tf.float32, None))[0][0]


# === Prompt and prefix ===


@pytest.mark.parametrize("pooling", [POOLER, Pooling("mean")], ids=str)
@pytest.mark.parametrize("changes", [PROMPT, PREFIX], ids=["prompt", "prefix"])
def test_padding_changes_nothing_and_rows_do_not_touch_each_other(changes, pooling):
    model = tiny_classifier(pooling=pooling)
    weights = moved(chosen(model, **changes)).pack(tf.float32)
    together = logits(model, weights)
    encoder = Encoder.of(model)
    wide = [tf.pad(each, [[0, 0], [0, 5]], constant_values=1) for each in (TOKENS, SEGMENTS)]
    np.testing.assert_allclose(encoder.logits(weights, Batch(*wide, LENGTHS)), together, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        own = Batch(TOKENS[row : row + 1, :length], SEGMENTS[row : row + 1, :length], LENGTHS[row : row + 1])
        np.testing.assert_allclose(encoder.logits(weights, own), together[row : row + 1], atol=1e-5)


def test_the_prompt_is_words_without_position_before_it_is_trained():
    """Against keras-hub: with positions and segments of zero, a prompt is words of the text but not of the mean."""
    model = tiny_classifier(pooling=Pooling("mean"))
    for table in (model.backbone.position_embedding.position_embeddings, model.backbone.segment_embedding.embeddings):
        table.assign(tf.zeros(table.shape))
    method = chosen(model, **PROMPT)
    words = [3, 7, 4]
    method.own["prompt"].assign(tf.gather(model.backbone.token_embedding.embeddings.value, words))
    ids = tf.constant([[5, 9, *words]])
    inputs = {"token_ids": ids, "segment_ids": tf.zeros_like(ids), "padding_mask": tf.ones_like(ids)}
    own = model.backbone(inputs)["sequence_output"][:, :2]
    expected = model.output_dense(tf.reduce_mean(own, axis=1))
    batch = Batch(ids[:, :2], None, tf.constant([2]))
    np.testing.assert_allclose(Encoder.of(model).logits(method.pack(tf.float32), batch), expected, atol=1e-5)


def test_a_prompt_changes_no_position():
    """A prompt that moves no attention leaves the answers as they were: positions and pooling know nothing of it."""
    for pooling in (POOLER, Pooling("cls"), Pooling("mean")):
        model = tiny_classifier(pooling=pooling)
        for layer in model.backbone.transformer_layers:  # attention gives its bias, whatever is attended to
            layer._self_attention_layer.value_dense.kernel.assign(
                tf.zeros_like(layer._self_attention_layer.value_dense.kernel.value)
            )
        for tokens in (1, 5):
            method = chosen(model, method="prompt", prompt={"tokens": tokens})
            np.testing.assert_allclose(logits(model, method.pack(tf.float32)), logits(model), atol=1e-5)


def test_the_prompt_begins_as_words_of_the_vocabulary():
    model = tiny_classifier()
    table = model.backbone.token_embedding.embeddings.numpy()
    for row in chosen(model, **PROMPT).own["prompt"].numpy():
        assert np.abs(table - row).max(axis=1).min() == 0


def test_a_prefix_is_keys_and_values_beside_those_of_the_tokens():
    """A token's attention by hand: softmax over the prefix and the token itself."""
    model = tiny_classifier()
    method = moved(chosen(model, method="prefix", prefix={"tokens": 2, "reparametrise": None}))
    layer, attention = method.pack(tf.float32).layers[0], model.backbone.transformer_layers[0]._self_attention_layer
    x = np.random.default_rng(6).normal(size=8).astype(np.float32)
    keys, values = (
        method.own[f"0/{part}"].numpy().reshape(2, 2, 4) for part in ("keys", "values")
    )  # [prefix, heads, .]

    def of(dense):
        return np.einsum("i,ihd->hd", x, dense.kernel) + dense.bias

    query, key, value = map(of, (attention.query_dense, attention.key_dense, attention.value_dense))
    context = []
    for head in range(2):
        scores = np.array([*(keys[:, head] @ query[head]), key[head] @ query[head]]) / 2  # sqrt(8 / 2)
        shares = np.exp(scores) / np.exp(scores).sum()
        context.append(shares @ np.stack([*values[:, head], value[head]]))
    output = attention.output_dense
    attended = np.einsum("hd,hdo->o", np.stack(context), output.kernel) + output.bias
    alone = layer._replace(output_kernel=tf.zeros([8, 8]), output_bias=tf.constant(attended, tf.float32))
    np.testing.assert_allclose(through_the_layer(model, layer, x), through_the_layer(model, alone, x), atol=1e-4)


def test_a_prefix_is_made_through_a_tanh_layer_that_is_thrown_away():
    model = tiny_classifier()
    method = moved(chosen(model, **PREFIX))
    own = {name: variable.numpy() for name, variable in method.own.items()}
    made = np.tanh(own["start"] @ own["inner"] + own["inner_bias"]) @ own["outer"] + own["outer_bias"]
    method.finish()
    assert list(model.additions) == ["0/keys", "0/values", "1/keys", "1/values"]
    np.testing.assert_allclose(np.concatenate(list(model.additions.values()), axis=1), made, atol=1e-5)


# === What a warm start brings ===


@pytest.mark.parametrize(
    "changes", [HOULSBY, PFEIFFER, PROMPT, PREFIX], ids=["houlsby", "pfeiffer", "prompt", "prefix"]
)
def test_a_warm_start_goes_on_from_the_additions(changes):
    model = tiny_classifier()
    moved(chosen(model, **changes)).finish()
    left = logits(model)
    np.testing.assert_allclose(logits(model, chosen(model, **changes).pack(tf.float32)), left, atol=1e-5)
    (kind, settings), *_ = [(key, value) for key, value in changes.items() if key != "method"]
    other = {"size": 2} if kind == "adapters" else {"tokens": 2}
    with pytest.raises(UserError, match=r"train\.warm_start: what train\.method: .* another kind or size"):
        chosen(model, **{**changes, kind: {**settings, **other}})
    with pytest.raises(
        UserError, match=r"the last blessed model has (adapters|a prompt|a prefix), which train\.method: full"
    ):
        chosen(model)
