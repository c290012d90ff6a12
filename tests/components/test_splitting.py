import random

import numpy

from bertline.components import splitting
from bertline.components.options import DataOptions, RowLimits
from bertline.components.splitting import DUPLICATE, NOT_SAMPLED, QUARANTINED, TEST, TRAIN, VALIDATION

CONFLICT = QUARANTINED + splitting.REASONS.index(splitting.OTHER_LABEL) + 1


def survey(rows, file=0, first=0):
    """A survey of (share of the way through the hash, sampling hash, label or labels) rows; a string is a reason."""
    good = [not isinstance(row, str) for row in rows]
    of_rows = [() if isinstance(row, str) else (row[2],) if isinstance(row[2], str) else row[2] for row in rows]
    sets = sorted({labels for labels, ok in zip(of_rows, good, strict=True) if ok})
    return splitting.Survey(
        task=file,
        file=file,
        places=numpy.arange(first, first + len(rows)),
        keys=numpy.asarray(
            [(int(row[0] * 2**64), row[1]) if ok else (0, 0) for row, ok in zip(rows, good, strict=True)], numpy.uint64
        ).reshape(-1, 2),
        labels=numpy.asarray([sets.index(of) if ok else -1 for of, ok in zip(of_rows, good, strict=True)], int),
        sets=sets,
        reasons=numpy.asarray(
            [0 if ok else splitting.REASONS.index(row) + 1 for row, ok in zip(rows, good, strict=True)], int
        ),
    )


def decided(surveys, roles, options, ranges):
    """The verdicts, file by file, and the report, as the passes would make them with this number of ranges."""
    parts = [part for survey in surveys for part in splitting.by_range(survey, ranges)]
    settled = [
        splitting.settle([part for number, part in parts if number == of_range], roles, options)
        for of_range in sorted({number for number, _ in parts})
    ]
    summaries = [splitting.summarise(rows, options) for rows in settled]
    halves = [splitting.merge(summaries[start::2], options) for start in (0, 1)]
    agreement = splitting.agree(splitting.merge(halves, options), options)
    verdicts_of, counts = {}, splitting.Counts()
    for rows in settled:
        by_task, of_range = splitting.finish(rows, agreement)
        counts += of_range
        for task, verdicts in by_task:
            assert task == verdicts.file  # as these surveys have it
            places = verdicts_of.setdefault(verdicts.file, {})
            places.update(zip(verdicts.places.tolist(), verdicts.verdicts.tolist(), strict=True))
    by_file = {file: [places[place] for place in sorted(places)] for file, places in sorted(verdicts_of.items())}
    return by_file, splitting.report(counts, agreement, options)


def verdicts(surveys, roles=(TRAIN,), **options):
    """The verdicts and the report, which are the same with any number of ranges."""
    data = DataOptions(source=["."], **options)
    one, *others = (decided(surveys, list(roles), data, ranges) for ranges in (1, 2, 5))
    assert others == [one, one]
    return one


# === The key ===


def test_the_key_is_the_same_on_every_machine():
    assert splitting.text_key("good").row_id == "c35c17be97b426c294505e3b981a04d7"


def test_white_space_and_unicode_forms_do_not_make_another_text_but_case_does():
    key = splitting.text_key("a café")
    assert splitting.text_key(" a\t\n cafe\u0301 ") == key
    assert splitting.text_key("A café") != key


def test_pairs_are_not_their_concatenation():
    assert splitting.text_key("a b", "c") != splitting.text_key("a", "b c")
    assert splitting.text_key("a", "") != splitting.text_key("a")


# === The split ===


def test_only_the_hash_decides_the_split_whatever_the_order():
    rows = [(0.05, 1, "a"), (0.15, 2, "b"), (0.25, 3, "a"), (0.95, 4, "b")]
    assert verdicts([survey(rows)])[0] == {0: [TEST, VALIDATION, TRAIN, TRAIN]}
    assert verdicts([survey(rows[::-1])])[0] == {0: [TRAIN, TRAIN, VALIDATION, TEST]}


def test_duplicates_are_joined_across_files_and_conflicts_go_out_with_all_copies():
    first = survey([(0.5, 1, "a"), (0.6, 2, "a"), (0.5, 1, "a")])
    second = survey([(0.5, 1, "a"), (0.6, 2, "b"), (0.7, 3, "b")], file=1)
    found, report = verdicts([second, first], roles=[TRAIN, TRAIN])
    assert found == {0: [TRAIN, CONFLICT, DUPLICATE], 1: [DUPLICATE, CONFLICT, TRAIN]}
    assert report["duplicates"] == 2
    assert report["quarantined"] == {splitting.OTHER_LABEL: 2}


