import factories
import pytest
from huggingface_hub import ModelCard as HubCard

from bertline.components import markdown, model_card
from bertline.components.options import CardOptions, CompressOptions
from bertline.components.review_page import page
from bertline.models.recipe import ModelOptions, TrainOptions

MOODS = ["negative", "neutral", "positive"]


def rendered(
    classes=MOODS,
    verdicts=None,
    ingest=None,
    train=None,
    compress=None,
    training=None,
    members=1,
    compression=None,
    pretraining=None,
    **words,
):
    evidence = factories.review_evidence(classes, 300)
    trained = {**evidence.training, **(training or {})}
    config = {
        "name": "reviews",
        "data": {"source": ["reviews.csv"]},
        "model": ModelOptions(max_length=8).model_dump(),
        "train": TrainOptions(**(train or {})).model_dump(),
        "compress": CompressOptions(**(compress or {})).model_dump(),
        "card": CardOptions(**words).model_dump(),
    }
    return model_card.render(
        config,
        evidence.release,
        metrics=evidence.metrics,
        verdicts=evidence.verdicts if verdicts is None else verdicts,
        training={**trained, "members": [trained] * members},
        export=evidence.export,
        ingest={**evidence.ingest, **(ingest or {})},
        texts=evidence.texts,
        compression=compression,
        pretraining=pretraining,
    ), evidence.metrics


def test_the_front_matter_is_hugging_faces():
    card, metrics = rendered(license="apache-2.0", languages=["en"])
    data = HubCard(card).data
    assert (data.model_name, data.license, data.language) == ("reviews", "apache-2.0", ["en"])
    assert data.pipeline_tag == "text-classification"
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found["Accuracy"] == pytest.approx(metrics.accuracy, abs=1e-6)
    assert found["Macro F1"] == pytest.approx(metrics.macro_f1, abs=1e-6)
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_an_ensemble_is_named_with_its_seeds():
    card, _ = rendered(members=3)
    assert "- **Ensemble:** 3 trainings with the seeds 17 to 19, each as below; the probabilities are the mean" in card
    assert "Ensemble" not in rendered()[0]
    assert "- **Training:** 2 epochs of at most 3, the weights of epoch 2 kept; learning rate" in rendered()[0]


def test_what_nobody_has_written_is_said_plainly():
    card, _ = rendered()
    for key in ("intended_use", "out_of_scope", "limits", "owners", "license", "weights_license", "data_license"):
        assert f"obody has written this (`card.{key}` in the config)" in card
    assert "- **Languages:** unknown" in card
    assert HubCard(card).data.license == "unknown"


def test_the_method_and_the_ranks_that_it_left():
    assert "Method:" not in rendered()[0]
    figures = {"weights": 22_713_216, "trained_weights": 340_000, "ranks": {"0/query": 12, "0/up": 3}}
    card, _ = rendered(train={"method": "adalora"}, training=figures)
    assert "- **Method:** adalora, which trained 340,000 numbers; the network has 22,713,216\n" in card
    assert "- **Ranks that the method left:** 0/query 12, 0/up 3\n" in card


def test_the_labels_as_the_files_spell_them():
    entries = [{"from": "pos\u200b", "to": "pos", "rows": 1234}, {"from": "n/a", "to": None, "rows": 0}]
    card, _ = rendered(ingest={"label_map": entries, "doubts": {"rows with a doubt": 7}})
    assert "| 'pos\\\\u200b' | pos | 1,234 |\n| 'n/a' | left out | 0 |\n" in card
    assert "- **Read with a doubt:** 7 rows with a doubt\n" in card
    assert "as the files spell them" not in rendered()[0]


def test_a_persons_words_stand_in_their_places():
    card, _ = rendered(intended_use="Sorting reviews.", limits="Irony.", owners=["A. Person <a@example.com>"])
    assert "## Intended use\n\nSorting reviews.\n" in card
    assert "## Limits and risks\n\nIrony.\n" in card
    assert r"- **Owners:** A. Person \<a@example.com\>" in card


def test_figures_have_their_intervals():
    card, metrics = rendered()
    low, high = metrics.intervals.accuracy
    assert f"| Accuracy | {metrics.accuracy:.3f} | {low:.3f} to {high:.3f} |" in card
    assert f"| positive | {metrics.per_class['positive'].precision:.3f} |" in card
    assert f"| shop=north | 120 | {metrics.slices['shop=north'].accuracy:.3f} |" in card
    assert "No groups of people are named in the config" in card
    assert "2.5 MB as a TensorFlow SavedModel in float32" in card


