import json
import socket

import pytest
import tensorflow as tf
from factories import save_mood_model, write_task
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli
from bertline.serving.keys import add_key
from bertline.serving.server import Server


def save_pairs_model(folder):
    """Calls a pair of texts "same" (0.75) where they are equal, else "other" (0.75)."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name) for name in ("text", "text_pair")])
    def text(text, text_pair):
        same = tf.equal(text, text_pair)
        return {
            "label": tf.where(same, "same", "other"),
            "probabilities": tf.where(same[:, tf.newaxis], [[0.75, 0.25]], [[0.25, 0.75]]),
            "classes": tf.tile([["same", "other"]], [tf.size(text), 1]),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"text": text})


@pytest.fixture(scope="module")
def mood(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mood")
    save_mood_model(folder / "1")
    with Server.of(folder, "mood", port=0) as server:
        yield server.address


@pytest.fixture(scope="module")
def mood_with_key(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mood-with-key")
    save_mood_model(folder / "mood" / "1")
    key = add_key(folder / "keys.json", "tester")
    with Server.of(folder / "mood", "mood", port=0, keys_file=folder / "keys.json") as server:
        yield server.address, key


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    save_pairs_model(folder / "1")
    with Server.of(folder, "pairs", port=0) as server:
        yield server.address


def predict(*arguments, stdin=None, env=None):
    result = CliRunner().invoke(cli.app, ["predict", *arguments], input=stdin, env=env)
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def test_a_served_model_is_asked_by_its_name(mood):
    answer = predict("--address", mood, "--model", "mood", "a good film", "dull//film")
    assert answer.stdout == "positive\t0.750\ta good film\nnegative\t0.750\tdull//film\n"


def test_the_model_of_a_config(tmp_path):
    config = str(write_task(tmp_path, []))
    with pytest.raises(UserError, match=r"runs/serving holds no pushed version; `bertline run .*task\.yaml` makes one"):
        predict(config, "a good film")
    save_mood_model(tmp_path / "runs" / "serving" / "1")
    with Server.of(tmp_path / "runs" / "serving", "reviews", port=0) as server:
        assert predict(config, "--address", server.address, "a good film").stdout == "positive\t0.750\ta good film\n"
    with pytest.raises(UserError, match=f"no model server answers at {server.address}"):
        predict(config, "--address", server.address, "a good film")


def test_a_text_a_line_from_stdin(mood):
    answer = predict("--address", mood, "--model", "mood", "--json", stdin="so good\n\n  dull\n")
    assert [json.loads(line) for line in answer.stdout.splitlines()] == [
        {"text": "so good", "label": "positive", "probabilities": {"negative": 0.25, "positive": 0.75}},
        {"text": "  dull", "label": "negative", "probabilities": {"negative": 0.75, "positive": 0.25}},
    ]
    with pytest.raises(UserError, match="no text to predict"):
        predict("--address", mood, "--model", "mood", stdin="\n")


def test_an_abstention_is_said_plainly(tmp_path):
    save_mood_model(tmp_path / "1", abstains=True)
    with Server.of(tmp_path, "mood", port=0) as server:
        asked = ["--address", server.address, "--model", "mood"]
        assert predict(*asked, "good", "so-so").stdout == "positive\t0.750\tgood\nabstains (negative)\t0.750\tso-so\n"
        answers = [json.loads(line) for line in predict(*asked, "--json", "good", "so-so").stdout.splitlines()]
    assert [(answer["label"], answer["abstained"]) for answer in answers] == [("positive", False), ("negative", True)]


def test_pairs_are_known_from_the_served_model(mood, pairs):
    asked = ["--address", pairs, "--model", "pairs"]
    assert predict(*asked, "a", "b", "--pair", "a", "--pair", "c").stdout == "same\t0.750\ta\nother\t0.750\tb\n"
    assert predict(*asked, stdin="a\tb\nc\tc\n").stdout == "other\t0.750\ta\nsame\t0.750\tc\n"
    with pytest.raises(UserError, match="one --pair for each of the 2 texts"):
        predict(*asked, "a", "b", "--pair", "a")
    with pytest.raises(UserError, match="stdin line 2: this model reads text pairs"):
        predict(*asked, stdin="a\tb\nc\n")
    with pytest.raises(UserError, match="reads single texts: leave out --pair"):
        predict("--address", mood, "--model", "mood", "a", "--pair", "b")


def test_the_key_comes_from_a_file_or_the_environment(mood_with_key, tmp_path):
    address, key = mood_with_key
    asked = ["--address", address, "--model", "mood", "good"]
    (tmp_path / "key").write_text(f"{key}\n")
    assert predict(*asked, "--key-file", str(tmp_path / "key")).stdout.startswith("positive")
    assert predict(*asked, env={"BERTLINE_API_KEY": key}).stdout.startswith("positive")
    for none in ({"BERTLINE_API_KEY": ""}, {"BERTLINE_API_KEY": "guess"}):
        with pytest.raises(UserError, match=r"UNAUTHENTICATED.*BERTLINE_API_KEY"):
            predict(*asked, env=none)
    wrong = predict(*asked, "--key-file", str(tmp_path / "none"))
    assert wrong.exit_code == 2 and "--key-file" in wrong.output


def test_a_wrong_call_is_refused(mood):
    for arguments, words in (([], "give a CONFIG"), (["--model", "mood"], "give both")):
        answer = predict(*arguments)
        assert answer.exit_code == 2
        assert words in answer.output


def test_failures_are_in_words(mood, tmp_path):
    with pytest.raises(UserError, match=r"food"):
        predict("--address", mood, "--model", "food", "a")
    with pytest.raises(UserError, match=r"no TLS connection"):
        predict("--address", mood, "--model", "mood", "--tls", "a")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match=r"no answer within 0\.2 s"):
        predict("--address", f"127.0.0.1:{silent.getsockname()[1]}", "--model", "mood", "--timeout", "0.2", "a")
    with pytest.raises(UserError, match=r"would travel unencrypted to models\.internal:8500: connect with TLS"):
        predict("--address", "models.internal:8500", "--model", "mood", "a", env={"BERTLINE_API_KEY": "secret"})
