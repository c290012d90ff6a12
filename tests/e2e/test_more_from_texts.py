"""Further pre-training and variants of the training rows, through the whole line."""

import csv
import io
import json
import re

import factories
import pytest
from lines import Line, first_evaluation

OPERATIONS = "[synonyms, swap, masked_lm, command]"
AUGMENT = f"{{operations: {OPERATIONS}, synonyms: words.txt, variants: 2, command: [./shorter.sh]}}"


@pytest.mark.shipped
def test_both_run_once_and_say_what_they_added(tmp_path, warm):
    line = Line(tmp_path, warm)
    rows = factories.reviews(300)
    config = factories.write_task(tmp_path, rows, epochs=2, augment=AUGMENT)
    more = "pretrain: {source: texts.csv, epochs: 2}\n"
    config.write_text(config.read_text(encoding="utf-8") + more, encoding="utf-8")
    line.edit("gates: {accuracy: 0.8, macro_f1: 0.8}", "gates: {beats_majority: false}")
    factories.write_csv(tmp_path / "texts.csv", [*factories.reviews(200, seed=5), *rows])
    (tmp_path / "words.txt").write_text("great, perfect\nlate, awful\nlove, thanks\n", encoding="utf-8")
    (tmp_path / "shorter.sh").write_text("#!/bin/sh\nsed 's/the //'\n", encoding="utf-8")
    (tmp_path / "shorter.sh").chmod(0o755)

    ran = line.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for name in ("pretrain", "probe", "augment"):
        assert f"\n  {name} " in ran.stdout
    _, release = first_evaluation(tmp_path)
    assert release["pretraining"]["texts"] > 300
    (card,) = tmp_path.glob("runs/serving/*/MODEL_CARD.md")
    assert "**Further pre-training:**" in card.read_text(encoding="utf-8")
    told = line.bertline("variants", config)
    made = list(csv.DictReader(io.StringIO(told.stdout)))
    texts = {text for text, _, _ in rows}
    assert {row["operation"] for row in made} == {"synonyms", "swap", "masked_lm", "command"}
    assert all(row["original"] in texts and row["text"] not in texts for row in made)

    assert "every stage cached" in line.run().stdout
    (tmp_path / "words.txt").write_text("great, perfect, superb\n", encoding="utf-8")
    again = line.run().stdout
    begun = {name: again.index(f"\n  {name} ") for name in ("pretrain", "probe", "augment", "train", "export")}
    assert "(cached)" in again[begun["pretrain"] : begun["probe"]]
    assert "(cached)" not in again[begun["augment"] : begun["train"]]


@pytest.mark.shipped
def test_trials_train_on_variants_from_the_pretrained_weights(tmp_path, warm):
    line = Line(tmp_path, warm)
    config = factories.write_task(tmp_path, factories.reviews(300), epochs=1, augment="{operations: [swap]}")
    more = "pretrain: {epochs: 1}\ntune: {space: {train.learning_rate: [0.001, 0.003]}}\n"
    config.write_text(config.read_text(encoding="utf-8") + more, encoding="utf-8")
    line.edit("gates: {accuracy: 0.8, macro_f1: 0.8}", "gates: {beats_majority: false}")
    searched = line.bertline("tune", config, "--trials", "1")
    assert searched.returncode == 0, searched.stdout + searched.stderr
    tuned = (tmp_path / "task-tuned.yaml").read_text(encoding="utf-8")
    made, rows = re.search(r"augment +([\d,]+) variants of ([\d,]+) training rows", searched.stdout).groups()
    (trained,) = re.findall(r"Trained on ([\d,]+) rows", tuned)
    assert _count(trained) == _count(made) + _count(rows)
    loss = float(re.search(r"Trial 1: validation loss ([\d.]+)", tuned)[1])

    ran = line.bertline("run", tmp_path / "task-tuned.yaml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "(cached)" in ran.stdout[ran.stdout.index("\n  pretrain ") : ran.stdout.index("\n  probe ")]
    (record,) = tmp_path.glob("runs/artifacts/Trainer/model_run/*/training.json")
    (epoch,) = json.loads(record.read_text(encoding="utf-8"))["epochs"]
    assert epoch["validation_loss"] == pytest.approx(loss, abs=1e-6)


def _count(shown):
    return int(shown.replace(",", ""))
