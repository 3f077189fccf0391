#!/usr/bin/env bash
# Create .venv with the locked requirements and this project in it; instant when nothing changed since.
# Needs Python 3.11 or newer and nothing else. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
stamp=$venv/.installed

# A virtual environment holds absolute paths, so a moved one counts as missing.
wanted=$(pwd; cat requirements/prod.txt requirements/dev.txt setup.cfg pyproject.toml | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c "import few_shot_nas" 2>/dev/null; then
  exit 0
fi

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if ! { [ -x "$venv/bin/python" ] && recent_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
  interpreter=
  for candidate in ${PYTHON:-python3.11 python3 python}; do
    if recent_enough "$candidate"; then interpreter=$candidate; break; fi
  done
  if [ -z "$interpreter" ]; then
    echo "setup: no Python 3.11 or newer found (tried ${PYTHON:-python3.11, python3, python});" \
      "install one or name it with PYTHON=/path/to/python3.11" >&2
    exit 2
  fi
  echo "setup: creating $venv with $("$interpreter" --version)"
  rm -rf "$venv"
  if ! "$interpreter" -m venv "$venv"; then
    echo "setup: '$interpreter -m venv' failed; on Debian and Ubuntu install the package python3.11-venv" >&2
    exit 2
  fi
fi

rm -f "$stamp"
echo "setup: installing the locked requirements into $venv (a few minutes the first time)"
# A file whose hash is not in the locks is refused, whatever index it comes from.
"$venv/bin/python" -m pip install --quiet --require-hashes -r requirements/prod.txt -r requirements/dev.txt
# Without isolation, so that setuptools is the one of the locks.
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
printf '%s\n' "$wanted" >"$stamp"
echo "setup: done"
