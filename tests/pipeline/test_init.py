import csv
import json

import numpy
import pytest

from bertline.errors import UserError
from bertline.pipeline import config, init


@pytest.fixture(autouse=True)
def word_lengths(monkeypatch):
    # The default vocabulary comes from a package of examples; a word a token is enough to check what is made of it.
    def lengths(texts):
        return numpy.asarray([2 + sum(len(part.split()) for part in parts) for parts in texts])

    monkeypatch.setattr(init, "token_lengths", lengths)


def write_table(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def reviews(count=100, labels=("good", "poor")):
    for number in range(count):
        yield (
            number,
            f"2026-01-{number % 28 + 1:02}",
            labels[number % len(labels)],
            "web",
            f"I bought item {number} here",
        )


HEADER = ("id", "date", "stars", "channel", "review_body")


@pytest.fixture
def proposal(tmp_path):
    return init.propose(write_table(tmp_path / "My reviews.csv", HEADER, reviews()))


def test_columns_by_name_and_content(proposal):
    assert (proposal.name, proposal.text, proposal.text_pair, proposal.label) == (
        "my-reviews",
        "review_body",
        None,
        "stars",
    )
    assert proposal.labels == {"good": 50, "poor": 50}
    assert proposal.findings == [
        "100 rows; columns: id, date, stars, channel, review_body",
        "text: 'review_body', 21 characters on average",
        "label: 'stars', 2 labels: good 50, poor 50",
    ]


def test_columns_by_content_alone(tmp_path):
    rows = [(number, f"a line of words {number}", number % 3, number / 100) for number in range(60)]
    found = init.propose(write_table(tmp_path / "a.csv", ("c1", "c2", "c3", "c4"), rows))
    assert (found.text, found.label) == ("c2", "c3")


def test_pairs_and_json_lines(tmp_path):
    with open(tmp_path / "a.jsonl", "w") as stream:
        for number in range(40):
            row = {
                "gold": ["yes", "no"][number % 2],
                "premise": f"some premise {number}",
                "hypothesis": f"so {number} is",
            }
            stream.write(json.dumps({**row, "meta": {"nested": number}}) + "\n")
    found = init.propose(tmp_path / "a.jsonl")
    assert (found.text, found.text_pair, found.label) == ("premise", "hypothesis", "gold")


def test_a_folder_a_class(tmp_path):
    for number in range(20):
        folder = tmp_path / "news" / ("sport" if number % 2 else "tech")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"a story of {number}")
    found = init.propose(tmp_path / "news")
    init.write(found, tmp_path / "configs" / "news.yaml")
    options = config.load(tmp_path / "configs" / "news.yaml").data
    assert (options.source, options.format, options.labels) == (["../news"], "folders", ["sport", "tech"])


# === What is written ===


def test_the_config_loads_and_says_what_was_proposed(proposal, tmp_path):
    target = tmp_path / "configs" / "reviews.yaml"
    init.write(proposal, target)
    loaded = config.load(target)
    assert loaded.data.source == ["../My reviews.csv"]
    assert (loaded.data.text, loaded.data.label, loaded.data.labels) == ("review_body", "stars", ["good", "poor"])
    assert (loaded.model.max_length, loaded.model.sha256) == (16, init.PINS)
    # 80 rows are 3 batches; 400 steps would be 134 epochs, of which 40 are allowed.
    assert (loaded.train.epochs, loaded.train.patience, loaded.train.learning_rate) == (40, 8, 5e-5)
    assert loaded.evaluate.gates.beats_majority
    assert loaded.evaluate.gates.accuracy is None
    assert loaded.evaluate.gates.slices.not_worse_by == 0.02
    assert loaded.evaluate.gates == type(loaded.evaluate.gates)()  # what is written out are the defaults


def test_labels_that_yaml_would_take_for_other_things(tmp_path):
    rows = [(f"some words {number}", ["no", "yes", "1", "2026-01-01"][number % 4]) for number in range(80)]
    init.write(init.propose(write_table(tmp_path / "a.csv", ("text", "label"), rows)), tmp_path / "a.yaml")
    assert config.load(tmp_path / "a.yaml").data.labels == ["1", "2026-01-01", "no", "yes"]


