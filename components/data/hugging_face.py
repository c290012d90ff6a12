"""What Hugging Face's datasets say of themselves: names of classes, and which files hold rows.

The layouts are those of the `datasets` library: `push_to_hub`, `save_to_disk`, and its cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from bertline.components import yaml_extent

CLASS_LABEL = "ClassLabel"
LISTS = ("Sequence", "List", "LargeList")  # of features, by the versions of datasets
METADATA = b"huggingface"  # key in the schema's metadata
FRONT_MATTER = "---"

DICTIONARY = "dataset_dict.json"  # names the splits of a folder that save_to_disk wrote
STATE = "state.json"  # names the files of one split in it
# Files that describe a dataset, and hold none of its rows.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "README.md")
BESIDE_ROWS = {DICTIONARY, STATE, "dataset_info.json", "dataset_infos.json"}
ROWS = (".arrow", ".parquet")
LEVELS = 3  # folders upwards from the rows in which a description may lie

ClassNames = tuple[tuple[str, tuple[str, ...]], ...]


def is_description(path: Path) -> bool:
    """Whether a file describes a dataset, or is a copy that `map` made: by its name, and files beside it or below."""
    if path.suffix == ".arrow" and path.name.startswith("cache-"):
        return (path.parent / "dataset_info.json").is_file()
    if path.name not in BESIDE_ROWS:
        return False
    return path.name in (DICTIONARY, "dataset_infos.json") or any(
        entry.suffix in ROWS for pattern in ("*", "*/*") for entry in path.parent.glob(pattern)
    )


def descriptions(path: Path) -> tuple[str, ...]:
    """The paths of files that name the classes of a file of rows, the nearest first.

    One that is empty counts: it may be a copy that is still to come.
    """
    places = (folder / name for folder in list(path.parents)[:LEVELS] for name in DESCRIPTIONS)
    files = [place for place in places if place.is_file()]
    return tuple(str(file) for file in files if not file.stat().st_size or in_descriptions([str(file)])[1])


# === Names of classes ===


def in_metadata(metadata: Mapping[bytes, bytes] | None) -> ClassNames:
    """The names of classes in the metadata of an Arrow schema; () where it has none.

    Args:
        metadata: of the schema.
    """
    try:
        features = json.loads((metadata or {}).get(METADATA, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):  # another program's metadata under this key say nothing of classes
        return ()
    return tuple(_named(features))


def in_descriptions(paths: Sequence[str]) -> tuple[str, ClassNames]:
    """The first of the descriptions that names classes, and the names; ("", ()) where none does."""
    for path in paths:
        for features in _features(Path(path)):
            if names := tuple(_named(features)):
                return Path(path).name, names
    return "", ()


def _features(path: Path) -> Iterator[object]:
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".md":
        yield from _in_front_matter(text)
        return
    try:
        info = json.loads(text)
    except ValueError:  # a file of this name that is none of datasets
        return
    # dataset_infos.json has the configurations' names above what dataset_info.json has.
    infos = [info, *info.values()] if isinstance(info, dict) else []
    yield from (one["features"] for one in infos if isinstance(one, dict) and "features" in one)


def _in_front_matter(text: str) -> Iterator[object]:
    """What the YAML at the top of a README.md says below `dataset_info`, in the form of dataset_info.json."""
    if not text.startswith(FRONT_MATTER):
        return
    try:
        front_matter = text.split(FRONT_MATTER, 2)[1]
        yaml_extent.check(front_matter)
        info = YAML(typ="safe", pure=True).load(front_matter)
    except YAMLError:  # a README that only looks like a card, or one that no machine should build
        return
    infos = info.get("dataset_info", []) if isinstance(info, dict) else []
    for one in infos if isinstance(infos, list) else [infos]:
        listed = one.get("features", []) if isinstance(one, dict) else []
        yield dict(_of_card(listed))


def _of_card(listed: object) -> Iterator[tuple[str, object]]:
    for feature in listed if isinstance(listed, list) else []:
        if not isinstance(feature, dict) or "name" not in feature:
            continue
        if isinstance(inner := feature.get("struct"), list):
            yield feature["name"], dict(_of_card(inner))
        elif names := _card_classes(feature):
            yield feature["name"], {"_type": CLASS_LABEL, "names": names}


def _card_classes(feature: dict[str, object]) -> list[object]:
    """The names of a feature's classes, whether it is one or a list of them; [] where it has none."""
    kind = feature.get("dtype") or feature.get("sequence") or feature.get("list")
    label = kind.get("class_label") if isinstance(kind, dict) else None
    names = label.get("names") if isinstance(label, dict) else None
    if isinstance(names, dict):  # {"0": "neg", "1": "pos"}
        return [names[key] for key in sorted(names, key=int)]
    return names or []


def _named(features: object, prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, feature in features.items() if isinstance(features, dict) else ():
        if not isinstance(feature, dict):
            continue
        if feature.get("_type") == CLASS_LABEL:
            if names := feature.get("names"):
                yield f"{prefix}{name}", tuple(map(str, names))
        elif feature.get("_type") in LISTS and isinstance(feature.get("feature"), dict):
            yield from _named({name: feature["feature"]}, prefix)
        elif "_type" not in feature:
            yield from _named(feature, f"{prefix}{name}.")
