import csv
import json
from dataclasses import replace

import keras_hub
import numpy as np
import pytest
from factories import reviews, tiny_model_options

from benchmarks.recipes import __main__ as command
from benchmarks.recipes import document, methods, picture, results, sets
from benchmarks.recipes.cells import cells_of
from bertline.errors import UserError
from bertline.models.bert import backbone
from bertline.models.recipe import TrainOptions
from bertline.pipeline.init.recipe import RULES

TINY = "full {epochs: 1, learning_rate: 0.01, precision: float32}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT in `bert`, whose folder asks for the mean of the tokens, and reviews in `reviews.csv`."""
    folder = tmp_path_factory.mktemp("recipes")
    words = backbone.vocabulary(tiny_model_options(folder)).path.read_text()
    bert = folder / "bert"
    backbone.load(tiny_model_options(folder)).save_to_preset(bert)
    keras_hub.models.BertTokenizer(words.split(), lowercase=True).save_to_preset(bert)
    (bert / "vocab.txt").write_text(words)
    modules = {"0_Transformer": "a.Transformer", "1_Pooling": "a.Pooling"}
    (bert / "modules.json").write_text(json.dumps([{"type": kind, "path": path} for path, kind in modules.items()]))
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling/config.json").write_text('{"pooling_mode": "mean"}')
    write(folder / "reviews.csv", [(text, label) for text, label, _ in reviews(400)])
    (folder / "page.md").write_text(f"# Recipes\n\n{document.BEGIN}\n{document.END}\n\nBy hand.\n")
    return folder


def write(file, rows, header=("text", "label")):
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def run(folder, *more):
    given = [f"moods={folder / 'reviews.csv'}", "--results", str(folder / "results.jsonl"), "--page"]
    given += [str(folder / "page.md"), "--backbone", str(folder / "bert"), "--threads", "0", "--sizes", "20/label"]
    return command.main([*given, "--methods", "probe", TINY, *more])


def test_a_stopped_run_goes_on_and_writes_the_page(folder, capsys):
    assert run(folder, "--seeds", "17") == 0
    file = folder / "results.jsonl"
    first = file.read_text()
    figures = {name: each for (*_, name), each in results.read(file).items()}
    assert set(figures) == {"probe", TINY}
    assert figures["probe"].accuracy > 0.6  # the mean of random word vectors tells which words a text has
    assert (figures["probe"].train_rows, figures["probe"].weights, figures[TINY].labels) == (60, 3 * 64 + 3, 3)
    assert figures[TINY].weights > 20_000 and figures[TINY].note == "epoch 1 of 1"
    assert figures["probe"].hits().mean() == figures["probe"].accuracy

    assert run(folder, "--seeds", "17") == 0
    assert file.read_text() == first
    file.write_text(first.splitlines(keepends=True)[0])  # as if it had been killed after the first trial
    assert run(folder, "--seeds", "17") == 0
    again = results.read(file)
    assert {key: each.right for key, each in again.items()} == {each.key: each.right for each in figures.values()}

    page = (folder / "page.md").read_text()
    assert page.startswith("# Recipes\n") and page.endswith("\n\nBy hand.\n")
    assert f"| 60 | probe | {figures['probe'].accuracy:.3f} |" in page
    assert (folder / "page.svg").read_text().startswith("<svg")
    assert "1 trials to run, 1 results" in capsys.readouterr().out

    assert run(folder, "--seeds", "18", "--minutes", "0") == 0
    assert "0 minutes are over: 2 trials are left" in capsys.readouterr().out
    assert results.read(file) == again


def test_an_ensemble_is_one_trial(folder):
    ensemble = TINY.replace("}", ", ensemble: 2}")
    assert run(folder, "--seeds", "17", "--methods", TINY, ensemble, "--results", str(folder / "ensemble.jsonl")) == 0
    figures = {name: each for (*_, name), each in results.read(folder / "ensemble.jsonl").items()}
    assert figures[methods.name_of(methods.recipe_of(ensemble))].weights == 2 * figures[TINY].weights


