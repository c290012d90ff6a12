"""Networks with a SentencePiece vocabulary against Transformers, and folders whose files do not belong together."""

import functools
import json
import shutil
from pathlib import Path

import factories
import hugging_face_hub
import huggingface_hub
import numpy as np
import pytest
import tensorflow as tf
import without_tensorflow
import xlm_roberta_folder as tiny
from tokenizers import Tokenizer

from bertline.errors import UserError
from bertline.models import backbone_folder, families
from bertline.models.family import Batch
from bertline.models.pooling import Pooling
from bertline.models.portable import folder as portable_folder
from bertline.models.recipe import ModelOptions
from bertline.models.signatures import ServedModel, export
from bertline.models.xlm_roberta import backbone
from bertline.serving import ops

# Written once by benchmarks/peers/hidden_states.py with Transformers: every fourth number of each real token's state.
EXPECTED = json.loads(Path(__file__).with_name("hidden_states.json").read_text())
CORPUS = ["the cat sat on the mat", "这本书很好，好的世界", "Où est la gare, s'il vous plaît?", "Привет, мир"] * 9
BATCH = Batch(tf.constant(tiny.IDS), None, tf.constant(tiny.LENGTHS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, with a vocabulary of some 300 pieces: random letters make enough of them."""
    top = tmp_path_factory.mktemp("tiny")
    letters = np.random.default_rng(0).integers(97, 123, size=(400, 12))
    corpus = CORPUS + ["".join(map(chr, row[:6])) + " " + "".join(map(chr, row[6:])) for row in letters]
    words = tiny.write_vocabulary(top / "sentencepiece.bpe.model", corpus).read_bytes()
    for kind in tiny.KINDS:
        tiny.write_weights(top / kind, kind)
        (top / kind / "sentencepiece.bpe.model").write_bytes(words)
    return top


def options_of(folder, **changes):
    return ModelOptions(**{"backbone": str(folder), "max_length": 40, "dropout": 0.0, **changes})


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_hidden_states_are_transformers(folders, kind):
    model = families.of(options_of(folders / kind)).build(options_of(folders / kind), 2, seed=1)
    mask = tf.sequence_mask(BATCH.lengths, 8)
    inputs = {"token_ids": BATCH.token_ids, "segment_ids": 0 * BATCH.token_ids, "padding_mask": tf.cast(mask, tf.int32)}
    states = model.backbone(inputs)["sequence_output"].numpy()
    for row, length, expected in zip(states, tiny.LENGTHS, EXPECTED[kind], strict=True):
        np.testing.assert_allclose(row[:length, :: EXPECTED["every"]], expected, atol=1e-4)
    # Training's own forward pass and the exported one, by the mean that is this family's pooling.
    means = [np.mean(row, axis=0) for row in EXPECTED[kind]]
    for vectors in (
        model.encoder().vectors(model.packed(tf.float32), BATCH),
        model.frozen(tf.float32).vectors(BATCH),
    ):
        np.testing.assert_allclose(vectors.numpy()[:, :: EXPECTED["every"]], means, atol=1e-4)


def test_a_written_classifier_is_the_same_once_loaded(folders, tmp_path):
    options = options_of(folders / "xlm-roberta")
    family = families.of(options)
    model = family.build(options, 3, seed=1)
    model.write(tmp_path, ["a", "b", "c"], backbone_digest=family.digest(options))
    loaded = family.load(tmp_path)
    logits = [each.frozen(tf.float32).logits(BATCH).numpy() for each in (model, loaded)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-6)


def test_the_names_of_a_whole_language_model_are_known(folders, tmp_path):
    folder = tiny.write_weights(tmp_path / "prefixed", prefix="roberta.")
    (folder / "sentencepiece.bpe.model").write_bytes((folders / "bert" / "sentencepiece.bpe.model").read_bytes())
    plain, prefixed = (backbone.load(options_of(place)).get_weights() for place in (folders / "xlm-roberta", folder))
    assert all(np.array_equal(*pair) for pair in zip(plain, prefixed, strict=True))


def test_pooling_is_the_folders_else_the_mean(folders, tmp_path):
    family = families.XLM_ROBERTA
    assert family.pooling(options_of(folders / "bert")) == Pooling("mean")
    assert family.pooling(options_of(folders / "bert", pooling="cls")) == Pooling("cls")
    folder = tiny.write_weights(tmp_path / "pooled")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    assert family.pooling(options_of(folder)) == Pooling("mean", normalised=True)


def test_the_digest_is_of_all_that_changes_an_answer(folders, tmp_path):
    options = options_of(folders / "bert")
    digests = {families.of(options).digest(options), families.of(options).digest(options_of(folders / "xlm-roberta"))}
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (folders / "bert").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert families.of(options_of(copy)).digest(options_of(copy)) in digests
    (copy / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    assert families.of(options_of(copy)).digest(options_of(copy)) not in digests


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', of no family known here .*byte-level BPE"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', of no family known here"),
        ({"vocab_size": 100}, r"vocab_size is 100, and .*sentencepiece\.bpe\.model makes 3"),
        ({"vocab_size": 250_002}, "vocab_size is 250,002, and .* must belong together"),
        ({"hidden_size": 64}, "must belong together"),
        ({"num_hidden_layers": 3}, "lack encoder.layer.2.attention"),
        ({"max_position_embeddings": 20}, "max_length 40 is more than the 18 positions"),
        ({"hidden_act": "swish"}, "hidden_act 'swish' is not one of"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folders, tmp_path, config, words):
    folder = tiny.write_weights(tmp_path / "wrong", **config)
    (folder / "sentencepiece.bpe.model").write_bytes((folders / "bert" / "sentencepiece.bpe.model").read_bytes())
    with pytest.raises(UserError, match=words):
        families.of(options_of(folder)).build(options_of(folder), 2, seed=1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "CamembertTokenizer"}, "tokenizer_class is 'CamembertTokenizer'"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "normalizer has Lowercase, which the SentencePiece"),
        (
            "tokenizer.json",
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled"}, {"type": "StripAccents"}]}},
            "normalizer has StripAccents",
        ),
    ],
)
def test_a_tokenizer_that_does_more_than_its_sentencepiece_model_is_refused(folders, tmp_path, name, content, words):
    folder = tiny.write_weights(tmp_path / "more")
    (folder / "sentencepiece.bpe.model").write_bytes((folders / "bert" / "sentencepiece.bpe.model").read_bytes())
    usual = {"tokenizer_class": "XLMRobertaTokenizerFast"} if name == "tokenizer_config.json" else {"normalizer": None}
    (folder / name).write_text(json.dumps(usual))
    families.of(options_of(folder)).tokenizer(options_of(folder))
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        families.of(options_of(folder)).tokenizer(options_of(folder))


def test_a_folder_without_its_vocabulary_is_refused(tmp_path):
    folder = tiny.write_weights(tmp_path / "bare")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no sentencepiece\.bpe\.model, which a model_type 'xlm-roberta' needs"):
        families.of(options_of(folder))


@pytest.mark.parametrize("pair", [False, True], ids=["texts", "pairs"])
def test_the_saved_model_answers_as_the_network_does_with_ops_that_tf_serving_has(folders, tmp_path, pair):
    options = options_of(folders / "xlm-roberta")
    (folders / "xlm-roberta" / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    family = families.of(options)
    texts, others = [*CORPUS[:4], "", "\u200b"], ["sat", "", "好的", "the mat", "", "x"]
    rows = [(text, other, "a") if pair else (text, "a") for text, other in zip(texts, others, strict=True)]
    examples = factories.raw_examples(tmp_path, dict.fromkeys(("train", "validation", "test"), rows), ["a", "b"])
    graph, _ = factories.transformed(tmp_path, options, *examples, **({"pair": True} if pair else {}))
    model = family.build(options, 2, seed=1)
    served = ServedModel([model], graph.uri, family.vocabulary(options), 3, ["a", "b"], dtype=tf.float32, pair=pair)
    export(served, tmp_path / "saved")
    assert ops.check(tmp_path / "saved") == []
    shutil.rmtree(graph.uri)  # nothing of the answer comes from outside the SavedModel
    asked = {"text": tf.constant(texts)} | ({"text_pair": tf.constant(others)} if pair else {})
    answers = tf.saved_model.load(str(tmp_path / "saved")).signatures["text"](**asked)
    ids, segments = family.tokenizer(options)(*asked.values())
    batch = Batch(
        ids.to_tensor(), None if segments is None else segments.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)
    )
    expected = tf.nn.softmax(model.encoder().logits(model.packed(tf.float32), batch))
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    onnx = portable_folder.Answers(["a", "b"], temperature=1.0, thresholds=None, abstain=None, pair=pair)
    portable_folder.write(tmp_path / "onnx", [model], family, options, onnx)
    if pair:
        read = without_tensorflow.encode_pairs(tmp_path / "onnx", list(zip(texts, others, strict=True)))
    else:
        read = Tokenizer.from_file(str(tmp_path / "onnx/tokenizer.json")).encode_batch(texts)
    found = without_tensorflow.probabilities(tmp_path / "onnx", read)
    np.testing.assert_allclose(found, answers["probabilities"], atol=1e-4)


def test_a_folder_of_the_hub_is_fetched_once_and_is_of_the_family_that_it_holds(folders, tmp_path, monkeypatch):
    fetch = huggingface_hub.snapshot_download
    backbone_folder.fetched.cache_clear()
    options = options_of("hf://some/xlmr", sha256={"config.json": backbone_folder.sha256(folders / "bert/config.json")})
    with hugging_face_hub.serving({"some/xlmr": folders / "bert"}) as (address, asked):
        here = functools.partial(fetch, endpoint=address, cache_dir=tmp_path)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", here)
        local = options_of(folders / "bert")
        assert families.of(options).digest(options) == families.of(local).digest(local)
        first = len(asked)
        families.of(options).build(options, 2, seed=1)
        assert len(asked) == first
        with pytest.raises(UserError, match=r"'hf://some/other': Hugging Face's hub does not give it: 404"):
            families.of(options_of("hf://some/other"))
