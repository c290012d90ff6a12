"""A real PostgreSQL server for tests, from the package pgserver."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(password):
    """HOST:PORT of a server whose user `keeper` has this password, for the length of a block."""
    # Root starts no server, and each session of pytest closes pytest's own folders to other users.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with _running_in(folder, password) as address:
            yield address


@contextmanager
def _running_in(folder, password):
    (folder / "password").write_text(password)
    (package,) = importlib.util.find_spec("pgserver").submodule_search_locations
    as_user = []
    if os.geteuid() == 0:
        for name in ("pgserver", "pgserver.libs"):  # another user may not see the environment
            shutil.copytree(f"{package}/../{name}", folder / name)
        package = folder / "pgserver"
        shutil.chown(folder, "nobody")
        as_user = ["runuser", "-u", "nobody", "--"]
    programs = f"{package}/pginstall/bin"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, log = folder / "data", folder / "log"
    made = ["-D", data, "-U", "keeper", f"--pwfile={folder / 'password'}", "-A", "scram-sha-256", "--no-sync"]
    subprocess.run([*as_user, f"{programs}/initdb", *made], check=True, capture_output=True)
    control = [*as_user, f"{programs}/pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", log, "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start"], check=True)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
