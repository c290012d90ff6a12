import json
import re

import factories
import numpy as np
import pytest
from tfx.types import standard_artifacts

from bertline.components import explainer
from bertline.components.answers import read_answers, write_answers
from bertline.components.artifacts import Attributions, Weights
from bertline.components.evaluation import write_metrics
from bertline.components.review_page import attributions, figures, page
from bertline.errors import UserError
from bertline.models.bert import backbone, classifier

MOODS = list(factories.MOODS)
KEYWORDS = {"awful": 0, "ordered": 1, "great": 2}
# Three answers are wrong, the surest of them the last one.
ROWS = [
    ("it was great", "negative"),
    ("it was awful", "negative"),
    ("ordered and ordered", "positive"),
    ("great great the <b>great</b>", "neutral"),
]
HOSTILE = '<script>alert("x")</script>'


def evaluated(folder, rows, probabilities, classes=MOODS, pairs=None):
    """What the Evaluator leaves of rows and their probabilities."""
    scores = np.array(probabilities, np.float32)
    columns = {
        "row_id": [f"row-{number}" for number in range(len(rows))],
        "text": [text for text, _ in rows],
        "text_pair": pairs or [""] * len(rows),
    }
    labels = [classes.index(label) for _, label in rows]
    answers = factories.answers(classes, labels, scores.argmax(-1), scores, columns=columns)
    write_answers(str(folder), answers)
    write_metrics(str(folder), factories.metrics(answers))
    return artifact(standard_artifacts.ModelEvaluation, folder)


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    return made


def transform_graph(folder, names):
    """The part of a TransformGraph that says which features rows have."""
    (folder / "transformed_metadata").mkdir(parents=True)
    features = "".join(f'feature {{ name: "{name}" type: INT }}\n' for name in names)
    (folder / "transformed_metadata/schema.pbtxt").write_text(features)
    return artifact(standard_artifacts.TransformGraph, folder)


def trained(folder, options, keywords=KEYWORDS):
    return artifact(Weights, factories.trained_weights(folder, options, keywords))


def explained(folder, options, evaluation, graph, weights, temperature=1.0):
    found = artifact(Attributions, folder / "attributions")
    (folder / "attributions").mkdir()
    explainer.Explainer.test_call(
        weights=weights,
        model=artifact(standard_artifacts.Model, factories.write_export_record(folder / "model", temperature)),
        transform_graph=graph,
        evaluation=evaluation,
        attributions=found,
        model_options=options.model_dump_json(),
    )
    return found, json.loads((folder / "attributions/attributions.json").read_text())["rows"]


def strongest(found, text):
    word = max(found["words"], key=lambda word: word["value"])
    return text[word["start"] : word["end"]]


def test_the_rows_that_the_page_shows_are_explained(tmp_path):
    options = factories.tiny_model_options(tmp_path, dropout=0.0)
    probabilities = [[0.2, 0.1, 0.7], [0.9, 0.05, 0.05], [0.1, 0.6, 0.3], [0.0, 0.1, 0.9]]
    evaluation = evaluated(tmp_path / "evaluation", ROWS, probabilities)
    graph = transform_graph(tmp_path / "graph", ["token_ids"])
    artifact, rows = explained(tmp_path, options, evaluation, graph, trained(tmp_path / "weights", options))
    shown = figures.confidently_wrong(read_answers(evaluation.uri, MOODS))
    assert list(rows) == [row["row_id"] for row in shown] == ["row-3", "row-0", "row-2"]
    assert [row["label"] for row in rows.values()] == ["positive", "positive", "neutral"]
    assert strongest(rows["row-0"], ROWS[0][0]) == "great"
    assert strongest(rows["row-2"], ROWS[2][0]) == "ordered"
    for row in rows.values():
        assert row["complete"]
        total = sum(word["value"] for word in row["words"])
        assert total + row["residual"] == pytest.approx(row["score"] - row["reference"])
    summary = artifact.get_string_custom_property("summary")
    assert re.fullmatch(r"3 wrong answers explained in [\d.]+ s, words add up to within [\d.]+%", summary)


def test_pairs_are_explained_in_both_texts(tmp_path):
    options = factories.tiny_model_options(tmp_path, dropout=0.0)
    rows = [("the item", "negative"), ("the item", "negative")]
    pairs = ["it was great", "awful"]
    evaluation = evaluated(tmp_path / "evaluation", rows, [[0.2, 0.1, 0.7], [0.8, 0.1, 0.1]], pairs=pairs)
    graph = transform_graph(tmp_path / "graph", ["token_ids", "segment_ids"])
    _, found = explained(tmp_path, options, evaluation, graph, trained(tmp_path / "weights", options))
    words = found["row-0"]["words"]
    assert [(word["part"], word["start"], word["end"]) for word in words[1:3]] == [(0, 4, 8), (1, 0, 2)]
    assert max(words, key=lambda word: word["value"]) == words[4]  # great


def test_scores_are_those_of_the_served_temperature(tmp_path):
    options = factories.tiny_model_options(tmp_path, dropout=0.0)
    weights = factories.trained_weights(tmp_path / "weights", options, KEYWORDS)
    answers = []
    for temperature in (1.0, 2.0):
        model = factories.write_export_record(tmp_path / f"model-{temperature}", temperature)
        asked = explainer.load(str(weights), str(model), options)
        answers.append(asked.probabilities([asked.read("it was great")])[0])
    halved = np.sqrt(answers[0])
    np.testing.assert_allclose(answers[1], halved / halved.sum(), atol=1e-5)


