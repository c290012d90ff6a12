"""The operations that change a text. What EDA's do is in the paper: Wei and Zou 2019, section 2."""

import random
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest

from bertline.components.augmentation import command, eda, noise, operations, synonyms
from bertline.components.augmentation.words import Words
from bertline.errors import UserError
from bertline.models.recipe import AugmentOptions
from bertline.pipeline import stage_files
from bertline.pipeline.stages import Node

TEXT = "My flight to Newark got cancelled again, and nobody @airline answers! http://x.co/a1 :("
WORDS = [Words(TEXT)[place] for place in range(len(Words(TEXT)))]


def words(text):
    split = Words(text)
    return [split[place] for place in range(len(split))]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    file = tmp_path_factory.mktemp("synonyms") / "synonyms.txt"
    file.write_text(
        "# travel\nflight, plane trip\ncancelled, canceled => called off\nno one, nobody\n", encoding="utf-8"
    )
    return synonyms.read(file, "key")


# === Words ===


def test_words_stand_between_spaces_without_the_marks_around_them():
    assert " ".join(WORDS) == "My flight to Newark got cancelled again and nobody airline answers http://x.co/a1"
    assert words("don't (e-mail) ... \u0939\u093e\u0925\u0940 \u6211\u559c\u6b22") == [
        "don't",
        "e-mail",
        "\u0939\u093e\u0925\u0940",
        "\u6211\u559c\u6b22",
    ]
    for text in (TEXT, "", "  ", "\tone\n", "!?"):
        assert str(Words(text)) == text


@pytest.mark.parametrize(
    ("place", "left"), [(0, "big, red dog!"), (1, "a, red dog!"), (2, "a big, dog!"), (3, "a big, red!")]
)
def test_a_word_that_goes_takes_one_space_with_it(place, left):
    text = Words("a big, red dog!")
    text.remove(place)
    assert str(text) == left


# === EDA ===


@pytest.mark.parametrize(("share", "changed"), [(0.05, 1), (0.25, 3), (0.5, 6)])
def test_swaps_keep_the_words(share, changed):
    assert eda.times(len(WORDS), share) == changed
    for seed in range(20):
        other = eda.swapped(share)(TEXT, Random(seed))
        assert Counter(words(other)) == Counter(WORDS)
        moved = sum(one != two for one, two in zip(words(other), WORDS, strict=True))
        assert moved <= 2 * changed


def test_each_word_is_deleted_with_the_probability():
    lost = [len(WORDS) - len(words(eda.deleted(0.3)(TEXT, Random(seed)))) for seed in range(400)]
    assert min(lost) == 1
    assert np.mean(lost) / len(WORDS) == pytest.approx(0.3, abs=0.02)
    assert words(eda.deleted(0.5)("yes no", Random(0))) in (["yes"], ["no"])


def test_synonyms_replace_words_and_phrases(known):
    change = eda.replaced(0.1, known)
    seen = {change("Flight CANCELLED, no one answers.", Random(seed)) for seed in range(30)}
    assert seen == {
        "Plane trip CANCELLED, no one answers.",
        "Flight CALLED OFF, no one answers.",
        "Flight CANCELLED, nobody answers.",
    }
    assert change("no, one answers", Random(0)) is None  # a mark stands inside the phrase


def test_insertion_adds_synonyms_of_words_that_are_there(known):
    for seed in range(20):
        added = Counter(words(eda.inserted(0.1, known)("my flight is late", Random(seed)))) - Counter(
            words("my flight is late")
        )
        assert added == Counter(["plane", "trip"])


