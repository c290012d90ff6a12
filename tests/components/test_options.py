"""What a person writes under `data`, as `bertline run` reads it."""

import pytest

from bertline.components.data import file_kinds, formats
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline import config


def read(tmp_path, data):
    path = tmp_path / "task.yaml"
    path.write_text(f"name: a\ndata: {{source: a.csv, {data}}}\n")
    return config.load(path).data


def refusal(tmp_path, data):
    with pytest.raises(UserError) as stop:
        read(tmp_path, data)
    return str(stop.value)


# === Names that bertline uses itself ===


@pytest.mark.parametrize(
    "name",
    [
        *("text", "text_pair", "label", "row_id", "source"),  # ingestion's features
        *("token_ids", "segment_ids", "label_id"),  # Transform's
        *("predicted", "probability", "probabilities", "abstained", "previous", "tfidf"),  # of predictions-test.parquet
        *("examples", "text_length"),  # of the Evaluator's table of test rows
        *("candidate_decision", "candidate_probabilities", "last_blessed_decision"),  # TFMA's
    ],
)
def test_a_kept_column_must_not_have_a_name_that_the_line_uses(tmp_path, name):
    message = refusal(tmp_path, f"text: review, label: stars, keep: [shop, {name}]")
    assert f"keep: bertline uses the name '{name}' itself; rename the column in the file" in message


def test_the_text_and_the_label_themselves_may_be_kept(tmp_path):
    assert read(tmp_path, "keep: [label, text]").keep == ["label", "text"]
    # This column "label" is the text: under its name ingestion writes the label.
    assert "'label' itself" in refusal(tmp_path, "text: label, label: stars, keep: [label]")


# === Columns ===


def test_several_text_columns_and_a_header(tmp_path):
    options = read(tmp_path, 'text: [title, body], header: [label, title, body], delimiter: "\\t"')
    assert (options.text_columns, options.header, options.delimiter) == (
        ["title", "body"],
        ["label", "title", "body"],
        "\t",
    )
    assert read(tmp_path, "text: body").text_columns == ["body"]


def test_a_query_is_printed_as_it_is_written_and_a_password_never(tmp_path):
    path = tmp_path / "task.yaml"
    source = "{url: 'postgresql://a:${SHOP}@h/x', query: SELECT 1}"
    path.write_text(f"name: a\ndata: {{source: {source}}}\n")
    printed = config.dump(config.load(path))
    assert "file:" not in printed.split("newest_spans")[0]
    path.write_text(printed)
    assert config.dump(config.load(path)) == printed
    path.write_text(f"name: a\ndata: {{source: {source.replace('${SHOP}', 'secret')}}}\n")
    with pytest.raises(
        UserError, match=r"data.source.0.url: 'postgresql://a:\*\*\*@h/x': an address with a pass"
    ) as stop:
        config.load(path)
    assert "secret" not in str(stop.value) and str(stop.value).count("\n") == 0
    path.write_text("name: a\ndata: {source: {url: 'sqlite:///a.db'}}\n")
    with pytest.raises(UserError, match=r"data.source.0.query: missing"):
        config.load(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("text: [title, title]", "text, text_pair and label must be different columns, not title, title, label"),
        ("text: [title, label]", "must be different columns"),
        ("text: []", "text: []: name a column, or several to join"),
        ("text: {a: b}", "text: Input should be a valid string"),
        ("text: [text, title], keep: [text]", "bertline uses the name 'text' itself"),
        ("header: [text, label, text]", "header: 'text' is there 2 times; give each its own name"),
        ('delimiter: "ab"', "delimiter: 'ab': use one character that is no letter"),
        ("delimiter: a", "use one character"),
        ("delimiter: '\"'", "use one character"),
    ],
)
def test_columns_that_cannot_be_meant(tmp_path, data, said):
    assert said in refusal(tmp_path, data)


# === Labels ===


