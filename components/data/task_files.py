"""Which files a task reads: from the sources of its DataOptions to files, their splits and their fingerprint."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import xxhash

from bertline.components import spans
from bertline.components.data import file_kinds, folders, hugging_face, packing
from bertline.components.data.reader import FOLDERS, SourceFile
from bertline.components.options import DataOptions, Query, Source
from bertline.errors import UserError
from bertline.models import packages
from bertline.models.features import SPLITS

ROLES = (*SPLITS, "only_train")  # of files; rows of the last are in no other split

DESCRIBED = ("parquet", "arrow")  # formats whose classes may be named in a file beside them

# === Of a task ===


def by_split(options: DataOptions, base_folder: str) -> dict[str, list[SourceFile]]:
    """The files that a task reads, by the role of their rows. Those of `source`, which hashes split, are under train.

    Args:
        options: name the sources.
        base_folder: where relative paths start.

    Returns:
        The files by each of ROLES, in that order.

    Raises:
        UserError: as `expand`.
    """
    only_train = [
        source
        for source in options.train_source or []
        if not isinstance(source, str) or spans.is_there(source, base_folder)
    ]
    sources = (options.source, options.validation_source, options.test_source, only_train)
    return {
        role: expand(patterns or [], base_folder, options.format, options.newest_spans)
        for role, patterns in zip(ROLES, sources, strict=True)
    }


def of_task(options: DataOptions, base_folder: str) -> list[SourceFile]:
    """All files that a task reads; arguments and errors as `by_split`."""
    return [file for files in by_split(options, base_folder).values() for file in files]


def paths_of_task(options: DataOptions) -> Callable[[str], list[str]]:
    """Finds the files that a task reads in a folder, by their names only; for `object_store.local_copy`."""
    return lambda folder: [path for file in of_task(options, folder) for path in (file.path, *file.described_by)]


def fingerprint(files: Iterable[SourceFile]) -> str:
    """Hash of the files' names and whole contents, in order: one changed byte anywhere changes it. 32 hex digits."""
    digest = xxhash.xxh3_128()
    for file in files:
        # The parent's name is the label in a folder per class; names further up only say where the data lie.
        digest.update("/".join(Path(file.path).parts[-2:]).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(f"{file.format}{file.member or ''}".encode("utf-8", "surrogateescape") + b"\0")
        with open(file.path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        _, class_names = hugging_face.in_descriptions(file.described_by)
        digest.update(repr(class_names or "").encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


# === Of sources ===


def expand(
    sources: Sequence[Source], base_folder: str, format: str = "auto", newest_spans: int | None = None
) -> list[SourceFile]:
    """The files that the sources name, in a stable order, each once.

    Args:
        sources: paths, globs, folders of data files at any depth, folders with a folder per class,
            ARCHIVE.zip!MEMBER, package://NAME/PATH, or queries whose rows `sql.fetched` has written.
        base_folder: where relative paths start.
        format: a format of DataOptions, or "auto" to go by the file's name.
        newest_spans: where a source has {SPAN}, how many spans to take; None for all.

    Raises:
        UserError: nothing is there, or a file's format is not known.
    """
    files: dict[str, SourceFile] = {}
    for source in spans.resolve([source for source in sources if isinstance(source, str)], base_folder, newest_spans):
        place, member = without_member(source, base_folder)
        for match in _matches(place, Path(base_folder)):
            if match.is_dir():
                found = _in_folder(match, place, base_folder, format)
            else:
                name = _name(match, match, place, Path(base_folder))
                found = [_file(match, name + (f"{packing.MEMBER}{member}" if member else ""), format, member)]
            for file in found:
                files.setdefault(f"{file.path}{packing.MEMBER}{file.member}", file)
    for query in (source for source in sources if isinstance(source, Query)):
        file = _written(query, base_folder)
        files.setdefault(file.path, file)
    return list(files.values())


def _written(query: Query, base_folder: str) -> SourceFile:
    """The file with a query's rows."""
    if not query.file:
        raise UserError(
            f"data source {query}: only `bertline run` asks a database; here, name a file that holds the rows, such as "
            "the Parquet file that a run writes to runs/NAME/queries/."
        )
    path = Path(query.file)
    return SourceFile(query.file, _name(path, path, query.file, Path(base_folder)), "parquet")


def without_member(source: str, base_folder: str) -> tuple[str, str | None]:
    """The path of a zip archive and the member that is named behind it, as in archive.zip!reviews.csv.

    Of any other source: the source as it is, and None.

    Args:
        source: as in DataOptions.
        base_folder: where relative paths start.
    """
    archive, mark, member = source.partition(f"{packing.ZIP_ENDING}{packing.MEMBER}")
    if not mark or (Path(base_folder) / Path(source).expanduser()).exists():
        return source, None
    return archive + packing.ZIP_ENDING, member


def _file(path: Path, name: str, format: str, member: str | None = None) -> SourceFile:
    kind = file_kinds.kind_of(path, name, format, member)
    described_by = hugging_face.descriptions(path) if kind.format in DESCRIBED else ()
    return SourceFile(str(path), name, kind.format, member=kind.member, described_by=described_by, notes=kind.notes)


def _matches(source: str, base: Path) -> list[Path]:
    if source.startswith(packages.SCHEME):
        try:
            return [packages.resolve(source)]
        except UserError as error:
            raise UserError(f"data source {error}") from None
    path = base / Path(source).expanduser()
    if path.exists():
        return [path.absolute()]
    if glob.has_magic(source):
        matches = sorted(glob.glob(str(path), recursive=True))
        if matches:
            return [Path(match).absolute() for match in matches]
        raise UserError(
            f"data source {source!r} matches no file (looked in {base}). Correct the pattern in the config."
        )
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"data source {source!r} does not exist (looked for {path}).{hint} Correct the path in the config.")


def _in_folder(folder: Path, source: str, base_folder: str, format: str) -> list[SourceFile]:
    """The files of a folder: its data files at any depth, or those of its class folders."""
    content = folders.look(folder, source, lambda path: _is_data(path, format))
    if not content.data and not content.texts:
        raise UserError(
            f"data source {source!r} is a folder without data: expected a folder per class with a text file per row, "
            f"or files ending in {', '.join(file_kinds.ENDINGS)}. Correct the path in the config."
        )
    named = [(path, _name(path, folder, source, Path(base_folder))) for path in content.data or content.texts]
    if content.data:
        files = [_file(path, name, format) for path, name in named]
        if left := sorted(entry.name for entry in folder.iterdir() if file_kinds.is_foreign(entry)):
            note = f"{source}: not read, since each is an archive or a table of another kind: {', '.join(left)}"
            files[0] = files[0]._replace(notes=(*files[0].notes, note))
        return files
    return [SourceFile(str(path), name, FOLDERS) for path, name in named]


def split_sources(source: str, base_folder: str) -> dict[str, str]:
    """The split -> its source, where a source is a folder with a folder or a file per split; else {}.

    Args:
        source: as in DataOptions.
        base_folder: where relative paths start.

    Raises:
        UserError: nothing is there.
    """
    place, member = without_member(source, base_folder)
    path, *more = _matches(place, Path(base_folder))
    if member or more or not path.is_dir():
        return {}
    splits = folders.find_splits(path, lambda file: _is_data(file, "auto"))
    return {split: f"{source.rstrip('/')}/{name}" for split, name in splits.places.items()}


def of_no_split(source: str, base_folder: str) -> list[str]:
    """What lies beside the splits of `split_sources` and is of none of them; arguments as there."""
    path = Path(base_folder) / Path(source).expanduser()
    if not path.is_dir():
        return []
    return list(folders.find_splits(path, lambda file: _is_data(file, "auto")).others)


def _is_data(path: Path, format: str) -> bool:
    if hugging_face.is_description(path):
        return False
    return format != FOLDERS and (format != "auto" or file_kinds.by_name(path) is not None)


def _name(file: Path, match: Path, source: str, base: Path) -> str:
    """The file as a person named it: inside its package, else relative to the base folder, else absolute."""
    if source.startswith(packages.SCHEME):
        inside = file.relative_to(match)
        return source if inside == Path() else f"{source.rstrip('/')}/{inside.as_posix()}"
    base = base.absolute()
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix()
