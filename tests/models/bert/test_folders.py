"""Folders of BERT's kin, as hubs have them: against Transformers, through all that the line does with a BERT."""

import json
from pathlib import Path
from types import MappingProxyType

import bert_folder as tiny
import factories
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from tiny_bert import frozen

from bertline.components import pretrainer
from bertline.errors import UserError
from bertline.models import attributions, families, network_size
from bertline.models.bert import backbone, masked_lm, network
from bertline.models.bert import folder as folder_of_bert
from bertline.models.family import Batch
from bertline.models.kept import Kept
from bertline.models.pooling import Pooling
from bertline.models.portable import families as portable_families
from bertline.models.portable import folder as portable_folder
from bertline.models.portable import graph
from bertline.models.recipe import ModelOptions
from bertline.models.signatures import ServedModel, export
from bertline.serving import ops

# Written once by benchmarks/peers/hidden_states.py with Transformers: every fourth number of each real token's state.
EXPECTED = json.loads(Path(__file__).with_name("hidden_states.json").read_text())
TEXTS = ["the cat sat good", "bad", "", "flight late abc"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("kin")
    for kind in tiny.KINDS:
        tiny.write_weights(top / kind, kind, prefix=f"{kind}.", pooler=False)
    return top


def options_of(folder, **changes):
    return ModelOptions(**{"backbone": str(folder), "max_length": 20, "dropout": 0.0, **changes})


def batch_of(kind):
    segments = None if kind == "distilbert" else tf.constant(tiny.SEGMENTS)
    return Batch(tf.constant(tiny.IDS), segments, tf.constant(tiny.LENGTHS))


def built(folder, labels=2, **changes):
    """The classifier that training starts from, with a head far from zero."""
    model = families.of(options_of(folder, **changes)).build(options_of(folder, **changes), labels, seed=1)
    model.set_head(np.random.default_rng(0).normal(size=(model.width, labels)), np.linspace(-1, 1, labels))
    return model


def logits_of(model, batch):
    return model.encoder().logits(model.packed(tf.float32), batch).numpy()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_hidden_states_are_transformers(folders, kind):
    model, batch, every = built(folders / kind), batch_of(kind), EXPECTED["every"]
    segments = tf.zeros_like(batch.token_ids) if batch.segment_ids is None else batch.segment_ids
    mask = tf.cast(tf.sequence_mask(batch.lengths, 8), tf.int32)
    inputs = {"token_ids": batch.token_ids, "segment_ids": segments, "padding_mask": mask}
    by_keras = model.backbone(inputs)["sequence_output"].numpy()
    by_encoder = model.encoder().tokens(model.packed(tf.float32), batch).numpy().reshape(by_keras.shape)
    for states in (by_keras, by_encoder):
        for row, length, expected in zip(states, tiny.LENGTHS, EXPECTED[kind], strict=True):
            np.testing.assert_allclose(row[:length, ::every], expected, atol=1e-4)
    # The exported form, by the mean: these folders have no pooler.
    means = [np.mean(row, axis=0) for row in EXPECTED[kind]]
    np.testing.assert_allclose(model.frozen(tf.float32).vectors(batch).numpy()[:, ::every], means, atol=1e-4)


def test_names_as_hubs_have_them_make_no_difference(folders, tmp_path):
    """Alone, in a classifier's or a masked language model's file, and with TensorFlow's old names."""
    head = {"classifier.weight": np.ones((3, 32), np.float32), "cls.seq_relationship.bias": np.ones(2, np.float32)}
    written = [
        tiny.write_weights(tmp_path / "alone"),
        tiny.write_weights(tmp_path / "whole", prefix="bert.", more=head),
        tiny.write_weights(tmp_path / "old", prefix="bert.", old_names=True),
    ]
    first, *others = (backbone.load(options_of(folder)).get_weights() for folder in written)
    for other in others:
        assert all(np.array_equal(*pair) for pair in zip(first, other, strict=True))
    for kind in ("electra", "distilbert"):
        plain = backbone.load(options_of(tiny.write_weights(tmp_path / kind, kind)))
        named = backbone.load(options_of(folders / kind))
        for each, other in zip(plain.variables, named.variables, strict=True):
            if "pooled_dense" not in each.path:  # drawn, and never read
                np.testing.assert_array_equal(each, other)


def test_pooling_is_the_folders_else_the_pooler_else_the_mean(folders, tmp_path):
    bert = tiny.write_weights(tmp_path / "bert")
    assert backbone.pooling(options_of(bert)) == Pooling("pooler")
    for kind in tiny.KINDS:
        assert backbone.pooling(options_of(folders / kind)) == Pooling("mean")
        assert backbone.pooling(options_of(folders / kind, pooling="cls")) == Pooling("cls")
    bge = tiny.write_pooling(tiny.write_weights(tmp_path / "bge"), "cls_token", normalised=True)
    assert backbone.pooling(options_of(bge)) == Pooling("cls", normalised=True)
    mean = tiny.write_pooling(tiny.write_weights(tmp_path / "mean", "distilbert"), "mean_tokens", normalised=False)
    assert backbone.pooling(options_of(mean)) == Pooling("mean")


def test_a_bge_folders_vectors_are_its_first_tokens_at_length_1(tmp_path):
    folder = tiny.write_pooling(tiny.write_weights(tmp_path / "bge"), "cls_token", normalised=True)
    model, every = built(folder), EXPECTED["every"]
    vectors = model.frozen(tf.float32).vectors(batch_of("bert")).numpy()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for vector, row in zip(vectors[:, ::every], EXPECTED["bert"], strict=True):
        np.testing.assert_allclose(vector / np.linalg.norm(vector), row[0] / np.linalg.norm(row[0]), atol=1e-4)


def test_distilberts_segments_begin_at_nothing(folders):
    model = built(folders / "distilbert")
    pair = batch_of("distilbert")._replace(segment_ids=tf.constant(tiny.SEGMENTS))
    np.testing.assert_array_equal(logits_of(model, pair), logits_of(model, batch_of("distilbert")))
    assert any("segment" in variable.path for variable in model.trainable_variables)


def test_the_saved_model_and_onnx_answer_as_the_network_does(folders, tmp_path):
    options = options_of(folders / "electra")
    family, others = families.of(options), ["cat", "", "sat", "mat mat"]
    rows = [(text, other, "a") for text, other in zip(TEXTS, others, strict=True)]
    examples = factories.raw_examples(tmp_path, dict.fromkeys(("train", "validation", "test"), rows), ["a", "b"])
    made, _ = factories.transformed(tmp_path, options, *examples, pair=True)
    model = built(folders / "electra")
    served = ServedModel([model], made.uri, family.vocabulary(options), 3, ["a", "b"], dtype=tf.float32, pair=True)
    export(served, tmp_path / "saved")
    assert ops.check(tmp_path / "saved") == []
    asked = {"text": tf.constant(TEXTS), "text_pair": tf.constant(others)}
    answers = tf.saved_model.load(str(tmp_path / "saved")).signatures["text"](**asked)["probabilities"]
    ids, segments = family.tokenizer(options)(*asked.values())
    batch = Batch(ids.to_tensor(), segments.to_tensor(), tf.cast(ids.row_lengths(), tf.int32))
    np.testing.assert_allclose(answers, tf.nn.softmax(logits_of(model, batch)), atol=1e-5)
    alone = portable_folder.Answers(["a", "b"], temperature=1.0, thresholds=None, abstain=None, pair=True)
    portable_folder.write(tmp_path / "onnx", [model], family, options, alone)
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    mask = tf.sequence_mask(batch.lengths, dtype=tf.int64)
    feed = {"input_ids": ids.to_tensor(), "attention_mask": mask, "token_type_ids": segments.to_tensor()}
    found = session.run(["probabilities"], {name: np.asarray(value) for name, value in feed.items()})[0]
    np.testing.assert_allclose(found, answers, atol=1e-4)


def test_a_prompt_stands_among_projected_embeddings(folders, tmp_path):
    model, batch = built(folders / "electra"), batch_of("electra")
    before = logits_of(model, batch)
    prompt = np.random.default_rng(3).normal(size=(3, 12)).astype(np.float32)  # as wide as the tables
    model.additions = MappingProxyType({"prompt": prompt})
    expected = logits_of(model, batch)
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(frozen(model)(*batch[:3]), expected, atol=1e-4)
    nodes = graph.Graph()
    portable = portable_families.Bert()
    nodes.add("Identity", portable.logits(nodes, portable.inputs, model), name="logits")
    graph.write(nodes.model(portable.inputs, {"logits": 2}, {}), tmp_path / "model.onnx")
    mask = tf.sequence_mask(batch.lengths, dtype=tf.int64)
    feed = {"input_ids": batch.token_ids, "attention_mask": mask, "token_type_ids": batch.segment_ids}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    rows = {name: np.asarray(value, np.int64) for name, value in feed.items()}
    np.testing.assert_allclose(session.run(["logits"], rows)[0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_written_shortened_and_trimmed_it_is_the_same_network(folders, tmp_path, kind):
    options, batch = options_of(folders / kind), batch_of(kind)
    family, model = families.of(options), built(folders / kind)
    expected = logits_of(model, batch)
    model.write(tmp_path, ["a", "b"], backbone_digest=family.digest(options))
    np.testing.assert_allclose(logits_of(family.load(tmp_path), batch), expected, atol=1e-6)
    warm = built(folders / kind)
    warm.set_head(np.zeros((32, 2)), np.zeros(2))
    warm.take_weights(tmp_path, ["a", "b"], backbone_digest=family.digest(options))
    np.testing.assert_allclose(logits_of(warm, batch), expected, atol=1e-6)
    np.testing.assert_allclose(logits_of(model.shortened(Kept([0, 1])), batch), expected, atol=1e-6)
    assert model.shortened(Kept([1])).size.layers == 1
    used = np.unique(np.array(tiny.IDS))
    kept = family.kept_tokens(options, used)
    family.write_vocabulary(options, kept, tmp_path / "vocabulary")
    assert len(kept) < len(tiny.WORDS)
    assert families.of(options_of(tmp_path / "vocabulary")) is families.BERT
    new = batch._replace(token_ids=tf.constant(np.searchsorted(kept, tiny.IDS)))
    np.testing.assert_allclose(logits_of(family.trimmed(model, kept), new), expected, atol=1e-6)


def test_explanations_over_projected_embeddings_are_complete(folders):
    options = options_of(folders / "electra")
    explainer = attributions.Explainer([built(folders / "electra")], families.of(options).tokenizer(options))
    reading = explainer.read("the cat sat good")
    for found in explainer.integrated_gradients(reading, [0, 1]):
        assert found.complete
        assert np.abs(found.values).max() > 1e-3


def test_a_distilberts_masked_lm_head_goes_on_and_is_written_as_a_berts(tmp_path):
    draw = np.random.default_rng(5)
    head = {"vocab_transform.weight": (32, 32), "vocab_transform.bias": (32,), "vocab_projector.bias": (30,)}
    head |= {"vocab_layer_norm.weight": (32,), "vocab_layer_norm.bias": (32,)}
    more = {name: draw.normal(size=shape).astype(np.float32) for name, shape in head.items()}
    source = tiny.write_weights(tmp_path / "distilbert", "distilbert", prefix="distilbert.", more=more)
    batch, everywhere = batch_of("distilbert"), tf.sequence_mask(tiny.LENGTHS, 8)

    def predicted(folder):
        masked = masked_lm.MaskedLm(built(folder), masked_lm.head_of(folder), 1)
        return masked, masked.at(batch, everywhere, tf.float32, None).numpy()

    masked, expected = predicted(source)
    (tmp_path / "written").mkdir()
    folder_of_bert.write(tmp_path / "written", masked, backbone.vocabulary(options_of(source)), source)
    np.testing.assert_allclose(predicted(tmp_path / "written")[1], expected, atol=1e-5)
    assert backbone.pooling(options_of(tmp_path / "written")) == Pooling("mean")  # it had no pooler, and got none


def test_electra_cannot_go_on_with_guessing_masked_words(folders):
    with pytest.raises(UserError, match="pretrain: ELECTRA was not trained to guess masked words"):
        pretrainer.check(options_of(folders / "electra"))
    pretrainer.check(options_of(folders / "distilbert"))


def test_the_sizes_are_read_from_each_kinds_own_keys(folders):
    for kind in tiny.KINDS:
        assert network_size.read(options_of(folders / kind))[:3] == (2, 32, 24)
    assert network.sizes(backbone.load(options_of(folders / "electra")))["embedding_dim"] == 12
    assert "embedding_dim" not in network.sizes(backbone.load(options_of(folders / "distilbert")))


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("distilbert", {"dim": 10**9}, "dim is 1000000000: it must be a whole number from 1 to 32,768"),
        ("distilbert", {"n_heads": 5}, r"dim \(32\) must be a multiple of n_heads \(5\)"),
        ("distilbert", {"activation": "relu"}, "activation 'relu' is not one of gelu"),
        ("electra", {"embedding_size": 0}, "embedding_size is 0: it must be a whole number"),
        ("electra", {"embedding_size": 16}, "embeddings.word_embeddings.weight has 360 numbers, .* make 480"),
        ("bert", {"num_hidden_layers": 3}, "the weights lack encoder.layer.2."),
        ("bert", {"vocab_size": None}, "vocab_size is None"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, kind, config, words):
    folder = tiny.write_weights(tmp_path / kind, kind, **config)
    with pytest.raises(UserError, match=words):
        backbone.load(options_of(folder))


def test_a_size_that_is_missing_and_a_damaged_file_are_named(folders, tmp_path):
    folder = tiny.write_weights(tmp_path / "electra", "electra")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "embedding_size"}))
    with pytest.raises(UserError, match=r"config.json: lacks embedding_size; fetch the folder again"):
        backbone.load(options_of(folder))
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"model.safetensors: no safetensors file, or a damaged one"):
        backbone.pooling(options_of(folder))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("roberta", "TensorFlow Text has no op for RoBERTa's byte-level BPE, which DistilRoBERTa has too"),
        ("mpnet", "relative positions"),
        ("deberta-v2", "relative positions"),
        ("modernbert", "rotary positions"),
        ("albert", "share their weights"),
        ("t5", "of no family known here"),
    ],
)
def test_others_are_refused_by_name_with_what_to_take_instead(tmp_path, kind, words):
    folder = tiny.write_weights(tmp_path / kind, model_type=kind)
    with pytest.raises(UserError, match=f"model_type is '{kind}'.*{words}.*MiniLM or BGE.* in model.backbone"):
        families.of(options_of(folder))