def test_fairness_gates_are_reported_where_there_are_any():
    gap = {**factories.verdict("equal opportunity across shop <= 0.1", "0.040"), "kind": "fairness.equal_opportunity"}
    card, _ = rendered(verdicts=[gap])
    assert "- equal opportunity across shop \\<= 0.1: 0.040 (0.400 to 0.600), passed" in card


def test_hostile_labels_do_nothing_on_the_card_or_on_the_page():
    hostile = ["<img src=x onerror=alert(1)>", "a | b [x](javascript:alert(1))", "---\n# title"]
    card, _ = rendered(classes=hostile)
    assert HubCard(card).data.model_name == "reviews"
    html = page.render(factories.review_evidence(MOODS, 60, card=card), "today")
    assert html.count("<h1") == 1
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert "a | b [x](javascript:alert(1))" in html


def test_a_student_tells_of_its_teacher():
    card, _ = rendered(compression=factories.compression_report())
    assert "its teacher, that was trained on the same rows: 7,210 of 30,522 wordpieces" in card
    assert "| This model | 0.840 | 0.840 | 5.0 ms | 640 | 30.0 MB |" in card
    assert "| The teacher | 0.850 | 0.850 | 10.0 ms | 320 | 90.0 MB |" in card
    for other in (None, factories.compression_report(smaller_by=4)):  # then the card is the teacher's own
        assert "teacher" not in rendered(compression=other)[0]


@pytest.mark.parametrize(
    ("family", "tag", "words"),
    [
        ("static", "static", "- **Architecture:** token embeddings (256 numbers each"),
        ("bilstm", "bilstm", "- **Architecture:** embedding (100) and bidirectional LSTM"),
    ],
)
def test_a_student_of_another_family_is_described_itself_and_its_teacher_beside_it(family, tag, words):
    figures = {"weights": 22_713_216, "trained_weights": 340_000}
    common = {"train": {"method": "lora"}, "compress": {"family": family}, "training": figures}
    card, _ = rendered(compression=factories.compression_report(), **common)
    assert words in card
    assert tag in HubCard(card).data.tags
    assert "bert" not in HubCard(card).data.tags
    own = CompressOptions(family=family).distill
    assert f"epochs of at most {own.epochs}, the weights" in card
    assert f"kept; learning rate {own.learning_rate:g}, batches of" in card
    assert "Method:" not in card
    teacher = f"- **Its teacher:** BERT, fine-tuned from {markdown.plain(ModelOptions().backbone)}; lora, learning rate"
    assert teacher in card
    kept, _ = rendered(compression=factories.compression_report(smaller_by=4), **common)  # the teacher goes on
    assert "bert" in HubCard(kept).data.tags
    assert "- **Method:** lora" in kept


def test_a_student_with_fewer_layers_has_the_recipe_of_its_distillation():
    distill = {"epochs": 5, "learning_rate": 0.0003}
    card, _ = rendered(compression=factories.compression_report(), compress={"layers": 2, "distill": distill})
    assert "- **Architecture:** BERT, fine-tuned from" in card
    assert "epochs of at most 5, the weights of epoch 2 kept; learning rate 0.0003" in card
    card, _ = rendered(compression=factories.compression_report(), compress={"vocabulary": "used"})
    assert "epochs of at most 3, the weights of epoch 2 kept; learning rate" in card  # the teacher's own training


def test_where_training_rows_without_labels_of_people_came_from():
    sure, _ = rendered(train={"unlabelled": "more.csv", "pseudo_threshold": 0.9})
    assert "from more.csv, those that the probe was sure of (probability 0.9 or more)\n" in sure
    spread, _ = rendered(train={"unlabelled": "more.csv", "pseudo_labels": "spread"})
    assert "from more.csv, all of them, with labels that spread from the training rows" in spread
    assert "was sure of" not in spread


def test_what_training_added_to_the_rows_and_the_weights():
    figures = {"texts": 12000, "epochs": 3, "loss_before": 3.21, "loss": 2.4}
    recipe = {"augment": {"operations": ["swap", "delete"], "variants": 2}}
    card, _ = rendered(train=recipe, pretraining=figures)
    assert (
        "masked language model on 12,000 texts without labels, 3 epochs; the loss on other texts went from 3.210"
        in card
    )
    assert "at most 2 of each, by swap, delete; validation and test rows are as they came in" in card
    plain, _ = rendered()
    assert "pre-training" not in plain
    assert "made of others" not in plain