def test_a_config_is_replaced_only_on_request(proposal, tmp_path):
    target = tmp_path / "a.yaml"
    target.write_text("mine")
    with pytest.raises(UserError, match=r"a.yaml exists already; --force"):
        init.write(proposal, target)
    assert target.read_text() == "mine"
    init.write(proposal, target, force=True)
    assert config.load(target).name == "my-reviews"


# === The numbers ===


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        (30_000, 3, (2, 5e-5)),  # 938 steps an epoch
        (6_000, 3, (3, 5e-5)),  # 188 steps an epoch, 400 wanted
        (8_000, 77, (10, 1e-4)),  # 250 steps an epoch, 2,464 wanted
        (100, 2, (40, 5e-5)),  # 4 steps an epoch
    ],
)
def test_epochs_and_rate_follow_rows_and_labels(rows, labels, expected):
    assert init.propose_recipe(rows, labels) == expected


def test_max_length_covers_99_percent_and_fits_the_backbone():
    assert init.propose_max_length(numpy.asarray([20] * 99 + [400])) == 32
    assert init.propose_max_length(numpy.asarray([20] * 50 + [33] * 50)) == 48
    assert init.propose_max_length(numpy.asarray([2000] * 100)) == 512


def test_warnings_of_imbalance_and_rare_labels():
    assert init.label_warnings({"a": 100, "b": 90}) == []
    imbalance, few = init.label_warnings({"a": 1000, "b": 5, "c": 200})
    assert imbalance.startswith("imbalance: 1,000 rows of 'a' for 5 of 'b'")
    assert few.startswith("1 labels have fewer than 10 rows (b)")


# === Bytes ===


def test_a_file_in_another_encoding_is_read_not_refused(tmp_path):
    rows = "".join(f"caf\xe9 na\xefve {number},{'ab'[number % 2]}\n" for number in range(50))
    (tmp_path / "a.csv").write_bytes(("text,label\n" + rows).encode("latin-1"))
    found = init.propose(tmp_path / "a.csv")
    assert found.on_bad_bytes == "replace" or found.encoding != "utf-8"
    assert found.warnings[0].startswith("50 of 50 rows are not UTF-8")
    (tmp_path / "b.csv").write_text("text,label\n" + rows, encoding="utf-16")
    assert init.propose(tmp_path / "b.csv").encoding == "utf-16"


# === Wrong input ===

WORDS = [(f"some words {number}", number % 2) for number in range(20)]


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        (("text", "label"), [(text, "same") for text, _ in WORDS], "one label only ('same')"),
        (("text", "label"), [(text, f"id{number}") for number, (text, _) in enumerate(WORDS)], "that is no label"),
        (("x", "y"), [(number, number % 2) for number in range(20)], "No column looks like text"),
        (("x", "z"), [(text, text) for text, _ in WORDS], "No column looks like a label"),
        (("text;label",), [("a;b",)], "Only one column"),
        (("some words", "1"), [(text, label) for text, label in WORDS], "not like column names"),
        (("text", "label"), [], "no usable row"),
    ],
)
def test_a_table_that_holds_no_labelled_text(tmp_path, header, rows, said):
    with pytest.raises(UserError) as stop:
        init.propose(write_table(tmp_path / "a.csv", header, rows))
    assert said in str(stop.value)


def test_files_that_are_missing_empty_or_binary(tmp_path):
    for content, said in ((None, "no such file"), (b"", "empty"), (b"text,label\n\0", "binary")):
        if content is not None:
            (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(UserError, match=said):
            init.propose(tmp_path / "a.csv")


def test_named_columns_must_exist(proposal, tmp_path):
    assert init.propose(tmp_path / "My reviews.csv", label="date").label == "date"
    with pytest.raises(UserError, match=r"--text body: no such column. Columns: 'id', 'date'"):
        init.propose(tmp_path / "My reviews.csv", text="body")
