#!/usr/bin/env bash
# Build the wheel, install it into an empty environment and use it there as a user would: train, evaluate, predict, export.
# PYTHON=... chooses the interpreter of that environment, FOLDER=... where it is made (kept; else a temporary folder).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
folder=${FOLDER:-$(mktemp -d)}
[ -n "${FOLDER:-}" ] || trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
rm -rf "$folder/dist" "$folder/source"
git archive --prefix=source/ HEAD | tar -x -C "$folder"
"$folder/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/dist" "$folder/source"
"$folder/venv/bin/python" -m pip install --quiet "$(ls "$folder"/dist/*.whl)[export]"
cd "$folder"  # away from the sources: what is used is what was installed
export PATH="$folder/venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
unset PYTHONPATH

few-shot-nas --help
rm -rf run classes new predictions.csv predictions.html embedding.onnx
python - <<'END'
from few_shot_nas import EpisodicDataModule, Glyphs
from pathlib import Path
from PIL import Image

episode = EpisodicDataModule(Glyphs(cache_dir="cache"), n_query=2, k_shot=3).episode("test", [0])
for part, images, labels in (("classes", *episode[:2]), ("new", *episode[2:4])):
    for row, (image, label) in enumerate(zip(images[0], labels[0].tolist())):
        file = Path(part, f"letter{label}" if part == "classes" else ".", f"{row}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image[0]).byte().numpy()).save(file)
END
few-shot-nas train --algorithm=ProtoNet --data_class=Glyphs --cache_dir=cache --run_dir=run --width=8 --n_query=5 \
  --meta_batch_size=2 --max_meta_steps=4 --val_every=2 --val_episodes=4 --test_episodes=4
few-shot-nas evaluate --run_dir=run --episodes=2
few-shot-nas predict --run_dir=run --support=classes --images=new
few-shot-nas report run
few-shot-nas export --run_dir=run --support=classes --format=onnx --output=embedding.onnx
for file in predictions.csv predictions.html embedding.onnx run/report.html; do
  if [ ! -s "$file" ]; then
    echo "package: there is no $file" >&2
    exit 1
  fi
done
echo "package: passed on $(python --version)"
