"""`bertline demo --stream`: the demo's tweets replayed as four weeks of a stream, to an alarm and a page."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from bertline.errors import UserError
from bertline.pipeline import replay, screen, stream
from bertline.pipeline.config import Config
from bertline.pipeline.replay import SURGE
from bertline.streams import entities
from bertline.streams.store import Series, Store


def play(task: Config, file: Path, shown: screen.Screen, log: Path) -> bool:
    """Writes the replay, reads it as `bertline stream` does, and says what came of it.

    Args:
        task: with a pushed model.
        file: its config.
        shown: the screen.
        log: what libraries say goes there.

    Returns:
        Whether the surge that was put in raised an alarm.

    Raises:
        UserError: the config's stream is another one than the demo's.
    """
    folder = task.root_folder / "stream"
    tweets, page = folder / "tweets.jsonl", folder / "page.html"
    _check_is_the_demos(task, file, tweets)
    if folder.exists():
        shutil.rmtree(folder)  # each call tells the whole story
    folder.mkdir(parents=True)
    texts = replay.write(task, entities.Finder(entities.read(Path(task.folder) / task.stream.entities)), tweets)
    _say_what_is_made_up(texts, tweets, shown)
    with stream.started(task, file, shown, log, page=page) as (engine, alarms):
        tally = stream.follow(engine, alarms, task, shown, once=True)
        shown.print()
        shown.print(screen.line("stored", f"{tally.stored:,} texts in {screen.display(folder / 'stream.db')}"))
        for rank, (name, texts, negative) in enumerate(_ranked(engine.store, engine.names, task.name), 1):
            shown.print(screen.line(f"{rank:3}", f"{name:20}{texts:6,} texts, {negative:4.0%} negative"))
        seen = _show_the_surge(alarms, shown)
    shown.print(screen.line("page", screen.display(page)))
    return seen


def _check_is_the_demos(task: Config, file: Path, tweets: Path) -> None:
    sources = [(Path(task.folder) / source).resolve() for source in task.stream.source]
    if sources != [tweets.resolve()] or task.stream.kafka or task.stream.database or not task.stream.entities:
        raise UserError(
            f"{file}: `stream` is no longer the demo's, which reads {screen.display(tweets)} into a database beside "
            f"it. For a stream of your own: bertline stream {file}"
        )


def _say_what_is_made_up(texts: int, tweets: Path, shown: screen.Screen) -> None:
    words = (
        f"{texts:,} tweets that name an airline, as {replay.DAYS // 7} weeks from {replay.START:%Y-%m-%d} on, in "
        f"{screen.display(tweets)}. The texts are real; the times are made up. Put in: a surge of {SURGE.texts} "
        f"{SURGE.label} tweets on {SURGE.entity}, {SURGE.start:%Y-%m-%d %H:%M} to {SURGE.end:%H:%M} UTC"
    )
    shown.print(screen.line("replay", words))


def _ranked(store: Store, names: list[str], model: str) -> list[tuple[str, int, float]]:
    """The entities by their texts: name, texts, negative share."""
    counts = store.counts(replay.START, replay.START + datetime.timedelta(days=replay.DAYS))

    def total(series: Series) -> int:
        return sum(counts.get(series, {}).values())

    ranked = sorted(names, key=lambda name: -total(Series(name)))
    return [
        (name, texts, total(Series(name, model, SURGE.label)) / texts)
        for name in ranked
        if (texts := total(Series(name)))
    ]


def _show_the_surge(alarms: stream.Alarms, shown: screen.Screen) -> bool:
    """The alarm of the surge that was put in; False where there was none."""
    found = alarms.store.surges(SURGE.start)
    mine = [row for row in found if row["entity"] == SURGE.entity and row["start"] < SURGE.end]
    if not mine:
        shown.print(screen.line("surge", "the one that was put in raised no alarm", style="bold red"))
        return False
    others = sum(row["start"] >= SURGE.end or row["start"] < SURGE.start for row in alarms.store.surges())
    words = f"the one that was put in was seen; {others or 'no'} {'alarm' if others == 1 else 'alarms'} at other times"
    shown.print(screen.line("surge", words, style="green"))
    stream.show_surge(mine[0], alarms.store, alarms.window, shown)
    return True
