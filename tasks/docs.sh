#!/usr/bin/env bash
# Build the pages of docs/ into site/ and fail at every warning, such as a link that leads nowhere.
# The tools are installed from requirements/docs.txt into .venv-docs: `make env` does not need them, and the pages do not
# need torch, since the reference is read from the source text.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-docs
stamp=$venv/.installed

wanted=$(pwd; cksum <requirements/docs.txt)
if ! { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; }; then
  echo "docs: installing the locked requirements into $venv"
  "${PYTHON:-python3}" -m venv --clear "$venv"
  # A file whose hash is not in the lock is refused, whatever index it comes from.
  "$venv/bin/python" -m pip install --quiet --require-hashes -r requirements/docs.txt
  printf '%s\n' "$wanted" >"$stamp"
fi

"$venv/bin/python" -m mkdocs build --strict --clean
echo "docs: site/index.html"