def test_rows_of_a_trial(folder):
    data = sets.read(f"moods={folder / 'reviews.csv'}")
    assert (len(data.pool), len(data.test)) == (267, 133)
    for size, rows in (("8/label", 24), ("100", 100), ("all", 241)):
        size = sets.Size.parse(size)
        train, validation = sets.split(data, size, 17)
        assert len(train) == rows
        assert len({*train, *validation, *data.test}) == len(train) + len(validation) + len(data.test)
        assert set(data.labels[train]) == {0, 1, 2}
        assert np.array_equal(sets.split(data, size, 17).train, train)
        assert not np.array_equal(sets.split(data, size, 18).train, train)
    with pytest.raises(UserError, match="are not the 1,250 that 1000 asks for"):
        sets.split(data, sets.Size.parse("1000"), 17)


def test_a_rare_label_is_always_trained_on(tmp_path):
    rows = [(f"text {number}", "rare" if number == 7 else "common") for number in range(90)]
    test = write(tmp_path / "test.csv", [("another", "rare"), ("text 3", "common"), ("third", "unknown")])
    data = sets.read(f"a={write(tmp_path / 'train.csv', rows)},{test}")
    # A text that is tested is not trained on, and a label that no training row has is not asked for.
    assert [data.texts[place] for place in data.test] == ["another", "text 3"]
    assert "text 3" not in [data.texts[place] for place in data.pool] and len(data.pool) == 89
    for seed in range(5):
        assert data.names.index("rare") in data.labels[sets.split(data, sets.Size(10), seed).train]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("tweets.csv", "write NAME=FILE"),
        ("a=missing.csv", "missing.csv: there is no such file"),
        ("a={folder}/other.csv", "other.csv: a CSV file with the columns text and label is needed"),
        ("a={folder}/one.csv", "it takes two labels"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path, argument, words):
    write(tmp_path / "other.csv", [("a", "b")], header=("tweet", "label"))
    write(tmp_path / "one.csv", [("a", "b"), ("c", "b")])
    with pytest.raises(UserError, match=words):
        sets.read(argument.format(folder=tmp_path))


def test_a_recipe_has_one_name():
    written = "lora {learning_rate: 1e-3, pooling: cls, lora: {targets: [key]}, seed: 5}"
    name = methods.name_of(methods.recipe_of(written))
    assert name == "lora {epochs: 3, learning_rate: 0.001, lora: {targets: [key]}, pooling: cls}"
    assert methods.recipe_of(name).train.learning_rate == 1e-3
    assert methods.name_of(methods.recipe_of("probe {weights: english}")) == "probe"
    assert methods.name_of(methods.recipe_of("probe {weights: multilingual}")) == methods.probe_of(foreign=True)
    assert methods.name_of(methods.Recipe(TrainOptions(method="probe", epochs=9))) == "probe"
    for wrong in (
        "full {epoch: 2}",
        "fine-tuning",
        "full {epochs",
        "full 3",
        "full {pooling: max}",
        "probe {weights: x}",
    ):
        with pytest.raises(UserError, match="is no recipe"):
            methods.recipe_of(wrong)


# === The page ===


RULE = RULES[0]
BY_INIT = methods.name_of(methods.Recipe(RULE.options))


def result(method, right, *, seed=17, size="8/label", **more):
    right = np.array(right)
    figures = {"accuracy": right.mean(), "macro_f1": 0.5, "seconds": 3.0, "weights": 1000}
    about = {"set": "tweets", "size": size, "seed": seed, "method": method, "labels": 2, "train_rows": 16, "tokens": 9}
    return results.Result(**about | figures | more, right=results.packed(right), test_rows=len(right))


