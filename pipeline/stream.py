"""`bertline stream`: new texts are read, searched for names, scored, stored and counted, until Ctrl-C."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from rich.text import Text

from bertline.components.scoring import models
from bertline.components.scoring.models import ServerAway
from bertline.errors import UserError
from bertline.monitoring import alarms
from bertline.pipeline import predict, screen
from bertline.pipeline.config import Config
from bertline.pipeline.ending_signal import EndingSignal
from bertline.serving import releases, standing, storage
from bertline.streams import entities, opening, surges
from bertline.streams.engine import Engine, Tally
from bertline.streams.options import StreamModel
from bertline.streams.scoring import Named, Scorers
from bertline.streams.store import Away, Store
from bertline.streams.surges import Watch
from bertline.streams.texts import Taker

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until what was away is tried again, doubled each time
NEWER_SECONDS = 30.0  # between two looks for newer versions: a push is no matter of seconds, and a bucket costs a call
FORGET_SECONDS = 60.0  # between two removals of old texts
ANSWER_SECONDS = 10.0  # in which a server says its version
TELL_AGAIN = 600.0  # seconds until those who could not be told are told again
SHOWN_EVERY = 10.0  # seconds between two lines on what was read
SHOWN_ENTITIES, SHOWN_TEXTS = 5, 3


# === What a config names ===


@contextmanager
def opened(task: Config, file: Path) -> Iterator[Engine]:
    """The stream of a config, ready to read, for the length of a block.

    Raises:
        UserError: nothing is to be read, a model, a list or a package is missing, or the database does not answer.
    """
    options, folder = task.stream, Path(task.folder)
    if not options.source and not options.kafka:
        raise UserError(
            f"{file} names no stream. Write `stream: {{source: posts.jsonl}}`: a file that grows, a folder of such "
            "files, or - for stdin; or `kafka`."
        )
    if task.data.text_pair:
        raise UserError("data.text_pair: a stream has single texts, and this task's model reads pairs.")
    if isinstance(task.data.text, list) and options.text is None:
        raise UserError(f"stream.text: name the field of the text; data.text has several: {task.data.text}.")
    finder = entities.Finder(entities.read(folder / options.entities)) if options.entities else None
    models = [named(name, model, task, file) for name, model in (options.models or {task.name: StreamModel()}).items()]
    try:
        store = Store(options.database, folder, task.root_folder / "stream", options.window)
        places = store.places()
    except Away as error:
        raise UserError(str(error)) from error
    read = opening.opened(options, folder, places)
    taker = Taker(options, task.data.text if isinstance(task.data.text, str) else "")
    engine = Engine(read, taker, finder, Scorers(models), store, options.batch)
    try:
        yield engine
    finally:
        engine.close()


def named(name: str, model: StreamModel, task: Config, file: Path) -> Named:
    """One of the models that score.

    Raises:
        UserError: it is not there, or reads no single texts.
    """
    newest = _at_address(name, model) if model.address else _exported(name, model, task, file)

    def newer(now: Named) -> Named | None:
        other = _at_address(name, model, now) if model.address else _exported(name, model, task, file, now)
        return other and replace(other, newer=partial(newer, other))

    return replace(newest, newer=partial(newer, newest))


def _at_address(name: str, model: StreamModel, now: Named | None = None) -> Named | None:
    """The model that a server answers with; None if that is still the one that scores now."""
    served = model.name or name
    with predict.connected(model.address, served, api_key=predict.api_key(None)) as client:
        version, signatures = client.metadata(timeout=ANSWER_SECONDS)
    if now and now.version == str(version):
        return None
    _check(signatures, f"{served} at {model.address}")
    connection = {"api_key": predict.api_key(None)}
    return Named(name, str(version), models.Served(model.address, served, version, connection), model.negative)


def _exported(name: str, model: StreamModel, task: Config, file: Path, now: Named | None = None) -> Named | None:
    """The version of a folder that answers; None if that is the one that scores now."""
    from bertline.serving.servable import SERVE_TAG, signature_defs

    path, version = _answering(model, task, file)
    if now and now.version == version:
        return None
    _check(signature_defs(path, (SERVE_TAG,)), path)
    return Named(name, version, models.Exported(path, models.cores()), model.negative)


def _answering(model: StreamModel, task: Config, file: Path) -> tuple[str, str]:
    """The folder of a SavedModel, and its version: that of the folder of versions, else the folder's name."""
    place = _place(model.folder, task) if model.folder else task.serving_folder
    if releases.holds_saved_model(place):
        return place, PurePosixPath(place).name
    versions = releases.whole_versions(place)
    if not versions and not model.folder:
        predict.require_release(task, file)
    if not versions:
        raise UserError(f"stream.models: {place} holds neither a SavedModel nor folders of versions of one.")
    version = standing.answering(place, not model.folder and task.serve.canary is not None, versions)
    return versions[version][0], str(version)