@pytest.mark.parametrize("change", [eda.swapped(0.1), eda.deleted(0.1)])
def test_one_word_alone_has_nothing_to_change(change):
    assert change("\u6211\u559c\u6b22\u8fd9\u4e2a", Random(0)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"flight\n", "line 1: expected two words or more .* found 'flight'"),
        (b"a, b\nflight =>\n", "line 2"),
        (b"# none\n", "names no synonyms"),
        (b"caf\xe9, bar\n", "cannot be read as UTF-8"),
    ],
)
def test_a_synonym_file_that_cannot_be_read_says_where(tmp_path, content, said):
    (tmp_path / "synonyms.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"train.augment.synonyms: .*synonyms.txt.*{said}"):
        operations.check(AugmentOptions(operations=["insert"], synonyms="synonyms.txt"), str(tmp_path))


# === nlpaug ===


@pytest.mark.parametrize("kind", operations.NOISE)
def test_errors_are_one_letter_in_some_words_and_repeat(kind):
    change = noise.noise(kind, 0.2, "en")
    for seed in range(20):
        other = change(TEXT, Random(seed))
        assert other == change(TEXT, Random(seed))
        differing = [(one, two) for one, two in zip(WORDS, words(other), strict=True) if one != two]
        assert len(differing) <= 2
        for one, two in differing:
            assert abs(len(one) - len(two)) <= 1
            assert len(Counter(one.lower()) - Counter(two.lower())) <= 1  # a swap leaves the capital where it was
            assert len(one) >= 4
        assert "http://x.co/a1" in other
    assert len({change(TEXT, Random(seed)) for seed in range(20)}) > 10


def test_errors_leave_the_shared_generators_alone():
    random.seed(1)
    np.random.seed(1)
    first = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    noise.noise("characters", 0.2, "en")(TEXT, Random(5))
    assert (random.random(), np.random.random()) == first


def test_no_latin_letters_get_into_another_script():
    for seed in range(20):
        other = noise.noise("characters", 0.5, "en")("\u043f\u0440\u0438\u044f\u0442\u0435\u043b\u044c", Random(seed))
        assert not any(letter.isascii() for letter in other)


def test_without_nlpaug_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nlpaug", None)
    with pytest.raises(UserError, match=r"pip install 'bertline\[augmentation\]'"):
        operations.check(AugmentOptions(operations=["ocr"]), ".")


# === A command ===


def script(code):
    return [sys.executable, "-c", code]


def test_a_command_gets_a_line_per_text_and_gives_one_back(monkeypatch):
    code = "import os, sys\nfor line in sys.stdin: print(os.environ['BERTLINE_SEED'], line.strip().upper())"
    assert command.rewritten(script(code), ["one\ntwo", "\u00fc"], 7) == ["7 ONE TWO", "7 \u00dc"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('a')", "got 2 lines and wrote 1; it must write exactly one line for each"),
        ("print('a\\n\\nb')", "got 2 lines and wrote 3"),
        ("pass", "got 2 lines and wrote 0"),
        ("import sys; sys.exit('no such language')", "ended with code 1: no such language"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\n\\n')", "is no UTF-8"),
    ],
)
def test_a_command_that_does_otherwise_is_refused(code, said):
    with pytest.raises(UserError, match=f"train.augment.command: .*{said}"):
        command.rewritten(script(code), ["one", "two"], 1)


def test_a_program_is_looked_for_before_the_run(tmp_path):
    with pytest.raises(UserError, match=r"there is no program '.*/translate\.sh' that can be run"):
        operations.check(AugmentOptions(operations=["command"], command=["./translate.sh"]), str(tmp_path))
    (tmp_path / "translate.sh").write_text("#!/bin/sh\nsed 's/late/delayed/'\n")
    (tmp_path / "translate.sh").chmod(0o755)
    options = AugmentOptions(operations=["command"], command=["./translate.sh"])
    made = operations.of(options, str(tmp_path), fill=None)
    assert made["command"](["it was late"], [Random(0)], 1) == ["it was delayed"]


def test_a_changed_program_or_script_makes_the_variants_anew(tmp_path):
    """Its files key the cache of the stage."""
    for name in ("translate.sh", "words.py"):
        (tmp_path / name).write_text("one")
    options = AugmentOptions(
        operations=["command"], command=["./translate.sh", str(tmp_path / "words.py"), "-c", "x" * 5000]
    )
    config = {"train": {"augment": options.model_dump()}, "data": {"source": "a.csv"}}
    keys = {stage_files.fingerprints(config, str(tmp_path))[Node.AUGMENTER]}
    for name in ("translate.sh", "words.py"):
        (tmp_path / name).write_text("two")
        keys.add(stage_files.fingerprints(config, str(tmp_path))[Node.AUGMENTER])
    assert len(keys) == 3
    options = AugmentOptions(operations=["command"], command=["sed", "s/a/b/"])
    assert stage_files.fingerprints({**config, "train": {"augment": options.model_dump()}}, str(tmp_path)) == {}


# === Options ===


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"operations": []}, "operations"),
        ({"operations": ["swap", "swap"]}, "each at most once"),
        ({"operations": ["insert"]}, "synonyms: the operation insert needs it"),
        ({"operations": ["swap"], "synonyms": "s.txt"}, "only the operation synonyms or insert uses it"),
        ({"operations": ["command"]}, "command: the operation command needs it"),
        ({"operations": ["swap"], "command": ["x"]}, "only the operation command uses it"),
        ({"operations": ["swap"], "share": 0}, "share"),
        ({"operations": ["back-translation"]}, "operations"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        AugmentOptions.model_validate(options)