def test_seventy_seven_classes(tmp_path):
    options = factories.tiny_model_options(tmp_path, dropout=0.0)
    classes = [f"intent {number}" for number in range(77)]
    model = classifier.build(backbone.load(options), 77, dropout=0.0, seed=1)
    classifier.save(model, tmp_path / "weights", classes, backbone_digest=backbone.digest(options))
    evaluation = evaluated(tmp_path / "evaluation", [("it was great", "intent 0")], [np.eye(77)[5]], classes)
    graph = transform_graph(tmp_path / "graph", ["token_ids"])
    _, rows = explained(tmp_path, options, evaluation, graph, artifact(Weights, tmp_path / "weights"))
    assert (rows["row-0"]["label"], rows["row-0"]["complete"]) == ("intent 5", True)
    assert rows["row-0"]["score"] == pytest.approx(np.log(1 / 76), abs=1)  # a head drawn at random knows nothing


def test_without_a_wrong_answer_no_model_is_loaded(tmp_path):
    options = factories.tiny_model_options(tmp_path)
    evaluation = evaluated(tmp_path / "evaluation", ROWS[1:2], [[0.9, 0.05, 0.05]])
    nothing = artifact(Weights, tmp_path / "nothing")
    found, rows = explained(tmp_path, options, evaluation, artifact(standard_artifacts.TransformGraph, ""), nothing)
    assert rows == {}
    assert found.get_string_custom_property("summary") == "no wrong answer to explain"


def test_weights_or_words_that_are_gone_are_named(tmp_path):
    options = factories.tiny_model_options(tmp_path)
    places = str(tmp_path), str(factories.write_export_record(tmp_path / "model"))
    with pytest.raises(UserError, match=r"holds no classifier\.json"):
        explainer.load(*places, options)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt': there is no such file"):
        explainer.load(*places, options)


# === On the page ===


def words_of(text, values, part=0):
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    return [
        {"part": part, "start": start, "end": end, "value": value}
        for (start, end), value in zip(spans, values, strict=True)
    ]


def attribution(words, **changes):
    return {
        "label": "good", "score": 2.0, "reference": -1.0, "residual": 0.01, "complete": True, "words": words, **changes
    }  # fmt: skip


def row(text, pair=""):
    return {"row_id": "one", "text": text, "text_pair": pair}


def test_words_are_tinted_by_sign_and_strength():
    text = " not  bad at all, honest"
    found = attribution(words_of(text, [-1.0, 2.0, 0.01, 0.5, None]))
    (shown,) = attributions.explained([row(text)], {"one": found})
    (pieces,) = shown["parts"]
    assert "".join(piece.text for piece in pieces) == text
    assert [(piece.text, piece.tint) for piece in pieces if piece.text.strip()] == [
        ("not", "against d5"), ("bad", "for d10"), ("at", ""), ("all,", "for d2"), ("honest", "unread")
    ]  # fmt: skip
    assert [(each["word"], each["value"]) for each in shown["why"]["named"]] == [
        ("bad", 2.0), ("not", -1.0), ("all,", 0.5)
    ]  # fmt: skip
    assert shown["why"]["unread"] == 1


def test_where_no_word_says_much_none_is_tinted():
    (shown,) = attributions.explained([row("a b")], {"one": attribution(words_of("a b", [0.004, -0.002]))})
    assert [piece.tint for piece in shown["parts"][0]] == ["", "", ""]
    assert shown["why"]["named"] == []


def test_the_texts_of_a_pair_stand_apart():
    found = attribution([*words_of("a b", [1.0, 0.0]), *words_of("c", [-1.0], part=1)])
    (shown,) = attributions.explained([row("a b", "c")], {"one": found})
    assert [[piece.tint for piece in part] for part in shown["parts"]] == [["for d10", "", ""], ["against d10"]]


def test_a_row_without_attributions_is_shown_as_it_is():
    (shown,) = attributions.explained([row("a b", "c")], {})
    assert shown["why"] is None
    assert [[piece.text for piece in part] for part in shown["parts"]] == [["a b"], ["c"]]


def test_hostile_words_stay_words_and_nothing_is_styled_in_line():
    texts = [f"{HOSTILE} fine"] * 30
    evidence = factories.review_evidence(["no", "yes"], 30, texts=texts)
    wrong = figures.confidently_wrong(evidence.answers)
    words = words_of(texts[0], [2.0, -1.0])
    found = {
        each["row_id"]: attribution(words, label=each["answered"], complete=False, residual=-0.4) for each in wrong
    }
    html = page.render(factories.review_evidence(["no", "yes"], 30, texts=texts, attributions=found), "today")
    assert html.count("<script") == 1
    assert "style=" not in html
    assert '<span class="for d10">&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;</span>' in html
    cell = factories.page_tables(html)["wrong-table"][0][0]
    assert cell == f"{texts[0]}to {wrong[0]['answered']}: {HOSTILE} +2.00, fine -1.00; off by 0.40 in sum"
