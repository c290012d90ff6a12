"""Files that come inside an installed package: `package://NAME/PATH`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bertline.errors import UserError

SCHEME = "package://"


def resolve(uri: str) -> Path:
    """The file or folder that `package://NAME/PATH` names, found without importing the package.

    Args:
        uri: `package://NAME/PATH`; NAME is the package as Python imports it, PATH is relative to its folder.

    Returns:
        An absolute path that exists.

    Raises:
        UserError: the URI is malformed, the package is not installed, or it holds no such path.
    """
    if not uri.startswith(SCHEME):
        raise UserError(f"{uri!r} is not of the form package://NAME/PATH")
    name, _, inside = uri.removeprefix(SCHEME).partition("/")
    if not name.isidentifier():
        raise UserError(f"{uri!r}: {name!r} is not the name of a Python package; write package://NAME/PATH")
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{uri!r}: the package {name!r} is not installed; install it with `pip install {name.replace('_', '-')}`"
        )
    roots = [Path(location).resolve() for location in spec.submodule_search_locations]
    for root in roots:
        path = (root / inside).resolve()
        if path.is_relative_to(root) and path.exists():
            return path
    raise UserError(f"{uri!r}: the package {name!r} in {roots[0]} holds no {inside!r}")
