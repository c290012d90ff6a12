import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertline.errors import UserError
from bertline.streams import entities
from bertline.streams.entities import Finder


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("ACME is late", {"Acme": []}, ["Acme"]),
        ("acmes and racme and acme_b", {"Acme": []}, []),
        ("(Acme's), #acme @Acme", {"Acme": []}, ["Acme"]),
        ("the New York Times wrote", {"New York": [], "New York Times": []}, ["New York Times"]),
        ("New York, said the New  York\nTimes", {"New York": [], "New York Times": []}, ["New York", "New York Times"]),
        ("New York Timesheet", {"New York": [], "New York Times": []}, ["New York"]),  # the longer one ends in a word
        ("I like C++ and c", {"C++": [], "C": []}, ["C++", "C"]),
        ("A.P. Moller (Maersk) vs aXpX moller", {"A.P. Moller (Maersk)": []}, ["A.P. Moller (Maersk)"]),
        ("$TSLA [up] ^ 5* a|b", {"Tesla": ["$TSLA"], "[up]": [], "5*": [], ".*": []}, ["Tesla", "[up]", "5*"]),
        ("DB and Bahn", {"Deutsche Bahn": ["DB", "Bahn"]}, ["Deutsche Bahn"]),
        ("我买了苹果手机", {"Apple": ["苹果"]}, ["Apple"]),
        ("我买了iPhone手机", {"iPhone": []}, ["iPhone"]),
        ("삼성전자는 올랐다", {"Samsung": ["삼성전자"]}, ["Samsung"]),
        ("トヨタ自動車が", {"Toyota": ["トヨタ"], "Toyota Motor": ["トヨタ自動車"]}, ["Toyota Motor"]),
        ("ผมชอบกูเกิลมาก", {"Google": ["กูเกิล"]}, ["Google"]),
        ("Zürich und MÜNCHEN und zürichs", {"Zürich": [], "München": []}, ["Zürich", "München"]),
        ("Zu\u0308rich in Strasse", {"Zürich": [], "Straße": []}, ["Zürich", "Straße"]),
        (
            "ＡＣＭＥ O’Reilly Coca‑Cola",
            {"Acme": [], "O'Reilly": [], "Coca-Cola": []},
            ["Acme", "O'Reilly", "Coca-Cola"],
        ),
        ("", {"Acme": []}, []),
    ],
)
def test_names_in_texts(text, names, expected):
    assert Finder(names).find(text) == expected


@given(st.text(min_size=1).filter(entities.folded), st.text())
def test_any_name_is_found_between_spaces(name, around):
    assert Finder({name: []}).find(f"{around} ! {name} ! {around}") == [name]


def test_an_alias_of_two_is_refused():
    with pytest.raises(UserError, match="'delta' stands for 'Delta Air' and for 'Delta Taps'; take it from one"):
        Finder({"Delta Air": ["Delta"], "Delta Taps": ["delta"]})


def test_the_three_kinds_of_lists(tmp_path):
    names = {"Acme": ["ACME Inc.", "Acme, Inc"], "C++": []}
    (tmp_path / "list.csv").write_text('name,aliases\nAcme,"ACME Inc.|Acme, Inc"\nC++,\n', encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps([{"name": "Acme", "aliases": names["Acme"]}, "C++"]))
    (tmp_path / "object.json").write_text(json.dumps(names))
    (tmp_path / "list.txt").write_text("# companies\nAcme|ACME Inc.|Acme, Inc\n\nC++\n")
    for file in tmp_path.iterdir():
        assert entities.read(file) == names, file


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.csv", "company\nAcme\n", "no column is called name. Columns found: company"),
        ("a.csv", "name,aliases\nAcme,a,b\n", "line 2 has not as many fields"),
        ("a.json", "[1]", "entry 1 is no name with aliases"),
        ("a.json", "{", "is not JSON"),
        ("a.txt", "|alias\n", "line 1 has no name"),
        ("a.txt", "\n", "names no entity"),
        ("gone.txt", None, "cannot be read"),
    ],
)
def test_a_wrong_list_is_named(tmp_path, file, content, said):
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=said):
        entities.read(tmp_path / file)