def test_rows_of_a_test_file_stay_and_their_texts_leave_training():
    train = survey([(0.05, 1, "a"), (0.5, 2, "b"), (0.15, 3, "a"), (0.9, 4, "a")])
    test = survey([(0.5, 2, "b")], file=1)
    # 0.15 lies in validation's ninth, which now reaches from 0 to 1/9.
    assert verdicts([train, test], roles=[TRAIN, TEST])[0] == {0: [VALIDATION, DUPLICATE, TRAIN, TRAIN], 1: [TEST]}


def test_rows_that_only_train_are_in_no_other_split_and_change_nothing_there():
    own = [(0.01, 1, "good"), (0.5, 2, "bad"), (0.9, 3, "good")]  # test, train, train
    added = [
        (0.02, 4, "bad"),  # its hash falls in test
        (0.15, 5, "good"),  # and this one's in validation
        (0.01, 1, "good"),  # a test row's text, rightly
        (0.01, 1, "bad"),  # the same, corrected: the test row stays as it is
        (0.5, 2, "bad"),
        (0.3, 6, "good"),
        (0.3, 6, "bad"),  # two corrections of one text
    ]
    rows, _ = verdicts([survey(own), survey(added, file=1)], roles=(TRAIN, splitting.ONLY_TRAIN))
    assert rows[0] == [TEST, TRAIN, TRAIN] == verdicts([survey(own)])[0][0]
    assert rows[1] == [TRAIN, TRAIN, DUPLICATE, CONFLICT, DUPLICATE, CONFLICT, CONFLICT]


def test_of_the_files_that_only_train_the_last_one_decides():
    spans = [
        [(0.3, 6, "good"), (0.4, 7, "good"), (0.6, 8, "bad")],
        [(0.3, 6, "bad"), (0.4, 7, "good"), (0.6, 8, "bad"), (0.6, 8, "good")],
    ]
    surveys = [survey([(0.5, 2, "bad"), (0.9, 3, "good")]), *(survey(rows, file) for file, rows in enumerate(spans, 1))]
    rows, _ = verdicts(surveys, roles=(TRAIN, splitting.ONLY_TRAIN, splitting.ONLY_TRAIN))
    assert rows[1] == [CONFLICT, DUPLICATE, CONFLICT]
    assert rows[2] == [TRAIN, TRAIN, CONFLICT, CONFLICT]


def test_a_label_that_the_hash_leaves_out_of_train_gets_its_row_nearest_to_train():
    rows = [(0.5, 1, "common"), (0.02, 2, "rare"), (0.18, 3, "rare"), (0.04, 4, "common")]
    found, report = verdicts([survey(rows)])
    assert found == {0: [TRAIN, TEST, TRAIN, TEST]}
    assert report["moved_to_train"] == ["rare"]
    # Another row of the label in train sends it back.
    assert verdicts([survey([*rows, (0.7, 5, "rare")])])[0] == {0: [TRAIN, TEST, VALIDATION, TEST, TRAIN]}


def test_limits_take_the_lowest_hashes_but_never_a_label_s_last_row():
    rows = [(0.5, 30, "a"), (0.6, 10, "a"), (0.7, 20, "a"), (0.8, 40, "b"), (0.01, 7, "a"), (0.02, 5, "a")]
    limits = RowLimits(train=2, test=1)
    assert verdicts([survey(rows)], limits=limits)[0] == {
        0: [NOT_SAMPLED, TRAIN, NOT_SAMPLED, TRAIN, NOT_SAMPLED, TEST]
    }


def test_limits_and_moved_rows_are_the_same_with_any_number_of_ranges():
    chance = random.Random(7)
    rows = [(chance.random(), chance.getrandbits(64), f"label {int(chance.paretovariate(1))}") for _ in range(400)]
    rows += [(*chance.choice(rows)[:2], "label 1") for _ in range(60)]
    found, report = verdicts(
        [survey(rows[:200]), survey(rows[200:], file=1)], (TRAIN, TRAIN), limits=RowLimits(train=90)
    )
    taken = found[0] + found[1]
    assert taken.count(TRAIN) == 90
    assert set(taken) == {TRAIN, VALIDATION, TEST, DUPLICATE, NOT_SAMPLED, CONFLICT}
    assert report["moved_to_train"]
    assert all(report["splits"]["train"].values())


