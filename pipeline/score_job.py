"""A job that scores files: its folder beside the output, and its three steps with their lines on the screen."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bertline.errors import UserError
from bertline.pipeline import screen

if TYPE_CHECKING:
    from bertline.components.scoring.cut import Sources
    from bertline.components.scoring.models import Model
    from bertline.components.scoring.output import Totals
    from bertline.components.scoring.parts import Parts

log = logging.getLogger("bertline.progress")

UNFINISHED = ".unfinished"  # ends the name of the job's folder
LOCK_FILE = ".lock"
SECONDS_PER_LOOK = 0.5  # at the answered parts

Progress = Callable[[int], None]  # is told how many rows are done


def _folder(output: Path) -> str:
    return str(output.absolute().with_name(output.name + UNFINISHED))


def check_output(output: Path) -> None:
    """Looks for files that would be replaced, before anything takes time.

    Raises:
        UserError: there are some.
    """
    from bertline.components.scoring.parts import Parts, quarantine_of

    job, quarantine = Parts(_folder(output)), quarantine_of(output)
    begun = Path(job.folder).exists()
    if output.exists():
        whole = ""
        if begun and job.is_published():
            shutil.rmtree(job.folder)
            whole = ", and whole: only the folder of its job was left, which is removed now"
        raise UserError(f"{output} is there already{whole}. Name another file, or replace it with --force.")
    if quarantine.exists() and not begun:
        raise UserError(f"{quarantine} is there already. Name another output, or replace it with --force.")


@contextmanager
def opened(output: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Parts]:
    """The job's folder: a new one, or that of the same job, killed. It goes once the block has ended well.

    Args:
        output: the file that the job writes.
        identity: what is scored by what. Only the same job goes on.
        force: replaces another job.

    Raises:
        UserError: another process works on it, or the folder is another job's.
    """
    from bertline.components.scoring.parts import JOB_FILE, Parts

    folder = Path(_folder(output))
    job = Parts(str(folder))
    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another process is scoring into {output}: wait for it, or name another file.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Name an output elsewhere.") from error
    with held:
        before = job.read_json(JOB_FILE)
        if before != identity:
            if before is not None and not force:
                differing = " and ".join(name for name in identity if before.get(name) != identity[name])
                raise UserError(
                    f"{folder} is an unfinished job with other values of: {differing}. Go on with the same as then, or "
                    "start anew with --force."
                )
            _clear(folder)
            job.write_json(JOB_FILE, identity)
        job.tidy()
        yield job
        shutil.rmtree(folder)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK_FILE:
            path.unlink()


def run(
    job: Parts,
    scored: Sources,
    model: Model,
    arguments: list[str],
    console: screen.Screen,
    join: Callable[[int, Progress], Totals],
) -> Totals:
    """Cuts, scores and joins what is not done yet.

    Args:
        job: the folder.
        scored: the files.
        model: what answers.
        arguments: Beam's command line.
        console: shows the progress.
        join: writes the output from that many parts.

    Raises:
        UserError: a file is damaged, a worker was lost, or the server does not answer.
    """
    from bertline.components.errors import root_cause
    from bertline.components.scoring import cut, passes

    with screen.StageView(console, "read") as view:
        sizes = cut.cut(job, scored, reporter(None))
        files = f"{len(scored.files)} file{'s' if len(scored.files) != 1 else ''}"
    console.print(screen.line("read", f"{sum(sizes):,} rows of {files}", view.seconds))
    done = job.answered()
    before = sum(sizes[part] for part in done)
    if done:
        console.print(screen.line("resume", f"{before:,} of {sum(sizes):,} rows are scored already"))
    with screen.StageView(console, "score") as view, _watched(job, sizes, before):
        try:
            passes.score(job, [part for part in range(len(sizes)) if part not in done], model, arguments)
        except Exception as error:
            if (cause := root_cause(error)) is error:
                raise
            raise cause from error
    rate = (sum(sizes) - before) / max(view.seconds, 1e-9)
    console.print(screen.line("score", f"{sum(sizes) - before:,} rows, {rate:,.0f} examples/s", view.seconds))
    with screen.StageView(console, "write"):
        return join(len(sizes), reporter(sum(sizes)))


def reporter(total: int | None, before: int = 0) -> Progress:
    """Tells a StageView how many of `total` rows are done; `before` of them were done earlier."""
    began = time.monotonic()

    def report(done: int) -> None:
        rate = (done - before) / max(time.monotonic() - began, 1e-9)
        left = math.nan if total is None or not rate else (total - done) / rate
        figures = {"step": done, "steps": total, "examples_per_second": rate, "seconds_left": left}
        log.info("%s of %s rows", done, "?" if total is None else total, extra={"progress": figures})

    return report


@contextmanager
def _watched(job: Parts, sizes: list[int], before: int) -> Iterator[None]:
    """Reports the rows of the answered parts while a block runs, whatever process answers them."""
    ended = threading.Event()
    report = reporter(sum(sizes), before)

    def watch() -> None:
        last = -1
        while not ended.wait(SECONDS_PER_LOOK):
            if (done := sum(sizes[part] for part in job.answered())) != last:
                report(done)
                last = done

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
