import dataclasses
import io
import json
from types import SimpleNamespace

import factories
import numpy as np
import pytest
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli, explain, lineage
from bertline.pipeline import config as configs
from bertline.pipeline.screen import Screen

KEYWORDS = {"awful": 0, "ordered": 1, "great": 2}
MOODS = list(factories.MOODS)
TEXT = "Great item, and it was AWFUL!"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a run's Trainer, Exporter and Transform left: weights, export.json, and a graph that names the labels."""
    folder = tmp_path_factory.mktemp("run")
    options = factories.tiny_model_options(folder, dropout=0.0)
    factories.trained_weights(folder / "weights", options, KEYWORDS)
    factories.write_export_record(folder / "model")
    (folder / "options.json").write_text(options.model_dump_json())
    (folder / "graph" / "transformed_metadata").mkdir(parents=True)
    (folder / "graph" / "labels.txt").write_text("".join(f"{json.dumps(label)}\n" for label in MOODS))
    graph = 'feature { name: "token_ids" type: INT }\n'
    (folder / "graph" / "transformed_metadata" / "schema.pbtxt").write_text(graph)
    return folder


@pytest.fixture
def found(folder, monkeypatch):
    """The command's answer to arguments, of a run whose files are in the folder."""
    stages = {
        "Trainer": SimpleNamespace(outputs={"weights": [SimpleNamespace(uri=str(folder / "weights"))]}),
        "Exporter": SimpleNamespace(
            outputs={"model": [SimpleNamespace(uri=str(folder / "model"))]},
            parameters={"model_options": (folder / "options.json").read_text()},
        ),
        "Transform": SimpleNamespace(outputs={"transform_graph": [SimpleNamespace(uri=str(folder / "graph"))]}),
    }
    store = SimpleNamespace(stage=lambda run_id, name: stages.get(name))
    monkeypatch.setattr(lineage, "find", lambda task, run_id, name: (store, run_id or "newest"))

    def explained(text, pair=None, label=None, method="integrated-gradients", run_id=None):
        return explain.explain(None, text, pair, label=label, method=method, run_id=run_id)

    return explained


def shown(explanation):
    output = io.StringIO()
    explain.show(explanation, Screen(output, width=100))
    return output.getvalue()


def test_the_predicted_label_is_explained_word_by_word(found):
    explanation = found("Great item, and it was great")
    text = shown(explanation)
    assert text.startswith("positive 0.")
    assert "(run newest)" in text
    words = [line.split() for line in text.splitlines()[2:8]]
    assert [word[0] for word in words] == ["Great", "item,", "and", "it", "was", "great"]
    assert words[0][1].startswith("+")
    assert words[0][2] == "+" * len(words[0][2])
    assert float(words[0][1]) == pytest.approx(explanation.gradients.values[0], abs=1e-3)
    assert "with every word blank" in " ".join(text.split())


def test_another_label_another_run_and_a_second_opinion(found):
    explanation = found(TEXT, label="negative", method="both", run_id="older")
    answer = json.loads(json.dumps(explain.as_dict(explanation)))
    assert (answer["run"], answer["label"]) == ("older", "negative")
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    gradients, lime = answer["integrated_gradients"], answer["lime"]
    assert gradients["complete"]
    for words in (gradients["words"], lime["words"]):
        strongest = max(words, key=lambda word: word["value"])
        assert (strongest["word"], strongest["start"], strongest["end"]) == ("AWFUL!", 23, 29)
        assert words[0]["value"] < 0
    assert 0 < lime["fit"] <= 1
    assert -1 <= answer["agreement"] <= 1
    text = shown(explanation)
    assert "LIME: a linear model of 500 samples" in text
    assert "negative, log-odds" in text


def test_lime_alone(found):
    explanation = found(TEXT, method="lime")
    assert explanation.gradients is None
    assert "integrated_gradients" not in explain.as_dict(explanation)
    assert "LIME, probability" in shown(explanation)


def test_many_words_are_summed_and_words_past_the_end_are_counted(found, monkeypatch):
    monkeypatch.setattr(explain, "SHOWN_WORDS", 2)
    text = shown(found("the item was great and it was my item and the end of it was not read"))
    assert "12 weaker words" in text
    assert "3 words were not read" in text


def test_what_stands_in_the_text_and_labels_is_shown_as_it_stands(found):
    explanation = found("[/eu] [bold]great :warning: it\x1b[2J")
    text = shown(dataclasses.replace(explanation, run_id="[/eu]", labels=["[/eu]", "[bold]", ":warning:"]))
    assert text.startswith(":warning: 0.")
    assert "(run [/eu])" in text
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["[/eu]", "[bold]great", ":warning:", "it"]
    assert "\x1b" not in text


def test_an_incomplete_attribution_says_so(found):
    explanation = found(TEXT)
    values = np.zeros(len(explanation.reading.words))
    broken = explain.attributions.Attribution(label=0, values=values, score=3.0, reference=0.0)
    text = shown(dataclasses.replace(explanation, gradients=broken))
    assert "more than 5%" in text
    assert "take the words with care" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "no word to explain"),
        ({"text": " \n\u3000"}, "no word to explain"),
        ({"text": TEXT, "label": "Negativ"}, "no label 'Negativ'; did you mean 'negative'"),
        ({"text": TEXT, "label": "xyz"}, r"no label 'xyz'\. Its labels: negative, neutral, positive"),
        ({"text": TEXT, "pair": "more"}, "leave out --text-pair"),
    ],
)
def test_what_cannot_be_explained_is_said(found, arguments, message):
    with pytest.raises(UserError, match=message):
        found(**arguments)


def test_without_a_trained_model_there_is_nothing_to_explain(tmp_path):
    config = factories.write_task(tmp_path, [])

    def run(*arguments):
        result = CliRunner().invoke(cli.app, ["explain", str(config), "great", *arguments])
        assert isinstance(result.exception, UserError), result.output
        return str(result.exception)

    assert "no runs yet under" in run()
    task = configs.load(config)
    task.root_folder.mkdir()
    lineage.Store(task).run_ids()  # makes an empty store
    assert run() == "no run has completed its Exporter yet."
    assert "yesterday is no run under" in run("--run", "yesterday")
