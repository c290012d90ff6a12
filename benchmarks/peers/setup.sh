#!/usr/bin/env bash
# Builds benchmarks/peers/.venv: the libraries that bertline is measured against. Idempotent: a finished environment
# is recognised by its stamp. Nothing of it enters the product's own environment.
set -euo pipefail
cd "$(dirname "$0")"

TORCH=torch==2.13.0
VENV=.venv
fail() { printf 'bench-peers: %s\n' "$*" >&2; exit 1; }

wanted="$(cat requirements.txt setup.sh | sha256sum | cut -d' ' -f1) $PWD"
if [ "$(cat $VENV/.complete 2>/dev/null)" = "$wanted" ] && $VENV/bin/python -c '' 2>/dev/null; then exit 0; fi

base=../../.venv/bin/python
[ -x $base ] || fail "the product's own environment is missing: run make setup first."
# The interpreter under the product's environment: the same Python, with the system's own C library.
python=$($base -c 'import os, sys; print(os.path.join(sys.base_prefix, "bin", "python3.11"))')
[ -x "$python" ] || fail "$python, which the product's environment was made from, is not there any more: run make setup."

echo "bench-peers: building benchmarks/peers/$VENV"
rm -rf $VENV
"$python" -m venv $VENV
# A CPU build where pip finds one (a wheel of version 2.13.0+cpu wins over 2.13.0).
$VENV/bin/python -m pip install -qq --only-binary :all: $TORCH ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
$VENV/bin/python -c 'import torch; assert torch.version.cuda is None' 2>/dev/null ||
  fail "torch does not load, or pip chose a CUDA build of torch: set TORCH_INDEX to PyTorch's index of CPU builds, which its install page names, and run this again."
$VENV/bin/python -m pip install -qq --no-deps --only-binary :all: -r requirements.txt
$VENV/bin/python -m pip check >&2
echo "$wanted" >$VENV/.complete