def _place(folder: str, task: Config) -> str:
    return folder.rstrip("/") if storage.is_remote(folder) else str(Path(task.folder) / Path(folder).expanduser())


def _check(signatures: dict, where: str) -> None:
    if predict.reads_pairs(signatures, where):
        raise UserError(f"{where} reads text pairs, and a stream has single texts.")


# === Surges ===


@dataclass
class Alarms:
    """Surges on their way to people.

    Attributes:
        watch: that finds them.
        store: that has them.
        task: the config's name.
        window: of the stream.
        log: what apprise says goes there.
        messages: to people; None for none.
        page: the HTML file; None for none.
        seen: how many windows had surges.
        said: the last words on why nothing is judged.
        tell_at: when those who could not be told are told again, as time.monotonic has it.
    """

    watch: Watch
    store: Store
    task: str
    window: datetime.timedelta
    log: Path
    messages: alarms.Messages | None = None
    page: Path | None = None
    seen: int = 0
    said: str = ""
    tell_at: float = 0.0

    @classmethod
    def of(cls, engine: Engine, task: Config, notify: bool, page: Path | None = None) -> Alarms:
        """Those of a config.

        Raises:
            UserError: an address of `stream.surge.notify` cannot be used.
        """
        options, addresses = task.stream, task.stream.surge.notify
        messages = alarms.Messages(addresses, "stream.surge.notify") if notify and addresses else None
        watch = Watch(options, engine.store, engine.names, engine.models)
        return cls(
            watch, engine.store, task.name, options.window, task.root_folder / "logs" / "stream.log", messages, page
        )

    def look(self, shown: screen.Screen) -> None:
        """Judges the windows that have ended, shows the surges and tells people."""
        look = self.watch.look()
        if look.small and look.small != self.said:
            shown.print(screen.line("small", look.small, style="yellow"))
        self.said = look.small or self.said
        for surge in look.surges:
            show_surge(surge, self.store, self.window, shown)
        self.seen += len(look.surges)
        if self.page and (look.judged or not self.page.exists()):
            self._write_page()
        due = look.surges or time.monotonic() >= self.tell_at
        if self.messages and due and (fault := self._tell()):
            self.tell_at = time.monotonic() + TELL_AGAIN
            shown.print(screen.line("note", fault, style="yellow"))

    def _write_page(self) -> None:
        from bertline.monitoring.page import write
        from bertline.streams import page

        made_at = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
        text = page.render(self.store, self.task, self.watch.entities, self.watch.models, self.window, made_at)
        write(self.page, text)

    def _tell(self) -> str:
        """Tells of what not everybody was told yet; returns what went wrong."""
        fault = ""
        newest = self.store.newest()
        for surge in self.store.surges(newest and newest - surges.TOLD_WITHIN, untold=True):
            texts = self.store.texts_by_id(surge["ids"])
            title = f"bertline: {self.task}: surge of {surges.subject(surge)}"
            with screen.quiet(self.log):
                told = self.messages.tell(title, surges.message(surge, self.window, texts))
            if told:
                self.store.told(surge)
            else:
                fault = self.messages.untold
        return fault


@contextmanager
def started(
    task: Config, file: Path, shown: screen.Screen, log: Path, notify: bool = True, page: Path | None = None
) -> Iterator[tuple[Engine, Alarms]]:
    """The stream of a config and its alarms, ready to `follow`, for the length of a block; says what is read by what.

    Args:
        task: the config.
        file: where it is.
        shown: the screen.
        log: what libraries say while they start goes there.
        notify: whether people are told of surges.
        page: the HTML file to write; None for none.

    Raises:
        UserError: as `opened`, or an address of `stream.surge.notify` cannot be used.
    """
    with ExitStack() as stack:
        with screen.quiet(log) as starting, starting.status("starting (importing TensorFlow takes some seconds)"):
            engine = stack.enter_context(opened(task, file))
            watched = Alarms.of(engine, task, notify, page)
        shown.print(Text.assemble(("stream", "bold"), f"  {title(engine, file)}"), soft_wrap=True)
        yield engine, watched


