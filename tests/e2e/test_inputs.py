"""Odd and bad files, through the whole line or to the line that stops it: what a person reads on the screen."""

import factories
import pytest

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import local_runner

ROWS = factories.reviews(300)


def stopped(folder, capfd):
    """Runs the task in `folder`, which must not push, and returns what the screen said."""
    try:
        with pytest.raises(local_runner.RunFailed):
            local_runner.run(configs.load(folder / "task.yaml"), "task.yaml")
    except UserError as error:  # before the screen is drawn
        return str(error)
    assert not (folder / "runs" / "serving").exists()
    return " ".join(capfd.readouterr().out.split())


def task_with(folder, **changes):
    factories.write_task(folder, ROWS)
    for name, contents in changes.items():
        path = folder / name.replace("_", ".", 1)
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return folder


def edited(folder, old, new):
    config = folder / "task.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    return folder


def test_a_dropped_column_is_named_with_the_way_out(tmp_path, capfd):
    factories.write_task(tmp_path, ROWS)
    factories.write_csv(tmp_path / "reviews.csv", ROWS, header=("text", "lable", "shop"))
    shown = stopped(tmp_path, capfd)
    assert "reviews.csv" in shown
    assert "'label'" in shown
    assert "'lable'" in shown


def test_a_renamed_label_is_quarantined_and_stops_the_run(tmp_path, capfd):
    renamed = [(text, label.replace("positive", "good"), shop) for text, label, shop in ROWS]
    factories.write_task(tmp_path, renamed)
    edited(tmp_path, "  keep: [shop]", "  keep: [shop]\n  labels: [negative, neutral, positive]")
    shown = stopped(tmp_path, capfd)
    assert "'good'" in shown
    assert "quarantine.csv" in shown
    assert (tmp_path / "runs" / "quarantine" / "quarantine.csv").read_text().count("good") == 100


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"", "empty"),
        (b"text,label,shop\n", "row"),
        (bytes(range(256)) * 50, "binary"),
        (b"text,label,shop\n" + b"".join(b"row %d,same,north\n" % row for row in range(99)), "label"),
    ],
)
def test_a_file_that_holds_no_task_is_refused_by_name(tmp_path, capfd, contents, expected):
    shown = stopped(task_with(tmp_path, reviews_csv=contents), capfd)
    assert expected in shown
    assert "Traceback" not in shown


def test_a_missing_file_is_named(tmp_path, capfd):
    factories.write_task(tmp_path, ROWS)
    (tmp_path / "reviews.csv").unlink()
    assert "reviews.csv" in stopped(tmp_path, capfd)


def test_texts_cut_off_beyond_the_bound_stop_the_line(tmp_path, capfd):
    factories.write_task(tmp_path, ROWS)
    edited(tmp_path, "max_length: 16", "max_length: 4")
    shown = stopped(tmp_path, capfd)
    assert "max_length" in shown


def test_many_classes_long_texts_emoji_and_chinese_go_through(tmp_path, capfd):
    """77 classes with 5 rows in the rarest, a text of 100,000 characters, emoji and Chinese."""
    rows = [
        (f"great {name} item {row}", f"class{name:02}", "north") for name in range(77) for row in range(5 + name % 3)
    ]
    rows += [("love " * 20_000 + "x", "class00", "north"), ("好的 谢谢 😀👍🏽", "class01", "south")]
    factories.write_task(tmp_path, rows, epochs=1)
    edited(tmp_path, "  gates: {accuracy: 0.8, macro_f1: 0.8}", "  gates: {beats_majority: false}")
    edited(tmp_path, "train:\n", "validation: {max_out_of_vocabulary: 1.0}\ntrain:\n")
    result = local_runner.run(configs.load(tmp_path / "task.yaml"), "task.yaml")
    assert result.version, capfd.readouterr().out

    from bertline.serving.client import Client
    from bertline.serving.server import Server

    with (
        Server.of(tmp_path / "runs" / "serving", "reviews", port=0) as server,
        Client(server.address, "reviews") as client,
    ):
        answers = client.predict(["", "😀" * 500, "谢谢", "great " * 20_000])
    assert all(sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-3) for answer in answers)
    assert all(len(answer.probabilities) == 77 for answer in answers)


def test_text_pairs_go_through_and_both_texts_are_read(tmp_path, capfd):
    factories.write_task(tmp_path, ROWS)
    rows = [(f"item {number}", text, label) for number, (text, label, _) in enumerate(factories.reviews(900))]
    factories.write_csv(tmp_path / "reviews.csv", rows, header=("about", "text", "label"))
    edited(tmp_path, "  keep: [shop]", "  text: about\n  text_pair: text")
    edited(tmp_path, "  slices: [shop]\n", "")
    edited(tmp_path, "max_length: 16", "max_length: 24")
    result = local_runner.run(configs.load(tmp_path / "task.yaml"), "task.yaml")
    assert result.version, capfd.readouterr().out

    from bertline.serving.client import Client
    from bertline.serving.server import Server

    with (
        Server.of(tmp_path / "runs" / "serving", "reviews", port=0) as server,
        Client(server.address, "reviews") as client,
    ):
        answers = client.predict(["item 5"] * 2, ["it was broken and late", "it was great and perfect"])
    assert [answer.label for answer in answers] == ["negative", "positive"]
