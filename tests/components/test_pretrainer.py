"""The stage of further pre-training: which texts it takes, what it leaves, and who takes that."""

import json

import keras_hub
import numpy as np
import pytest
from factories import raw_examples, reviews, tiny_model_options, write_csv

from bertline.components import pretrained, pretrainer
from bertline.components.artifacts import Backbone
from bertline.components.options import DataOptions
from bertline.components.pretrainer import Pretrainer
from bertline.errors import UserError
from bertline.models.bert import backbone, masked_lm
from bertline.models.recipe import ModelOptions, PretrainOptions

ROWS = [(text, label) for text, label, _ in reviews(90)]
SPLITS = {"train": ROWS[:60], "validation": ROWS[60:75], "test": ROWS[75:]}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A folder with texts, a tiny backbone's options, and ingestion's rows."""
    folder = tmp_path_factory.mktemp("pretrain")
    examples, _ = raw_examples(folder, SPLITS, ["negative", "neutral", "positive"])
    more = [*reviews(40, seed=9), *[(text, label, "north") for text, label in ROWS[50:80]], (" ", "", "")]
    write_csv(folder / "more.csv", more, header=("review", "stars", "shop"))
    return folder, tiny_model_options(folder), examples


def pretrain(line, folder, model=None, data=None, **recipe):
    home, options, examples = line
    made = Backbone()
    made.uri = str(folder)
    folder.mkdir()
    Pretrainer.test_call(
        examples=examples,
        backbone=made,
        options=PretrainOptions(**recipe).model_dump_json(),
        model_options=(model or options).model_dump_json(),
        data=(data or DataOptions(source="reviews.csv")).model_dump_json(),
        precision="float32",
        base_folder=str(home),
        checkpoint_dir=str(folder / "checkpoints"),
    )
    return made


@pytest.fixture(scope="module")
def made(line):
    return pretrain(
        line, line[0] / "made", source="more.csv", text="review", epochs=4, learning_rate=0.003, batch_size=8
    )


def test_it_trains_on_each_text_once_and_on_none_that_judges(made):
    told = pretrained.read_record(made.uri)
    # Of the file's 70 texts 20 are rows that judge, and 10 are training rows; one row has no text.
    assert told["texts"] == {
        "read": 130,
        "repeated": 10,
        "held_back": 20,
        "refused": 1,
        "trained": 95,
        "held_out": 5,
    }
    first, *_, last = told["history"]["epochs"]
    assert last["train_loss"] < first["train_loss"]
    summary = made.get_string_custom_property("summary")
    losses = f"{told['before']['loss']:.2f} -> {last['validation_loss']:.2f}"
    assert summary.startswith(f"95 texts, 4 epochs, masked-LM loss {losses} on 5 others, ")
    assert summary.endswith(
        "20 texts left out as validation or test rows, 1 rows without a text, the head began with random weights"
    )


@pytest.mark.parametrize(
    ("joins", "wanted"), [(["title", "body"], "body"), ("body", ["title", "body"])], ids=["task", "pretraining"]
)
def test_a_column_of_a_test_row_is_a_test_text(line, tmp_path, joins, wanted):
    """Ingestion has joined title and body, and the file's bodies are read alone, or the other way round."""
    rows = [(f"good {number}", f"{text} , film {number}") for number, (text, _) in enumerate(ROWS)]
    read = [(" ".join(row) if joins != "body" else row[1], label) for row, (_, label) in zip(rows, ROWS, strict=True)]
    splits = {"train": read[:60], "validation": read[60:75], "test": read[75:]}
    examples, _ = raw_examples(tmp_path, splits, ["negative", "neutral", "positive"])
    write_csv(tmp_path / "all.csv", rows, header=("title", "body"))
    data = DataOptions(source="all.csv", text=joins)
    options = {"source": "all.csv", "text": wanted, "training_rows": False, "steps": 1}
    made = pretrain((tmp_path, line[1], examples), tmp_path / "made", data=data, **options)
    told = pretrained.read_record(made.uri)["texts"]
    assert (told["read"], told["held_back"], told["trained"] + told["held_out"]) == (90, 30, 60)


def test_its_folder_is_a_backbone_that_goes_on(line, made, tmp_path):
    options = pretrained.model_of(line[1], made)
    assert backbone.digest(options) != backbone.digest(line[1])
    network = backbone.load(options)
    reference = keras_hub.models.BertBackbone.from_preset(made.uri, dtype="float32")
    for one, other in zip(network.weights, reference.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert masked_lm.head_of(backbone.local_folder(options)) is not None
    again = pretrain(line, tmp_path / "again", model=options, source="more.csv", text="review", epochs=1, batch_size=8)
    told = pretrained.read_record(again.uri)
    assert told["head"] == "found"
    left = pretrained.read_record(made.uri)["history"]["epochs"][-1]
    assert told["before"]["loss"] == pytest.approx(left["validation_loss"], abs=1e-4)  # of the same texts and masks


def test_pooling_and_pins_of_the_configured_folder(line, made, tmp_path):
    (tmp_path / "weights").mkdir()
    for file in ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / "weights" / file).write_bytes((line[0] / "made" / file).read_bytes())
    modules = [{"type": "x.models.Transformer", "path": ""}, {"type": "x.models.Pooling", "path": "1_Pooling"}]
    (tmp_path / "weights/modules.json").write_text(json.dumps(modules))
    (tmp_path / "weights/1_Pooling").mkdir()
    (tmp_path / "weights/1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    options = ModelOptions(backbone=str(tmp_path / "weights"), max_length=16, sha256={"vocab.txt": "0" * 64})
    with pytest.raises(UserError, match="is not the pinned file"):
        pretrain(line, tmp_path / "refused", model=options)
    options = options.model_copy(update={"sha256": {}})
    after = pretrained.model_of(options, pretrain(line, tmp_path / "after", model=options, epochs=1))
    assert backbone.pooling(after) == backbone.pooling(options)
    assert backbone.pooling(after).kind == "mean"


def test_long_texts_become_several_rows(line):
    text = " ".join(["great late"] * 20)
    rows = pretrainer.tokenised([text, "great"], line[1])
    assert rows.lengths.tolist() == [16, 16, 14, 3]
    inner = [token for row in rows.token_ids.to_list()[:3] for token in row[1:-1]]
    assert len(inner) == 40
    assert len(set(inner)) == 2


def test_too_few_texts_are_named(line, tmp_path):
    with pytest.raises(UserError, match="0 texts are left of 0; 0 are validation or test rows"):
        write_csv(line[0] / "none.csv", [(" ", "", "")], header=("text", "label", "shop"))
        pretrain(line, tmp_path / "made", source=["none.csv"], training_rows=False)
