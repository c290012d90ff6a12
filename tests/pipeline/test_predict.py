import contextlib
import json
import socket
import subprocess

import pytest
from factories import save_mood_model, save_pairs_model, write_task
from lines import BERTLINE
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli, score
from bertline.pipeline import config as configs
from bertline.pipeline.beam_options import BeamOptions
from bertline.serving.keys import add_key
from bertline.serving.server import Server


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


def test_a_version_that_is_tried_answers_no_call_of_its_own_server(tmp_path):
    """With serve.canary the newest version may still be tried: the one before it is served."""
    for version, word in ((1, "good"), (2, "dull")):
        folder = tmp_path / "runs" / "serving" / str(version)
        save_mood_model(folder, positive_word=word)
        (folder / "release.json").write_text("{}")
    (tmp_path / "runs" / "serving" / "1" / "canary.json").write_text('{"state": "promoted"}')
    config = write_task(tmp_path, [])
    assert predict(str(config), "a good film").stdout == "negative\t0.750\ta good film\n"
    config.write_text(config.read_text().replace("serve: {port: 0}", "serve: {port: 0, canary: {}}"))
    assert predict(str(config), "a good film").stdout == "positive\t0.750\ta good film\n"
    request = score.Request(config, [], tmp_path / "out.csv")
    assert score.model_of(request, configs.load(config), BeamOptions())[2] == "version 1"


def test_a_text_a_line_from_stdin(mood):
    answer = predict("--address", mood, "--model", "mood", "--json", stdin="so good\n  dull\n")
    assert [json.loads(line) for line in answer.stdout.splitlines()] == [
        {"line": 1, "text": "so good", "label": "positive", "probabilities": {"negative": 0.25, "positive": 0.75}},
        {"line": 2, "text": "  dull", "label": "negative", "probabilities": {"negative": 0.75, "positive": 0.25}},
    ]
    assert answer.exit_code == 0
    with pytest.raises(UserError, match="no text to predict"):
        predict("--address", mood, "--model", "mood", stdin="")


def test_each_line_has_an_answer_or_a_fault_in_its_place(mood):
    lines = [b"\xef\xbb\xbfgood", b"", b"dull\r", b"caf\xe9 good", b" \t ", b"a\rgood", b"x" * (17 << 20), b"last good"]
    answer = predict("--address", mood, "--model", "mood", "--json", stdin=b"\n".join(lines))
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [outcome["line"] for outcome in found] == list(range(1, 9))
    texts = {outcome["line"]: (outcome["text"], outcome["label"]) for outcome in found if "label" in outcome}
    assert texts == {
        1: ("good", "positive"),
        3: ("dull", "negative"),
        6: ("a\rgood", "positive"),
        8: ("last good", "positive"),
    }
    assert {outcome["line"]: outcome["fault"] for outcome in found if "fault" in outcome} == {
        2: "blank: there is no text",
        4: "not UTF-8: byte 0xe9 at place 4",
        5: "blank: there is no text",
        7: "a line of 17,825,792 bytes; the longest is 16,777,216",
    }
    assert answer.exit_code == 4
    assert "4 texts have no answer" in answer.stderr


def test_a_refused_text_costs_no_other_its_answer(mood):
    lines = [f"{'good' if number % 3 else 'dull'} {number}" for number in range(200)]
    lines[77] = lines[140] = "good " * 120_000  # 600,000 bytes, and a server takes 512 KiB
    answer = predict("--address", mood, "--model", "mood", stdin="\n".join(lines) + "\n")
    shown = answer.stdout.splitlines()
    assert len(shown) == 200
    for number, line in enumerate(shown):
        label, probability, rest = line.split("\t")
        if number in (77, 140):
            assert (label, probability) == ("", "")
            assert rest.startswith(f"line {number + 1}: ") and "a text of 600000 bytes; the longest is 524288" in rest
        else:
            expected = "positive" if "good" in lines[number] else "negative"
            assert (label, probability, rest) == (expected, "0.750", lines[number])
    assert answer.exit_code == 4


def test_answers_flow_while_the_input_goes_on_and_end_with_the_reader(mood):
    command = [BERTLINE, "predict", "--address", mood, "--model", "mood"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for word, label in (("good", "positive"), ("dull", "negative")):
            process.stdin.write(f"{word}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline() == f"{label}\t0.750\t{word}\n".encode()
        process.stdout.close()  # as `| head -2` does
        with contextlib.suppress(BrokenPipeError):
            for _ in range(100):
                process.stdin.write(b"good\n" * 20_000)
        errors = process.stderr.read().decode()
    assert process.returncode == 1
    assert errors == ""


def test_a_server_that_goes_away_is_named_with_the_line(tmp_path):
    save_mood_model(tmp_path / "1")
    with Server.of(tmp_path, "mood", port=0) as server:
        command = [BERTLINE, "predict", "--address", server.address, "--model", "mood", "--timeout", "5"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, **pipes)
        process.stdin.write(b"good\n")
        process.stdin.flush()
        assert process.stdout.readline()
    output, errors = process.communicate(b"dull\n")
    assert (process.returncode, output) == (1, b"")
    assert b"from text 2 on there is no answer: " in errors


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
    answer = predict(*asked, stdin="a\tb\nc\nd\td\n\te\n")
    fault = "\t\tline 2: one text; this model reads text pairs, two texts with a tab between them"
    assert answer.stdout.splitlines() == [
        "other\t0.750\ta",
        fault,
        "same\t0.750\td",
        "\t\tline 4: blank: there is no text",
    ]
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
