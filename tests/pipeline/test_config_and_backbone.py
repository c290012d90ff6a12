"""What of a config does not fit the backbone's folder: refused when it is read, or once the folder is fetched."""

import json

import bert_folder as tiny
import factories
import pytest
import xlm_roberta_folder

from bertline.errors import UserError
from bertline.models import backbone_folder
from bertline.pipeline import config as configs
from bertline.pipeline import facts

HUB = "hf://someone/some-bert"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tiny.write_weights(tmp_path_factory.mktemp("bert"))
    (folder / "vocab.txt").write_text("\n".join(tiny.WORDS) + "\n")
    return folder


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    folder = xlm_roberta_folder.write_weights(tmp_path_factory.mktemp("multilingual"), vocab_size=26)
    texts = ["the cat sat on the mat", "das ist gut", "où est la gare"] * 9
    xlm_roberta_folder.write_vocabulary(folder / "sentencepiece.bpe.model", texts, pieces=60)
    return folder


def read(folder, backbone, max_length=20, **sections):
    factories.write_csv(folder / "reviews.csv", factories.reviews(3))
    model = {"model": {"backbone": str(backbone), "max_length": max_length}}
    values = {"name": "reviews", "root": str(folder / "runs"), "data": {"source": "reviews.csv"}, **model, **sections}
    (folder / "task.yaml").write_text(json.dumps(values))
    return configs.load(folder / "task.yaml")


def test_a_length_beyond_the_positions_is_refused_when_the_config_is_read(bert, multilingual, tmp_path):
    assert read(tmp_path, bert, max_length=24).model.max_length == 24
    with pytest.raises(UserError, match=r"model\.max_length: 25 is more than the 24 tokens .* set it to 24 or less"):
        read(tmp_path, bert, max_length=25)
    with pytest.raises(UserError, match=r"model\.max_length: 41 is more than the 40 tokens"):  # of 42, two are not used
        read(tmp_path, multilingual, max_length=41)
    static = {"backbone": str(bert), "max_length": 25, "family": "static", "static": {"dimensions": 8}}
    assert read(tmp_path, bert, model=static).model.max_length == 25  # a mean has no positions


@pytest.mark.parametrize(
    ("compress", "words"),
    [
        ({"family": "static", "static": {"dimensions": 32, "hidden": 2000}}, "static: the student would have 64,960 w"),
        ({"family": "bilstm", "bilstm": {"units": 200}}, "bilstm: the student would have 480,000 weights or more, and"),
    ],
    ids=["static", "bilstm"],
)
def test_a_student_larger_than_its_teacher_is_refused_when_the_config_is_read(bert, tmp_path, compress, words):
    with pytest.raises(UserError, match=f"compress.family: {words}.*its teacher has about 18,112; make compress"):
        read(tmp_path, bert, compress=compress)
    small = {"family": compress["family"], "static": {"dimensions": 8, "hidden": 8}} | {"bilstm": {"units": 8}}
    others = {"static", "bilstm"} - {compress["family"]}
    read(tmp_path, bert, compress={key: value for key, value in small.items() if key not in others})


@pytest.mark.parametrize(
    ("kind", "sections", "words"),
    [
        ("bert", {"max_length": 64}, "model.max_length: 64 is more than the 24 tokens"),
        ("bert", {"compress": {"layers": 2}}, "compress.layers: 2 are not fewer than the 2"),
        ("multilingual", {"compress": {"vocabulary": "used"}}, "compress.vocabulary: used: .*SentencePiece's"),
    ],
    ids=["length", "layers", "vocabulary"],
)
def test_a_folder_on_a_hub_is_looked_at_before_the_first_stage(request, monkeypatch, tmp_path, kind, sections, words):
    folder = request.getfixturevalue(kind)
    monkeypatch.setattr(backbone_folder, "fetched", lambda source: folder)

    def look(**sections):
        config = read(tmp_path, HUB, **sections)
        return facts.look(config.model_dump(mode="json"), "", tmp_path / "serving", None, {})

    assert look(**({"pretrain": {}} if kind == "bert" else {})).fingerprint == ""
    with pytest.raises(UserError, match=words):
        look(**sections)


@pytest.mark.parametrize("section", ["model", "compress"])
def test_a_bilstm_is_not_for_tpus(bert, tmp_path, section):
    sections = {
        "model": {"backbone": str(bert), "max_length": 20},
        section: {"family": "bilstm", "bilstm": {"units": 8}},
    }
    assert read(tmp_path, bert, **sections, train={"distribution": "mirrored"})
    with pytest.raises(
        UserError, match=f"XLA cannot compile the LSTM of {section}.family: bilstm; set it to one_device"
    ):
        read(tmp_path, bert, **sections, train={"distribution": "tpu"})
