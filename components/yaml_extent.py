"""Refuses YAML that is nested deeper or grows larger than any config or description, before anything is built of it.

A few hundred bytes can stand for more values than a machine has memory, through aliases of aliases, and a text that is
nested some thousand levels deep ends every reader's recursion.
"""

from __future__ import annotations

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

DEPTH = 50  # levels; the deepest key of a config is on the fifth
VALUES = 1_000_000  # keys and values, those behind an alias each time; labels and files are the only long lists


class TooMuch(YAMLError):
    """The text is nested too deep, or stands for too many values; the message says where."""


def check(text: str) -> None:
    """Counts the values that a text stands for, without building one.

    Raises:
        TooMuch: they are too many, or too deep.
        YAMLError: it is no YAML.
    """
    sizes: dict[str, int] = {}  # of what each anchor names
    inside: list[tuple[str | None, int]] = [(None, 0)]  # each open collection: its anchor, the values in it so far
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionStartEvent):
            inside.append((event.anchor, 1))
            if len(inside) > DEPTH:
                raise TooMuch(f"line {event.start_mark.line + 1} is nested more than {DEPTH} levels deep")
            continue
        if isinstance(event, CollectionEndEvent):
            anchor, size = inside.pop()
        elif isinstance(event, AliasEvent):
            if event.anchor in {above for above, _ in inside}:
                raise TooMuch(f"line {event.start_mark.line + 1}: *{event.anchor} stands inside what it names")
            anchor, size = None, sizes.get(event.anchor, 1)  # one that names nothing is told by the parser
        elif isinstance(event, ScalarEvent):
            anchor, size = event.anchor, 1
        else:
            continue
        if anchor:
            sizes[anchor] = size
        above, before = inside[-1]
        inside[-1] = above, before + size
        if before + size > VALUES:
            raise TooMuch(
                f"line {event.start_mark.line + 1}: with its aliases it stands for more than {VALUES:,} values"
            )
