import datetime

import numpy as np
import pytest
import windows_of
from windows_of import CLASSES

from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.monitoring import feedback
from bertline.serving import record_files


def corrections(tmp_path, *lines, header="id,text,label,who,when"):
    file = tmp_path / "corrections.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return feedback.read(file)


def decided(tmp_path, *lines, known=(), **options):
    good, broken = corrections(tmp_path, *lines)
    assert broken == []
    return feedback.sort(good, known, CLASSES, DataOptions(source=["."], **options), "The way out.")


def reasons(made):
    return [(each.correction.row, each.reason) for each in made.refused]


def test_the_same_word_twice_is_one_and_two_words_are_a_contradiction(tmp_path):
    made = decided(
        tmp_path,
        "a,,positive,ann,2026-11-01",
        "a,,positive,bob,2026-11-02",
        "b,,positive,ann,2026-11-01",
        "b,,negative,bob,2026-11-02",
        ",late  again,negative,ann,",
        ",late again,negative,ann,",  # white space makes no other text
    )
    assert [(each.id, each.text, each.label) for each in made.accepted] == [
        ("a", "", "positive"),
        ("", "late again", "negative"),
    ]
    assert made.duplicates == 2
    assert reasons(made) == [(3, feedback.CONTRADICTION), (4, feedback.CONTRADICTION)]
    assert made.refused[0].detail.startswith("ann says 'positive'; bob says 'negative'. Agree on one")


def test_of_one_person_the_newest_word_counts(tmp_path):
    made = decided(tmp_path, "a,,positive,ann,2026-11-02", "a,,negative,ann,2026-11-01", "a,,neutral,ann,2026-11-03")
    assert [each.label for each in made.accepted] == ["neutral"] and made.replaced == 2


def test_what_is_known_already_is_not_taken_up_again(tmp_path):
    known = decided(tmp_path, "a,,positive,ann,2026-11-01", "b,,positive,ann,2026-11-01").accepted
    feedback.keep(tmp_path, known)
    made = decided(
        tmp_path,
        "a,,positive,bob,2026-11-09",  # agrees
        "b,,negative,bob,2026-11-09",  # does not
        known=feedback.known(tmp_path),
    )
    assert made.accepted == [] and made.duplicates == 1
    assert reasons(made) == [(2, feedback.CONTRADICTION)]
    assert "bob says 'negative'; ann said 'positive' before" in made.refused[0].detail
    changed = decided(tmp_path, "b,,negative,ann,2026-11-09", known=feedback.known(tmp_path))
    feedback.keep(tmp_path, changed.accepted)
    assert feedback.labels(tmp_path) == {"a": "positive", "b": "negative"}


def test_a_label_that_the_model_does_not_know_is_refused_with_the_way_out(tmp_path):
    made = decided(tmp_path, "a,,Positive,,", "b,,,,", ",,positive,,")
    assert reasons(made) == [(1, feedback.UNKNOWN), (2, feedback.NO_LABEL), (3, feedback.NOTHING)]
    assert made.refused[0].detail == (
        "the model knows no label 'Positive', only negative, neutral, positive. The way out."
    )


def test_labels_are_renamed_as_those_of_the_data_are(tmp_path):
    renamed = {"good": "positive", "spam": None}
    made = decided(tmp_path, "a,,good,ann,", "a,,positive,bob,", "b,,spam,ann,", label_map=renamed)
    assert [(each.id, each.label) for each in made.accepted] == [("a", "positive")] and made.duplicates == 1
    assert reasons(made) == [(3, feedback.LEFT_OUT)]


def test_several_labels_are_a_set_between_the_separator_of_the_config(tmp_path):
    options = {"multi_label": {"separator": ";"}, "label_map": {"good": "positive", "spam": None}}
    made = decided(tmp_path, "a,,positive; negative,ann,", "a,,negative;good;spam,bob,", "b,,,ann,", **options)
    assert [each.label for each in made.accepted] == ["negative;positive"] and made.duplicates == 1
    assert reasons(made) == [(3, feedback.NO_LABEL)]
    options["multi_label"]["empty"] = "no_label"
    assert [each.label for each in decided(tmp_path, "b,,,ann,", **options).accepted] == [""]


def test_lines_that_are_broken_cost_only_themselves(tmp_path):
    good, broken = corrections(tmp_path, "a,text,positive", "b,text,positive,ann,2026,more", "c,text,positive,ann,2026")
    assert [each.id for each in good] == ["c"]
    assert [(each.correction.row, each.reason) for each in broken] == [(1, feedback.BROKEN), (2, feedback.BROKEN)]


def test_a_file_that_is_none_is_said_so(tmp_path):
    with pytest.raises(UserError, match="its columns are text, answer; needed are label, and id or text"):
        corrections(tmp_path, header="text,answer")
    (tmp_path / "corrections.csv").write_bytes(b"id,label\n\xff\xfe,x\n")
    with pytest.raises(UserError, match="cannot be read as CSV in UTF-8"):
        feedback.read(tmp_path / "corrections.csv")


def test_the_text_comes_from_the_record(tmp_path):
    now = datetime.datetime.now(datetime.UTC)
    made = windows_of.records([now] * 4, np.eye(4, 3, dtype=np.float32), ["one", "two", "three", "three, no four"])
    made["id"] = ["r0", "r1", "twice", "twice"]
    made["text"][1] = None
    parts = record_files.Parts(tmp_path / "records", 30, 10**9)
    parts.write(made)
    parts.write(made).write_bytes(b"PAR1 and no more")  # a damaged part is no reason to stop
    good, _ = corrections(
        tmp_path,
        "r0,,positive,,",
        "r1,,positive,,",
        "r1,my own words,positive,,",
        "gone,,positive,,",
        "gone,my own words,positive,,",
        "twice,,positive,,",
    )
    found, refused = feedback.joined(good, tmp_path / "records", "reviews")
    assert [each.text for each in found] == ["one", "", "my own words", "my own words"]
    assert [(each.correction.row, each.reason) for each in refused] == [
        (4, feedback.NO_RECORD),
        (6, feedback.SEVERAL_RECORDS),
    ]
    assert "it was not sampled (serve.log.rate)" in refused[0].detail
    assert "or in 1 files that cannot be read, such as " in refused[0].detail
