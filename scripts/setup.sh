#!/usr/bin/env bash
# Builds .venv from requirements.lock. Idempotent: a finished environment is recognised by its stamp, an
# interrupted one is started again. Needs no root and writes nothing outside this folder.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
# The caches live here too, unless the user keeps their own elsewhere.
export UV_CACHE_DIR="${UV_CACHE_DIR:-$PWD/.cache/uv}" PIP_CACHE_DIR="${PIP_CACHE_DIR:-$PWD/.cache/pip}"
export UV_PYTHON_INSTALL_DIR="${UV_PYTHON_INSTALL_DIR:-$PWD/.cache/python}"
LOG=.cache/setup.log

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_python_311() {
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) or sys.implementation.name != "cpython")' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in "${BERTLINE_PYTHON:-}" python3.11 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11*/bin/python; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 && is_python_311 "$candidate" && echo "$candidate" && return
  done
  if command -v uv >/dev/null 2>&1; then
    uv python find --quiet 3.11 2>/dev/null && return
    uv python install --quiet 3.11 >&2 && uv python find --quiet 3.11 && return
  fi
  return 1
}

stamp() { cat requirements.lock scripts/bootstrap.lock scripts/setup.sh scripts/c_runtime.sh pyproject.toml | sha256sum | cut -d' ' -f1; }

# A finished environment also remembers where it stands: a moved checkout is built anew.
wanted="$(stamp) $PWD"
if [ "$(cat $VENV/.complete 2>/dev/null)" = "$wanted" ] && $VENV/bin/python -c '' 2>/dev/null; then exit 0; fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
  fail "TFX 1.21 is built for Linux on x86_64 and this is $(uname -s) on $(uname -m). Use a Linux x86_64 machine or the python:3.11-slim-trixie container."
python=$(find_python) ||
  fail "Python 3.11 was not found as python3.11, python3, under pyenv or through uv. Install it (apt install python3.11, pyenv install 3.11 or uv python install 3.11) or name it in BERTLINE_PYTHON."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python has no venv module. On Debian and Ubuntu: apt install python3.11-venv."
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
command -v g++ >/dev/null 2>&1 && [ -f "$include/Python.h" ] ||
  fail "pyfarmhash, which TFX needs, is compiled on installing: g++ and Python's headers ($include/Python.h) are missing. On Debian and Ubuntu: apt install g++ python3.11-dev."
free_mib=$(df -Pm . | awk 'NR == 2 {print $4}')
[ "$free_mib" -gt 8000 ] || fail "the environment needs 8 GB of disk and $PWD has $free_mib MB free."

mkdir -p .cache
: >$LOG
trap 'status=$?; [ $status -eq 0 ] || { tail -n 15 $LOG >&2; printf "setup: stopped (exit %s); the whole log is %s. Run the same command again to go on.\n" $status $LOG >&2; }' EXIT

# sync mends an environment that is there; only one that cannot start, or stands elsewhere, is thrown away.
if [ "$(cat $VENV/.place 2>/dev/null)" != "$PWD" ] || ! $VENV/bin/python -c '' 2>/dev/null; then
  say "new environment in $VENV with $("$python" -V 2>&1)"
  rm -rf $VENV
  "$python" -m venv $VENV >>$LOG 2>&1
  $VENV/bin/python -m pip install --quiet --require-hashes -r scripts/bootstrap.lock >>$LOG 2>&1
  scripts/c_runtime.sh $VENV >>$LOG 2>&1
  echo "$PWD" >$VENV/.place
fi
rm -f $VENV/.complete
say "installing $(grep -c '^[a-z0-9].*==' requirements.lock) pinned packages (a minute or two)"
$VENV/bin/uv pip sync --quiet --python $VENV/bin/python --compile-bytecode --require-hashes requirements.lock >>$LOG 2>&1
$VENV/bin/uv pip install --quiet --python $VENV/bin/python --no-deps --no-build-isolation -e . >>$LOG 2>&1
echo "$wanted" >$VENV/.complete
say "done: $VENV"