@dataclass
class Tended:
    """What a stream does now and then beside reading: newer versions of its models, and texts that became too old."""

    engine: Engine
    task: Config
    shown: screen.Screen
    newer_at: float = field(default_factory=lambda: time.monotonic() + NEWER_SECONDS)
    forget_at: float = 0.0  # at the start, when nothing may have run for days

    def look_soon(self) -> None:
        """Looks for newer versions with the next call."""
        self.newer_at = 0.0

    def tend(self) -> None:
        """Does what is due.

        Raises:
            store.Away: the database does not answer.
            UserError: another process reads the same.
        """
        if time.monotonic() >= self.newer_at:
            for word in self.engine.take_up_newer():
                self.shown.print(screen.line("model", word), soft_wrap=True)
            self.newer_at = time.monotonic() + NEWER_SECONDS
        keep = self.task.stream.keep
        if keep and time.monotonic() >= self.forget_at:
            removed = self.engine.store.forget(datetime.datetime.now(datetime.UTC) - keep)
            self.forget_at = 0.0 if removed else time.monotonic() + FORGET_SECONDS  # more may be left


def follow(engine: Engine, watched: Alarms, task: Config, shown: screen.Screen, once: bool) -> Tally:
    """Reads until a signal; with `once` until nothing is left to read.

    Returns:
        What became of everything that was read.

    Raises:
        UserError: with `once`, when a server or the database does not answer, or another process reads the same.
    """
    ending, all_, since, pause, idle = EndingSignal(), Tally(), Tally(), FIRST_PAUSE, 0
    told = looked = time.monotonic()
    drained, every = 0, task.stream.every.total_seconds()  # steps in a row that left nothing behind
    tended = Tended(engine, task, shown)
    while not ending.came:
        tally = Tally()
        try:
            tended.tend()
            tally = engine.step()
            for note in tally.notes:
                shown.print(screen.line("note", note, style="yellow"))
            drained = 0 if tally.more else drained + 1
            # A busy source always has something new; then the time decides, once the backlog of all is read.
            due = drained >= len(engine.sources) and time.monotonic() - looked >= every
            if due or (not tally.read and idle + 1 >= len(engine.sources)):
                watched.look(shown)
                looked = time.monotonic()
        except (Away, ServerAway) as error:
            if once:
                raise UserError(str(error)) from error
            shown.print(f"{error} Nothing is lost; it is tried again in {pause:.0f} s.", style="red", soft_wrap=True)
            ending.sleep(pause)
            tended.look_soon()  # the version that is asked may be gone, and another there
            pause, since = min(2 * pause, LONGEST_PAUSE), since.plus(tally)
            continue
        pause = FIRST_PAUSE
        since = since.plus(tally)
        idle = 0 if tally.read else idle + 1
        caught_up = idle >= len(engine.sources)
        if since.read and (caught_up or time.monotonic() - told > SHOWN_EVERY):
            show(since, shown)
            all_ = all_.plus(since)
            since, told = Tally(), time.monotonic()
        if caught_up:
            if engine.ended or (once and engine.caught_up):
                break
            ending.sleep(every)
    all_ = all_.plus(since)
    if once:
        for note in (words for source in engine.sources for words in source.unfinished()):
            shown.print(screen.line("note", note, style="yellow"))
        if not all_.read:
            shown.print(screen.line("read", "nothing new"))
    return all_


# === The screen ===


def show_surge(surge: dict, store: Store, window: datetime.timedelta, shown: screen.Screen) -> None:
    """A surge: what, how much, since when, and when it is new the texts that show it."""
    shown.print(Text.assemble(("SURGE", "bold red"), f"  {surges.words(surge, window)}"), soft_wrap=True)
    if surge["since"] != surge["start"]:
        shown.print(f"  since {surge['since']:%Y-%m-%d %H:%M} UTC", style="dim")
        return
    for text in store.texts_by_id(surge["ids"][:SHOWN_TEXTS]):
        shown.print(f"    {surges.labels(text)}  {screen.excerpt(text['text'])}", style="dim")


def title(engine: Engine, file: Path) -> str:
    """What is read by what, in a line."""
    models = ", ".join(f"{model.name} version {model.version}" for model in engine.models)
    names = f"; {len(engine.names):,} entities" if engine.names else ""
    return f"{screen.display(file)}  {models}{names}; {engine.store.name}"


def show(tally: Tally, shown: screen.Screen) -> None:
    """What became of records since the last line."""
    words = f"{tally.read:,} records: {tally.stored:,} texts"
    if refused := sum(tally.refused.values()):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.refused.most_common())
        words += f", {refused:,} quarantined ({reasons})"
    if tally.entities:
        words += "; " + ", ".join(f"{name} {count:,}" for name, count in tally.entities.most_common(SHOWN_ENTITIES))
    shown.print(screen.line("read", words))
