"""What `bertline init` writes, as ingestion then reads it: the config holds what its screen says."""

import csv
import json
from pathlib import Path

import apache_beam as beam
import pytest
from tfx.types import standard_artifacts

from bertline.components import example_gen
from bertline.components.artifacts import Quarantine
from bertline.errors import UserError
from bertline.pipeline import config
from bertline.pipeline.init import write_config


def table(path, labels, rows=240, header=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows((f"some words of item {row} here", labels[row % len(labels)]) for row in range(rows))
    return path


def ingested(path):
    """The report on the rows that `run` would train on with a config, and the line on its screen."""
    loaded = config.load(path)
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    for artifact, name in ((examples, "examples"), (quarantine, "quarantine")):
        artifact.uri = str(path.parent / "out" / name)
        Path(artifact.uri).mkdir(parents=True, exist_ok=True)
    example_gen.ExampleGen.test_call(
        examples=examples,
        quarantine=quarantine,
        data=loaded.data.model_dump_json(),
        base_folder=loaded.folder,
        fingerprint="cafe",
        beam_pipeline=beam.Pipeline(argv=["--direct_running_mode=in_memory"]),
    )
    report = json.loads(Path(quarantine.uri, "ingest.json").read_text(encoding="utf-8"))
    assert report["rows"] == report["distinct"] + report["duplicates"] + sum(report["quarantined"].values())
    return report, quarantine.get_string_custom_property("summary")


def taking_the_proposal(path):
    """The config, once a person has taken the proposed label_map out of its comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum("# label_map:" in line for line in lines) == 1
    lines = [line.replace("# label_map:", "label_map:") for line in lines if not line.startswith("  label_map:")]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("labels", "proposed"),
    [
        (["1", "1.0", "0", "0", "0.0", "1"], {"1": 120, "0": 120}),
        (["True", "false", "TRUE", "FALSE", "true", "False"], {"true": 120, "false": 120}),
        (["Positive", "negative", "positive", "negative"], {"positive": 120, "negative": 120}),
        (["'pos'", "neg", "pos", "pos"], {"pos": 180, "neg": 60}),
        (["\uff41", "a", "a", "x\u200dy", "xy", "xy"], {"a": 120, "xy": 120}),
        (["not_spam", "not-spam", "not spam", "spam!", "spam", "\u0455pam"], {"not spam": 120, "spam": 120}),
        (["a&amp;b", "a&b", "a&b", "5  Stars", "5 stars", "5 stars"], {"a&b": 120, "5 stars": 120}),
        (["follow-up", "follow\u2013up", "follow-up", "\u22121", "-1", "-1"], {"follow-up": 120, "-1": 120}),
    ],
)
def test_labels_that_may_be_the_same_stay_apart_until_a_person_takes_the_proposal(tmp_path, labels, proposed):
    written = write_config(table(tmp_path / "a.csv", labels), tmp_path / "a.yaml")
    assert any(warning.startswith("labels that look the same") for warning in written.warnings)
    report, said = ingested(written.path)
    assert report["labels"] == {label: 240 * labels.count(label) // len(labels) for label in sorted(set(labels))}
    assert "labels that look the same" in said
    report, said = ingested(taking_the_proposal(written.path))
    assert report["labels"] == proposed
    assert "labels changed by data.label_map" in said
    assert "look the same" not in said


def test_several_labels_that_may_be_the_same_stay_apart_until_a_person_takes_the_proposal(tmp_path):
    labels = ["Health|tech", "health", "tech", "tech|health", "te\u200bch", "health|te\u200bch"]
    written = write_config(table(tmp_path / "a.csv", labels, header=("text", "topics")), tmp_path / "a.yaml")
    assert any(warning.startswith("labels that look the same") for warning in written.warnings)
    report, _ = ingested(written.path)
    assert report["labels"] == {"Health": 40, "health": 120, "tech": 200}
    report, _ = ingested(taking_the_proposal(written.path))
    assert report["labels"] == {"health": 160, "tech": 200}


def test_labels_that_no_eye_can_tell_apart_are_one(tmp_path):
    labels = [
        "not spam",
        "not\xa0spam",
        "not  spam",
        "spam",
        "spam\u200b",
        "\ufeffspam",
        "\u00e9",
        "e\u0301",
        " \u00e9 ",
    ]
    written = write_config(table(tmp_path / "a.csv", labels, 270), tmp_path / "a.yaml")
    content = written.path.read_text(encoding="utf-8")
    assert '"not\\u00A0spam": not spam' in content and '"spam\\u200B": spam' in content
    report, said = ingested(written.path)
    assert report["labels"] == {"not spam": 90, "spam": 90, "\u00e9": 90}
    assert "30 rows with a label in another Unicode form" in said
    assert "30 rows with a label in another Unicode form, brought into NFC" in written.warnings


def test_both_kinds_stand_in_the_proposal(tmp_path):
    labels = ["pos", "pos\u200b", "Pos", "neg", "neg", "a\nb", "a b", "A\u2028b", "neg"]
    written = write_config(table(tmp_path / "a.csv", labels, 270), tmp_path / "a.yaml")
    assert ingested(written.path)[0]["labels"] == {"A\u2028b": 30, "Pos": 30, "a b": 60, "neg": 90, "pos": 60}
    assert ingested(taking_the_proposal(written.path))[0]["labels"] == {"a b": 90, "neg": 90, "pos": 90}


def test_labels_that_only_a_machine_would_join_stay_apart_without_a_word(tmp_path):
    labels = ["A", "A-", "A+", "C", "C++", "-1", "1", "007", "7", "$1", "no", "not"]
    written = write_config(table(tmp_path / "a.csv", labels), tmp_path / "a.yaml")
    assert written.warnings == []
    report, said = ingested(written.path)
    assert set(report["labels"]) == set(labels)
    assert "look the same" not in said


def test_a_label_of_nothing_that_can_be_seen_is_missing(tmp_path):
    written = write_config(table(tmp_path / "a.csv", [*["pos", "neg"] * 20, "\u200b"], 246), tmp_path / "a.yaml")
    assert any(finding.startswith("label: 'label', 2 labels: ") for finding in written.findings)
    report, _ = ingested(written.path)
    assert (report["labels"], report["quarantined"]) == ({"neg": 120, "pos": 120}, {"missing label": 6})
    with pytest.raises(UserError, match="24 of 240 rows cannot be used"):
        write_config(table(tmp_path / "a.csv", [*["pos", "neg"] * 9, "\u200b", "\u2060"]), tmp_path / "a.yaml")


def test_labels_cannot_move_the_cursor_and_take_no_page_of_the_screen(tmp_path):
    written = write_config(table(tmp_path / "a.csv", ["\x1b[31mred", "x" * 2000]), tmp_path / "a.yaml")
    assert f"label: 'label', 2 labels: '\\x1b[31mred' 120, {'x' * 40}... 120" in written.findings
    assert set(ingested(written.path)[0]["labels"]) == {"\x1b[31mred", "x" * 2000}


def test_a_label_with_a_character_that_cannot_be_seen_is_kept_with_a_word(tmp_path):
    written = write_config(table(tmp_path / "a.csv", ["pos\u200b", "neg"]), tmp_path / "a.yaml")
    assert written.warnings == ["labels with a character that cannot be seen (see data.label_map): 'pos\\u200b'"]


# === Splits beside the training file ===


@pytest.mark.parametrize(
    ("train", "others"),
    [
        ("train.csv", {"test": "test.csv"}),
        ("reviews_train.csv", {"test": "reviews_test.csv", "validation": "reviews_dev.csv"}),
        ("Train.csv", {"test": "Test.csv", "validation": "Val.csv"}),
        ("train-00000-of-00001.csv", {"test": "test-00000-of-00001.csv"}),
    ],
)
def test_a_test_file_beside_the_training_file_is_the_test_split(tmp_path, train, others):
    table(tmp_path / train, ["pos", "neg"])
    for place, name in enumerate(others.values()):
        with open(table(tmp_path / name, ["pos", "neg"], 0), "a", encoding="utf-8") as stream:
            stream.writelines(f"{name} text {row} of {place},{('pos', 'neg')[row % 2]}\n" for row in range(30))
    table(tmp_path / "other_test.csv", ["x", "y"])
    written = write_config(tmp_path / train, tmp_path / "a.yaml")
    options = config.load(written.path).data
    assert (options.source, options.test_source) == ([train], [others["test"]])
    assert options.validation_source == ([others["validation"]] if "validation" in others else None)
    report, _ = ingested(written.path)
    assert {split: report["split_rows"][split] for split in others} == dict.fromkeys(others, 30)


@pytest.mark.parametrize(
    ("header", "labels", "said"),
    [
        (("text", "id"), ["1", "2"], "it has no column 'label', so its rows have nothing to be judged by"),
        (("text", "label"), ["-1"], "no training row has its label '-1'"),
        (("text", "label"), [""], "its column 'label' is empty"),
    ],
)
def test_a_test_file_without_the_labels_is_not_taken_and_the_screen_says_why(tmp_path, header, labels, said):
    table(tmp_path / "train.csv", ["pos", "neg"])
    table(tmp_path / "test.csv", labels, header=header)
    written = write_config(tmp_path / "train.csv", tmp_path / "a.yaml")
    assert written.warnings == [f"test.csv beside it is not taken as data.test_source: {said}"]
    assert config.load(written.path).data.test_source is None
    assert ingested(written.path)[0]["rows"] == 240


def test_two_names_for_one_split_and_a_damaged_file_are_not_taken(tmp_path):
    for name in ("train.csv", "val.csv", "dev.csv"):
        table(tmp_path / name, ["pos", "neg"])
    (tmp_path / "test.csv").write_bytes(b"")
    written = write_config(tmp_path / "train.csv", tmp_path / "a.yaml")
    assert config.load(written.path).data.validation_source is None
    (warning,) = written.warnings
    assert warning.startswith("test.csv beside it is not taken as data.test_source: ")
    assert "the file is empty" in warning
