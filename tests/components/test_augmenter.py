"""The stage that makes variants of training rows, and the Trainer's check of them."""

import sys
from collections import Counter

import pytest
import tensorflow as tf
from factories import raw_examples, tiny_model_options, transformed

from bertline.components import spreadsheet, trainer, variants
from bertline.components.artifacts import Variants
from bertline.components.augmenter import Augmenter
from bertline.errors import UserError
from bertline.models import dataset
from bertline.models.bert import backbone
from bertline.models.bert.tokenizer import Tokenizer
from bertline.models.recipe import AugmentOptions, TrainOptions

# Two words: the one swap that there is makes the text of a test row of the first, and of the third a training row's.
TRAIN = [("late package", "bad"), ("great item", "good"), ("love it", "good"), ("it love", "good"), ("awful", "bad")]
TEST = [("package late", "bad")]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augment")
    options = tiny_model_options(folder)
    splits = {"train": TRAIN, "validation": [("my item", "good")], "test": TEST}
    examples, schema = raw_examples(folder, splits, ["bad", "good"])
    graph, _ = transformed(folder, options, examples, schema)
    return options, examples, graph


def augment(line, folder, **recipe):
    model, examples, graph = line
    made = Variants()
    made.uri = str(folder)
    folder.mkdir(exist_ok=True)
    options = AugmentOptions(**recipe)
    Augmenter.test_call(
        examples=examples,
        transform_graph=graph,
        variants=made,
        options=options.model_dump_json(),
        model_options=model.model_dump_json(),
        precision="float32",
        base_folder=str(folder),
    )
    return made, spreadsheet.read(f"{made.uri}/variants.csv")


def test_variants_are_new_texts_with_the_label_of_their_row(line, tmp_path):
    made, told = augment(line, tmp_path / "made", operations=["swap"], variants=2)
    assert [(row["original"], row["text"], row["operation"]) for row in told] == [("great item", "item great", "swap")]
    summary = made.get_string_custom_property("summary")
    assert summary == (
        "1 variants of 5 training rows: 1 swap; 9 left out: 7 because its text is a row already, 2 because the "
        "operation had nothing to change"
    )
    rows = dataset.read_rows(tmp_path / "made" / "Split-train", pair=False)
    words = backbone.vocabulary(line[0])
    ids, _ = Tokenizer(words.path, lowercase=True, max_length=16)(tf.constant(["item great"]))
    assert rows.token_ids.to_list() == ids.to_list()
    assert rows.labels.tolist() == [1]


def test_operations_take_turns_and_all_is_drawn_alike_again(line, tmp_path):
    recipe = {"operations": ["keyboard", "characters", "delete"], "variants": 6, "share": 0.5}
    _, first = augment(line, tmp_path / "first", **recipe)
    _, again = augment(line, tmp_path / "again", **recipe)
    _, other = augment(line, tmp_path / "other", **recipe, seed=18)
    assert first == again
    assert {row["text"] for row in first} != {row["text"] for row in other}
    counts = Counter(row["operation"] for row in first)
    assert set(counts) == set(recipe["operations"])
    assert max(Counter(row["original"] for row in first).values()) <= 6
    places = [TRAIN.index((row["original"], dict(TRAIN)[row["original"]])) for row in first]
    assert places == sorted(places)


def test_a_command_writes_variants(line, tmp_path):
    code = "import sys\nfor line in sys.stdin: print('', end='\\n') if 'love' in line else print('my', line.strip())"
    _, told = augment(line, tmp_path / "made", operations=["command"], command=[sys.executable, "-c", code])
    assert [row["text"] for row in told] == ["my late package", "my great item", "my awful"]


def test_without_one_variant_of_use_the_run_stops(line, tmp_path):
    code = "import sys\nfor line in sys.stdin: print(line.strip())"
    with pytest.raises(UserError, match="none of 5 variants is of use: 5 because its text is a row already"):
        augment(line, tmp_path / "made", operations=["command"], command=[sys.executable, "-c", code], variants=1)


def test_both_texts_of_a_pair_are_changed_and_several_labels_stay(tmp_path):
    rows = [("my late package", "the great item", ["bad", "good"]), ("love the item", "awful it was", [])]
    splits = {"train": rows, "validation": rows[:1], "test": rows[:1]}
    examples, schema = raw_examples(tmp_path, splits, ["bad", "good"])
    options = tiny_model_options(tmp_path)
    graph, _ = transformed(
        tmp_path, options, examples, schema, pair=True, multi_label={"separator": "|", "empty": "no_label"}
    )
    _, told = augment((options, examples, graph), tmp_path / "made", operations=["delete"], variants=1)
    for (text, pair, _), row in zip(rows, told, strict=True):
        assert (len(row["text"].split()), len(row["text_pair"].split())) == (2, 2)
        assert set(row["text"].split()) < set(text.split())
        assert set(row["text_pair"].split()) < set(pair.split())
    read = dataset.read_rows(tmp_path / "made" / "Split-train", pair=True, labels=2)
    assert read.labels.tolist() == [[1, 1], [0, 0]]
    twice = dataset.joined(read, read)
    assert twice.labels.tolist() == [[1, 1], [0, 0]] * 2
    assert twice.segment_ids.to_list() == read.segment_ids.to_list() * 2
    assert twice.token_ids.to_list() == read.token_ids.to_list() * 2


def test_the_trainer_refuses_variants_of_another_recipe():
    made, options = Variants(), AugmentOptions(operations=["swap"])
    made.set_string_custom_property(variants.OPTIONS, options.model_dump_json())
    assert trainer.more_rows(TrainOptions(augment=options), made, None) == [made.uri]
    assert trainer.more_rows(TrainOptions(), None, None) == []
    other = AugmentOptions(operations=["delete"])
    for augment, given in ((None, made), (other, made), (options, None)):
        with pytest.raises(UserError, match="compiled with another"):
            trainer.more_rows(TrainOptions(augment=augment), given, None)
