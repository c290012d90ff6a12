"""A damaged or copied folder of runs is told in words, with the file and the way out, before anything is trained."""

import shutil

import pytest


def refused(line, config=None, command="run"):
    """What a command that must fail says, on one line; it must not have trained."""
    ran = line.bertline(command, config or line.config)
    said = " ".join((ran.stdout + ran.stderr).split())
    assert ran.returncode == 1, said
    assert "Error:" not in said and "train " not in said and "fault of bertline" not in said
    return said


def record(line):
    return line.folder / "runs" / "metadata.sqlite"


@pytest.mark.parametrize("command", ["run", "runs"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.write_text("no database at all"), "cannot be read: file is not a database"),
        (lambda file: file.write_bytes(file.read_bytes()[:60_000]), "cannot be read: database disk image is malformed"),
        (lambda file: file.write_bytes(b""), "this record of past runs ends with execution none, and"),
        (lambda file: file.unlink(), "this record of past runs ends with execution none, and"),
    ],
    ids=["not a database", "cut off", "empty", "gone"],
)
def test_a_damaged_record_of_past_runs(line, damage, words, command):
    damage(record(line))
    if command == "runs" and not record(line).exists():
        return  # it says that there are no runs yet, and writes nothing
    said = refused(line, command=command)
    assert f"{record(line)}: " in said and words in said
    assert f"move {line.folder}/runs/artifacts and {record(line)} away: the next run then trains anew" in said
    assert len(line.versions()) == 1


def test_a_copied_folder_says_where_its_results_lie(line, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(line.folder, copy)
    text = line.config.read_text(encoding="utf-8").replace(f"{line.folder}/runs", f"{copy}/runs")
    (copy / "task.yaml").write_text(text, encoding="utf-8")
    said = refused(line, copy / "task.yaml")
    assert f"{copy}/runs/metadata.sqlite: past results are on record in {line.folder}/runs/artifacts" in said
    assert "To use them go on there; or move" in said

    shutil.rmtree(line.folder / "runs")
    assert f"To use them move it back to {line.folder}/runs; or move" in refused(line, copy / "task.yaml")
    (copy / "runs").rename(line.folder / "runs")
    ran = line.run()
    assert ran.returncode == 0 and "every stage cached" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.parametrize("stage", ["ExampleGen/examples", "Transform/transformed_examples"])
def test_a_shard_that_was_cut_off_is_found_before_it_is_read(line, stage):
    (result,) = (line.folder / "runs" / "artifacts" / stage).iterdir()
    shard = next((result / "Split-test").glob("*.gz"))
    shard.write_bytes(shard.read_bytes()[:-20])
    line.edit("learning_rate: 0.002", "learning_rate: 0.003")
    said = refused(line)
    assert f"{result}: its files have" in said and "Remove that folder; the next run makes it again" in said
