"""A container image without an engine: runs a Dockerfile's steps in plain folders, and commands in the result.

Debian's mmdebstrap makes the folder of the base image, and bubblewrap confines what runs to it. An instruction that no
Dockerfile here has is an error: to skip a step would test nothing.
"""

import json
import os
import re
import shlex
import shutil
import string
import subprocess
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

BASE = "python:3.11.14-slim-trixie"
# Trixie's own Python is 3.13 and the official image compiles 3.11. Here it is Debian's of the release before, which
# also needs that release's helper packages; compilers and libraries are trixie's all the same.
PYTHON = "Package: *python3*\nPin: release n=bookworm\nPin-Priority: 1001\n"
# What the official image has beyond trixie's least, and Python with the headers that it has too.
PACKAGES = "ca-certificates,netbase,tzdata,python3.11-venv,libpython3.11-dev"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# How this machine reaches registries: builds of an engine reach them in the same way.
NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts")
NETWORK_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL",
                     "UV_DEFAULT_INDEX")  # fmt: skip
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT")


def missing_needs() -> list[str]:
    """What this machine lacks to build an image, in words."""
    needs = []
    if os.geteuid() != 0:
        needs.append("root: files of the image belong to it")
    if absent := [tool for tool in ("mmdebstrap", "bwrap") if shutil.which(tool) is None]:
        needs.append(f"{' and '.join(absent)}: apt-get install mmdebstrap bubblewrap")
    if not (shutil.which("apt-get") and KEYRING.is_file() and _mirror()):
        needs.append("apt with a source of Debian's main, and Debian's keyring: a Debian host")
    return needs


def _mirror() -> str:
    """The host's own mirror of Debian, "" where it has none."""
    fields = "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return next((line.split()[-1] for line in listed.splitlines() if re.match(r"Debian main [a-z]+ ", line)), "")


def make_base(folder: Path) -> None:
    """Makes the folder of the base image: trixie's smallest system, which the official one starts from too."""
    sources = [f"deb [signed-by={KEYRING}] {_mirror()} {release} main" for release in ("trixie", "bookworm")]
    pin = f"mkdir -p $1/etc/apt/preferences.d && printf {shlex.quote(PYTHON)} >$1/etc/apt/preferences.d/python"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=directory", f"--include={PACKAGES}",
         f"--setup-hook={pin}", "trixie", folder, *sources],
        check=True,
    )  # fmt: skip
    (folder / "usr/bin/python").symlink_to("python3.11")


# === What a Dockerfile makes ===


