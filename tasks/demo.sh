#!/usr/bin/env bash
# The whole pipeline on the built-in data: search, meta-train what was found, compare on the same test episodes, sort
# images of classes that no training saw.
# Every step is a plain command line that can be run by itself; the runs and the report are left in runs/demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

search_steps=100  # meta-steps of each search; both searches get the same
train_steps=100   # meta-steps of each meta-training from scratch
val_every=50
val_episodes=30
log_every=5
test_episodes=150
space="--space=darts_fewshot --channels=8 --cells=1 --nodes=3"
task="--data_class=Glyphs --n_way=5 --k_shot=1 --seed=0"
out=runs/demo

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

run() {
  local name=$1
  shift
  printf '\n== %s ==\n' "$name"
  # The settings above are lists of flags, split into words on purpose.
  # shellcheck disable=SC2086
  "$python" training/run_experiment.py $task --val_every=$val_every --log_every=$log_every --val_episodes=$val_episodes \
    --test_episodes=$test_episodes --run_dir="$out/$name" "$@"
}

rm -rf "$out"
# shellcheck disable=SC2086
run search-maml-enas --algorithm=MAMLENAS $space --max_meta_steps=$search_steps
# shellcheck disable=SC2086
run search-random --algorithm=RandomSearch $space --max_meta_steps=$search_steps
run maml-on-searched --algorithm=MAML --model_class=GenotypeNetwork \
  --genotype="$out/search-maml-enas/genotype.json" --max_meta_steps=$train_steps
run maml-on-random --algorithm=MAML --model_class=GenotypeNetwork \
  --genotype="$out/search-random/genotype.json" --max_meta_steps=$train_steps
run maml-on-conv4 --algorithm=MAML --model_class=Conv4 --max_meta_steps=$train_steps

printf '\n'
"$python" training/report.py "$out/search-maml-enas" "$out/search-random" "$out/maml-on-searched" \
  "$out/maml-on-random" "$out/maml-on-conv4" --output "$out/report.html"

printf '\n== predict ==\n'
"$python" - "$out/images" <<'EOF'
"""Write three labelled images of each of five test classes, and three more of each to be sorted."""

import sys
from pathlib import Path

from PIL import Image

from few_shot_nas.data.sources.glyphs import Glyphs

source = Glyphs()
source.prepare()
test = source.split("test")
for number in range(5):
    name = f"class-{number}"  # the own name of a class may be a sign that no folder can have
    for place in range(6):
        folder = Path(sys.argv[1], "labelled", name) if place < 3 else Path(sys.argv[1], "new")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[test.starts[number] + place].squeeze()).save(folder / f"{name}-{place}.png")
EOF
"$python" training/predict.py --run_dir="$out/maml-on-searched" --support="$out/images/labelled" \
  --images="$out/images/new" --output="$out/predictions.csv"

printf '\n%s\n' "The searches of this demo ($search_steps meta-steps) are too short to learn; with the recipe \
mamlenas_omniglot_5w1s_quick the controller went from 97 to 15 % of the uniform entropy."
