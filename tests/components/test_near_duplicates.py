import pytest

from bertline.components import near_duplicates as nd

TWEET = "my flight to boston was cancelled again and nobody at the gate could tell us why"


def found(**splits):
    return [
        (pair.first.split, pair.first.position, pair.second.split, pair.second.position)
        for pair in nd.find({"train": [], "validation": [], "test": [], **splits}).pairs
    ]


def test_jaccard_of_shingles_by_hand():
    # "abcde", "bcdef" against "abcde", "bcdex": one of three.
    assert nd.jaccard(nd.shingles("abcdef"), nd.shingles("abcdex")) == pytest.approx(1 / 3)
    assert nd.jaccard(nd.shingles("Abc,  DEF!"), nd.shingles("abc def")) == 1.0
    assert nd.jaccard(nd.shingles("!!!"), nd.shingles("???")) == 0.0


def test_what_differs_in_a_letter_case_or_mark_is_found_and_another_text_is_not():
    other = "the crew on my flight to denver was lovely, thanks for the free coffee"
    assert found(train=[other, TWEET], test=[TWEET.upper() + "!!"]) == [("train", 1, "test", 0)]
    assert found(train=[TWEET], validation=[TWEET.replace("boston", "bosten")]) == [("train", 0, "validation", 0)]
    assert found(validation=["RT: " + TWEET], test=[TWEET]) == [("validation", 0, "test", 0)]
    assert found(train=[other], test=[TWEET]) == []


def test_a_words_change_in_a_short_text_makes_it_another():
    assert found(train=["arrived late and broken"], test=["arrived late and perfect"]) == []


def test_duplicates_within_a_split_are_no_leak():
    assert found(train=[TWEET, TWEET + "!"], test=["nothing of the kind", "nothing of the kind!"]) == []


def test_texts_of_marks_of_nothing_and_of_great_length():
    assert found(train=["😀😀", "", "好"], test=["😀😀", "好"]) == [("train", 0, "test", 0), ("train", 2, "test", 1)]
    assert found(train=["great " * 100_000], test=["great " * 90_000]) == [("train", 0, "test", 0)]


def test_a_text_copied_a_thousand_times_makes_few_pairs():
    pairs = found(train=[TWEET] * 1000, test=[TWEET] * 2)
    assert len(pairs) == 2 * nd.PAIRS_PER_ROW
    assert {pair[3] for pair in pairs} == {0, 1}


def test_a_search_that_grows_too_large_ends_and_says_so(monkeypatch):
    monkeypatch.setattr(nd, "COMPARISONS", 3)
    result = nd.find({"train": [TWEET] * 5, "validation": [], "test": [TWEET + str(number) for number in range(5)]})
    assert (result.complete, result.compared) == (False, 3)


def test_no_pair_at_the_threshold_is_missed_in_a_hundred():
    import random

    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2000)]
    texts = [chance.sample(words, 20) for _ in range(100)]
    changed = [" ".join([*text[:9], "qqqqq", *text[10:]]) for text in texts]  # 10 of 116 shingles: 0.84
    train = [" ".join(text) for text in texts]
    alike = [nd.jaccard(nd.shingles(one), nd.shingles(other)) for one, other in zip(train, changed, strict=True)]
    assert min(alike) > nd.THRESHOLD
    assert max(alike) < 0.88
    assert len(found(train=train, test=changed)) == 100