def test_a_difference_has_the_error_of_its_rows():
    # of 100 rows ours has 80 right, the probe the first 60: 20 differ, sqrt(0.2 * 0.8 / 99) = 0.0402
    rows = [result(BY_INIT, [1] * 80 + [0] * 20), result("probe", [1] * 60 + [0] * 40)]
    (cell,) = cells_of([*rows, result("probe", [1] * 100, seed=18)])  # a seed that ours lacks does not count
    assert cell.difference(BY_INIT, "probe") == pytest.approx((0.2, 0.0402), abs=1e-4)
    assert cell.difference(BY_INIT, "tfidf") is None
    assert (cell.mean("probe"), cell.spread(BY_INIT)) == (0.8, None)


def measured(right):
    rows = [result("tfidf", [1] * 50 + [0] * 50), result("probe", [1] * 60 + [0] * 40)]
    return document.measured(cells_of([*rows, result(BY_INIT, [1] * right + [0] * (100 - right))]), "page")


@pytest.mark.parametrize(
    ("right", "row"),
    [
        (80, "0.800 | probe (no Transformers) | +20.0 | 4.0 | above |"),
        (60, "0.600 | probe (no Transformers) | +0.0 | 0.0 | level |"),
        (40, "0.400 | probe (no Transformers) | -20.0 | 4.0 | below |"),
    ],
)
def test_the_page_says_where_the_recipe_of_init_is_above_and_below(right, row):
    page = measured(right)
    assert row in page
    assert f"| {RULE.name} | {document.described(BY_INIT)} | tweets 8/label |" in page
    assert "0 where all three were measured" in page


def test_texts_in_another_language_are_judged_with_the_weights_that_init_proposes():
    by_init = methods.by_init(16, 2, foreign=True)
    rows = [result("probe", [1] * 90 + [0] * 10), result(methods.probe_of(foreign=True), [1] * 60 + [0] * 40)]
    cells = cells_of([replace(each, foreign=True) for each in (*rows, result(by_init, [1] * 80 + [0] * 20))])
    page = document.measured(cells, "page")
    assert "0.800 | probe, multilingual weights (no TF-IDF, Transformers) | +20.0 | 4.0 | above |" in page
    assert picture.tuned(cells[0]) == by_init
    of_english = [result(method, [1, 1, 0], foreign=True) for method in ("probe", BY_INIT)]
    assert picture.tuned(cells_of(of_english)[0]) is None  # what English weights gain says nothing of these


def test_seconds_of_two_machines_are_kept_apart():
    rows = [result("probe", [1, 0], seed=seed, seconds=10.0 * seed, cpu="AMX_BF16") for seed in (1, 3)]
    (cell,) = cells_of([*rows, result("probe", [1, 0], seed=5, seconds=999.0), result("tfidf", [1, 0])])
    assert (cell.seconds("probe"), cell.seconds("tfidf")) == ("20 (AMX_BF16)", "3")


def test_what_was_not_measured_is_not_on_the_page():
    page = document.measured(cells_of([result("probe", [1, 0, 1])]), "page")
    assert "| 16 | probe | 0.667 | 0.500 | 3 | 1,000 | 1 |" in page
    assert page.count("not measured") == len(RULES)
    assert "Transformers |" not in page.partition("### tweets")[2]


def test_a_page_without_its_marks_and_a_line_that_is_no_result_are_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Recipes\n")
    with pytest.raises(UserError, match="measured: begin"):
        document.write([result("probe", [1, 0])], page)
    results.append(tmp_path / "results.jsonl", result("probe", [1, 0]))
    results.append(tmp_path / "results.jsonl", replace(result("probe", [1, 1]), note="again"))
    assert [each.note for each in results.read(tmp_path / "results.jsonl").values()] == ["again"]
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"set": "tweets"')
    with pytest.raises(UserError, match=r"results.jsonl:3: no result of this benchmark"):
        results.read(tmp_path / "results.jsonl")


def test_the_committed_page_is_that_of_the_committed_results():
    page = document.PAGE.read_text(encoding="utf-8")
    cells = cells_of(results.read(command.RESULTS).values())
    between = page.partition(document.BEGIN)[2].partition(document.END)[0]
    assert between == f"\n{document.measured(cells, document.PAGE.stem)}", "run python -m benchmarks.recipes"