def test_faults_keep_their_reason_and_labels_their_order():
    rows = [splitting.EMPTY_TEXT, (0.5, 1, "b"), (0.6, 2, "a"), (0.7, 3, "gone"), (0.7, 3, "b")]
    found, report = verdicts([survey(rows[:2]), survey(rows[2:], first=2)])
    assert found[0][0] == QUARANTINED + splitting.REASONS.index(splitting.EMPTY_TEXT) + 1
    # "gone" stands on a conflicting row only, so it is no label of this data.
    assert list(report["labels"]) == ["a", "b"]
    _, listed = verdicts([survey(rows)], labels=["b", "a", "gone"])
    assert list(listed["labels"].items()) == [("b", 1), ("a", 1), ("gone", 0)]


def test_no_rows_at_all():
    found, report = verdicts([])
    assert found == {}
    assert report["rows"] == 0


# === Groups ===

GROUPED = {"text_pair": "answer", "split": {"group": "text"}}


def test_rows_of_one_group_have_one_hash_for_the_split_and_each_its_own_beside_it():
    options = DataOptions(source=["."], **GROUPED)
    first, second = (splitting.row_key("a query", answer, options) for answer in ("yes", "no"))
    assert first.high == second.high == splitting.text_key("a  query").high
    assert first.low != second.low
    other_way = DataOptions(source=["."], text_pair="answer", split={"group": "text_pair"})
    assert splitting.row_key("a", "same", other_way).high == splitting.row_key("b", "same", other_way).high


def test_a_group_stays_in_the_split_of_its_test_file_and_its_other_rows_are_quarantined():
    own = survey([(0.5, 1, "a"), (0.5, 2, "b"), (0.8, 3, "a"), (0.7, 4, "b")])
    test = survey([(0.5, 5, "a"), (0.8, 3, "a")], file=1)
    found, report = verdicts([own, test], roles=[TRAIN, TEST], **GROUPED)
    # The third row is a test row itself, and so joined with it.
    assert found == {0: [splitting.APART, splitting.APART, DUPLICATE, TRAIN], 1: [TEST, TEST]}
    assert report["quarantined"] == {splitting.OTHER_SPLIT: 2}
    added = survey([(0.05, 6, "a"), (0.01, 7, "a")], file=1)  # the first one's group is in test by its hash
    found, _ = verdicts(
        [survey([(0.05, 1, "b"), (0.9, 2, "a")]), added], roles=[TRAIN, splitting.ONLY_TRAIN], **GROUPED
    )
    assert found == {0: [TEST, TRAIN], 1: [splitting.APART, TRAIN]}


def test_a_limited_test_split_takes_whole_groups_and_no_row_moves():
    groups = [(0.01, 3), (0.02, 2), (0.03, 4)]
    rows = [(high, 10 * low + number, "a") for number, (high, count) in enumerate(groups) for low in range(count)]
    rows += [(0.04, 99, "b"), (0.9, 100, "a")]
    for limit, taken in ((9, 9), (6, 5), (5, 5), (4, 3), (2, 0)):
        found, report = verdicts([survey(rows)], limits=RowLimits(test=limit), **GROUPED)
        assert found[0] == [TEST] * taken + [NOT_SAMPLED] * (len(rows) - 1 - taken) + [TRAIN]
        assert report["moved_to_train"] == []


# === Several labels per row ===


def test_repeated_texts_with_the_same_labels_are_joined_and_with_others_quarantined():
    rows = [(0.9, 1, ("a", "b")), (0.9, 1, ("a", "b")), (0.8, 2, ("a",)), (0.8, 2, ("a", "b")), (0.7, 3, ())]
    decisions, report = verdicts([survey(rows)])
    assert decisions == {0: [TRAIN, DUPLICATE, CONFLICT, CONFLICT, TRAIN]}
    assert report["labels"] == {"a": 1, "b": 1}
    assert report["unlabelled"] == 1
    assert report["split_rows"] == {"train": 2, "validation": 0, "test": 0}


def test_each_label_of_a_row_counts_for_the_rule_that_a_label_needs_a_row_in_train():
    rows = [(0.01, 1, ("a", "rare")), (0.05, 2, ("rare",)), (0.5, 3, ("a",)), (0.9, 4, ("b",))]
    decisions, report = verdicts([survey(rows)])
    assert decisions == {0: [TEST, TRAIN, TRAIN, TRAIN]}  # the row of "rare" that is nearest to train's interval
    assert report["moved_to_train"] == ["rare"]


def test_one_row_with_two_labels_can_be_the_one_that_a_limited_train_takes_of_both():
    rows = [(0.9, 5, ("a", "b")), (0.8, 9, ("a",)), (0.7, 8, ("b",)), (0.6, 1, ("c",))]
    decisions, _ = verdicts([survey(rows)], limits=RowLimits(train=2))
    assert decisions == {0: [TRAIN, NOT_SAMPLED, NOT_SAMPLED, TRAIN]}