def test_labels_and_their_map_are_names_as_they_stand(tmp_path):
    options = read(tmp_path, "label: 1e3, label_map: {TRUE: true, 1.0: 1, ~: null, 0x1F: yes, cafe\u0301: no}")
    assert options.label == "1e3"
    assert options.label_map == {"TRUE": "true", "1.0": "1", "~": None, "0x1F": "yes", "caf\u00e9": "no"}
    assert read(tmp_path, "labels: [yes, TRUE, 1e3, 007]").labels == ["yes", "TRUE", "1e3", "007"]
    assert read(tmp_path, "labels: null").labels is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("label_map: {a: b, b: c}", "'a' becomes 'b', which becomes 'c'; write what 'a' is to be"),
        ("label_map: {a: b, b: a}", "'a' becomes 'b', which becomes 'a'"),
        ("label_map: {a: b, b: null}", "'a' becomes 'b', which becomes null"),
        ("label_map: {a: ''}", "'a' has no name; write null to leave its rows out"),
        ("labels: [b, c], label_map: {a: d}", "'a' becomes 'd', which is not among labels; add it there"),
        ("labels: [a, b], label_map: {a: b}", "no row can have 'a', which label_map changes"),
        ("multi_label: {columns: [a, b]}, label_map: {a: c}", "the columns are the labels; rename them in the file"),
    ],
)
def test_a_map_that_ends_nowhere_is_refused(tmp_path, data, said):
    assert said in refusal(tmp_path, data)


def test_an_entry_for_the_name_itself_is_fine(tmp_path):
    assert read(tmp_path, "labels: [a, b], label_map: {a: a, A: a}").label_map == {"a": "a", "A": "a"}


# === Shares ===


@pytest.mark.parametrize(
    ("data", "shares"),
    [
        ("test_source: b.csv, split: {train: 0.9, validation: 0.1}", (0.9, 0.1, 0)),
        ("test_source: b.csv, split: {train: 0.8, validation: 0.1, test: 0.1}", (0.8, 0.1, 0.1)),
        ("validation_source: b.csv, split: {train: 0.9, test: 0.1}", (0.9, 0, 0.1)),
        ("validation_source: b.csv, test_source: c.csv, split: {train: 1}", (1, 0, 0)),
        ("split: {train: 0.7, test: 0.1}", (0.7, 0.2, 0.1)),
        ("encoding: utf-8", (0.8, 0.1, 0.1)),
        ("text_pair: answer, split: {group: text}", (0.8, 0.1, 0.1)),
        ("text_pair: answer, split: {group: text_pair, train: 0.5, test: 0.3}", (0.5, 0.2, 0.3)),
    ],
)
def test_shares_that_leave_no_split_empty(tmp_path, data, shares):
    options = read(tmp_path, data)
    assert (options.split.train, options.split.validation, options.split.test) == pytest.approx(shares)
    assert DataOptions.model_validate_json(options.model_dump_json()) == options  # as the stages get them


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("split: {train: 0.9, validation: 0.1}", "no share is left for test; give it one, such as {train: 0.8"),
        ("test_source: b.csv, split: {train: 1}", "or name its files in validation_source"),
        ("split: {train: 0.9, validation: 0.2, test: 0.1}", "train 0.9, validation 0.2 and test 0.1 add up to 1.2"),
        ("split: {test: 0.2}", "add up to 1.1; they must add up to 1"),
        ("split: {train: 80, validation: 10, test: 10}", "data.split.train: 80: "),
        ("split: {group: text}", "split.group: rows with the same text are one row already"),
        ("split: {train: most, validation: 0.1}", "data.split.train: 'most': "),
    ],
)
def test_shares_that_do_not_add_up_are_refused_with_what_to_write(tmp_path, data, said):
    assert said in refusal(tmp_path, data)


def test_every_format_has_a_reader():
    assert set(DataOptions.model_fields["format"].annotation.__args__) == {"auto", *formats.READERS}
    assert set(file_kinds.ENDINGS.values()) <= set(formats.READERS)