@dataclass
class Image:
    """An image, or a stage of one: its folder and what its instructions have set."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    ports: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)

    def run(self, command, volume: Path, env=None, folder=None, bind="--bind", **options):
        """Runs a command as the image's user; only an empty /tmp, with `volume` at its own path, can be written.

        The only network is loopback. With `bind` "--ro-bind" the volume cannot be written either.
        """
        ways = [part for way in reversed(volume.parents[:-2]) for part in ("--perms", "0755", "--dir", way)]
        mounts = ["--ro-bind", self.root, "/", "--perms", "1777", "--tmpfs", "/tmp", *ways, bind, volume, volume]
        variables = {**self.env, **(env or {})}
        return _run(self, command, variables, str(folder or self.folder), [*mounts, "--unshare-net"], **options)

    def run_writable(self, command) -> subprocess.CompletedProcess:
        """Runs a command as the image's user in the image's own folder, as an engine does without further options."""
        return _run(self, command, self.env, self.folder, ["--bind", self.root, "/"], capture_output=True, text=True)


def build(recipe: Path, folder: Path, base: Path, **arguments: str) -> Image:
    """Carries out a Dockerfile, with its folder as context; returns the image of its last stage.

    Args:
        recipe: the Dockerfile.
        folder: gets one folder per stage.
        base: the folder that `make_base` made.
        arguments: the values of --build-arg.
    """
    stages: dict[str, Image] = {}
    image = None
    for word, rest in instructions(recipe.read_text(encoding="utf-8")):
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            assert source == BASE, source
            image = stages[name] = Image(folder / (name or "image"))
            subprocess.run(["cp", "-a", base, image.root], check=True)
        else:
            STEPS[word](image, rest, recipe.parent, stages, arguments)
    return image


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions: the word, and what follows on its line and those that go on from it."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", lines).splitlines()
    return [tuple(line.split(None, 1)) for line in joined if line.strip()]


def _arg(image, rest, context, stages, arguments):
    name, _, default = rest.partition("=")
    image.arguments[name] = arguments.get(name, default)


def _env(image, rest, context, stages, arguments):
    pairs = (pair.partition("=") for pair in shlex.split(rest))
    image.env |= {name: string.Template(value).substitute(image.env) for name, _, value in pairs}


def _workdir(image, rest, context, stages, arguments):
    image.folder = str(PurePosixPath(image.folder) / rest)
    (image.root / image.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _user(image, rest, context, stages, arguments):
    image.user = rest


def _entrypoint(image, rest, context, stages, arguments):
    image.entrypoint = json.loads(rest)


def _expose(image, rest, context, stages, arguments):
    image.ports = rest.split()


def _copy(image, rest, context, stages, arguments):
    *sources, target = rest.split()
    into = image.root / str(PurePosixPath(image.folder) / target).lstrip("/")
    if sources[0].startswith("--from="):
        stage, source = stages[sources[0].removeprefix("--from=")], *sources[1:]
        subprocess.run(["cp", "-aT", stage.root / source.lstrip("/"), into], check=True)
        return
    for source in sources:
        files = [file for file in let_through(context) if file == source or file.startswith(f"{source}/")]
        assert files, f"COPY {source}: the context has no such file, or .dockerignore keeps it back"
        for file in files:
            # A folder's contents are copied, a file goes below a target that ends with a slash.
            inside = file.removeprefix(f"{source}/") if file != source else Path(file).name if target[-1] == "/" else ""
            (into / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / file, into / inside)


def let_through(context: Path) -> list[str]:
    """The context's files that .dockerignore lets through. The last pattern that matches decides."""
    lines = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [(not line.startswith("!"), _pattern(line.lstrip("!"))) for line in lines if line and line[0] != "#"]

    def kept_back(path: str) -> bool:
        return next((ignored for ignored, pattern in reversed(rules) if pattern.fullmatch(path)), False)

    paths = []
    for folder, folders, files in os.walk(context):
        relative = Path(folder).relative_to(context)
        if relative == Path():  # no instruction copies from them, and they are large
            folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [path for name in files if not kept_back(path := (relative / name).as_posix())]
    return paths


def _pattern(line: str) -> re.Pattern:
    """A pattern of .dockerignore, which matches what is below a folder too."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/"))
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def _step(image, rest, context, stages, arguments):
    network = [(path, "--ro-bind") for path in NETWORK_FILES]
    network += [(os.environ[name], "--ro-bind-try") for name in CERTIFICATES if os.environ.get(name)]
    network_env = {name: os.environ[name] for name in NETWORK_VARIABLES + CERTIFICATES if os.environ.get(name)}
    mounts = [part for path, how in network for part in (how, os.path.realpath(path), path)]
    env = {**image.env, **image.arguments, **network_env}
    _run(image, ["/bin/sh", "-c", rest], env, image.folder, ["--bind", image.root, "/", *mounts], check=True)


STEPS = {
    "ARG": _arg,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "RUN": _step,
    "USER": _user,
    "WORKDIR": _workdir,
}


def _run(image, command, env, folder, mounts, **options):
    """A command in mounts of its own, with only these variables, as the image's user."""
    user, _, group = image.user.partition(":")
    settings = [part for name, value in env.items() for part in ("--setenv", name, value)]
    capabilities = ["--cap-add", "ALL"] if user == "0" else ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    become = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--inh-caps=-all", "--no-new-privs", "--"]
    isolation = ["--unshare-pid", "--unshare-ipc", "--die-with-parent", "--clearenv", *settings, *capabilities]
    place = ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm", "--chdir", folder]
    return subprocess.run(
        ["bwrap", *mounts, *place, *isolation, *([] if user == "0" else become), *command],
        stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip
