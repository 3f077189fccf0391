#!/usr/bin/env bash
# What a GPU should run, in order of worth, towards the published numbers. Each call runs the next step that is not finished, for at most
# STEP_SECONDS (520); a training that did not end goes on at the next call, from its last checkpoint.
#   DATA=folder benchmarks/published.sh          the next step
#   DATA=folder benchmarks/published.sh all      one after the other, each for at most STEP_SECONDS at a time
#   DATA=folder benchmarks/published.sh list     what is finished
#   benchmarks/published.sh NAME                 that step
# TINY=1 tries everything on the built-in characters on a CPU. Every finished training leaves model.safetensors and README.md, a card written from its
# results.json, in runs/published/NAME (OUT to move it); neither belongs into the repository where the data's terms forbid it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
out=${OUT:-runs/published}
python=${PYTHON:-python}
limit=${STEP_SECONDS:-520}
tiny=${TINY:-}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
recipes=training/recipes
mkdir -p "$out"
if [ -z "$tiny" ] && [ -z "${DATA:-}" ]; then
  echo "published.sh: DATA is not set; give the folder with mini_imagenet/ (or TINY=1)" >&2
  exit 2
fi
common=(--data_dir="${DATA:-data}" --save_minutes=1)
small=(--data_class=Glyphs --image_size=28 --max_meta_steps=4 --val_every=4 --val_episodes=4 --test_episodes=4 --accelerator=cpu --precision=null)

engine=graph  # records a meta-step once; CUDA only
[ -n "$tiny" ] && engine=unroll

names=(gpu_tests engine_table maml_5w1s rfs_resnet12_5w5s rfs_resnet12_5w1s proto_net_5w1s proto_net_5w5s maml_plus_plus_5w1s maml_plus_plus_5w5s
  tnas_search tnas_decode tnas_retrain meta_ntk_search meta_ntk_retrain)

finished() { [ -e "$out/$1.done" ]; }

has() {  # whether this version has the algorithm
  "$python" training/run_experiment.py --list 2>/dev/null | grep -qw "$1" && return
  echo "== this version has no algorithm $1; the step is left out"
  return 1
}

train() {  # NAME FLAGS...: start the run or go on with it
  local run=$out/$1 flags=("${@:2}")
  [ -e "$run/checkpoints/last.ckpt" ] && flags+=(--ckpt_path=last)
  [ -n "$tiny" ] && flags+=("${small[@]}")
  timeout --signal=INT --kill-after=30 "$limit" "$python" training/run_experiment.py "${flags[@]}" "${common[@]}" --run_dir="$run"
  local status=$?
  if [ ! -e "$run/results.json" ]; then
    [ "$status" -eq 124 ] && echo "== $1: not at its end; the next call goes on from its last checkpoint"
    return 1
  fi
  "$python" benchmarks/model_card.py "$run"
}

retest() {  # NAME RUN FLAGS...: test a finished run under another protocol
  local folder=$out/$1 run=$out/$2
  [ -e "$run/results.json" ] || { echo "== $1: needs $2 to its end"; return 1; }
  timeout "$limit" "$python" training/evaluate.py --run_dir="$run" --output="$folder" "${@:3}"
}

decode() {  # NAME SEARCH FLAGS...: the genotype of every test task of a search; goes on where it stopped
  local run=$out/$2
  [ -e "$run/results.json" ] || { echo "== $1: needs $2 to its end"; return 1; }
  timeout --signal=INT --kill-after=30 "$limit" "$python" training/decode.py --run_dir="$run" "${@:3}"
}

step() {
  case $1 in
    gpu_tests)
      if [ -n "$tiny" ]; then timeout "$limit" "$python" -m pytest -q -p no:cacheprovider tests/test_registry.py
      else timeout "$limit" "$python" -m pytest -q -p no:cacheprovider -m gpu tests; fi ;;
    engine_table)
      if [ -n "$tiny" ]; then
        timeout "$limit" "$python" benchmarks/run.py --device cpu --tiny --engines unroll,folded --repeats 1 --output "$out/engines.json"
      else timeout "$limit" "$python" benchmarks/run.py --device cuda --repeats 5 --output "$out/engines.json"; fi ;;
    # 48.70 published: 60,000 meta-steps of 4 tasks and 5 inner steps, second order.
    maml_5w1s) train "$1" --config=$recipes/maml_mini_imagenet_5w1s.yaml --engine="$engine" ;;
    # 62.02 and 79.64 published: one training, tested with 1 and 5 shots.
    rfs_resnet12_5w5s)
      train "$1" --algorithm=RFS --model_class=ResNet12 --data_class=MiniImagenet --n_way=5 --k_shot=5 --bn_mode=running --flat_batch_size=64 \
        --support_copies=5 --max_meta_steps=60000 --lr_milestones=[36000,48000] --val_every=3000 --precision=bf16-mixed \
        ${tiny:+--support_copies=0} ;;
    rfs_resnet12_5w1s) retest "$1" rfs_resnet12_5w5s --k_shot=1 ;;
    # 49.42 and 68.20 published; Conv4 with 64 channels.
    proto_net_5w1s | proto_net_5w5s) train "$1" --config=$recipes/proto_net_mini_imagenet_"${1#proto_net_}".yaml ;;
    # 52.15 and 68.32 published, five best validations together.
    maml_plus_plus_5w1s | maml_plus_plus_5w5s)
      train "$1" --config=$recipes/maml_plus_plus_mini_imagenet_"${1#maml_plus_plus_}".yaml ;;
    # The whole published search; 52.84 published after its genotypes were trained, one for each of 600 tasks.
    tnas_search)
      train "$1" --config=$recipes/tnas_mini_imagenet_5w1s.yaml ${tiny:+--channels=4 --nodes=2 --decode_episodes=2} ;;
    tnas_decode) decode "$1" tnas_search --tasks=$([ -n "$tiny" ] && echo 4 || echo 600) ;;
    # What the search ends with, by the authors' first-order MAML: 15 epochs of 15,000 tasks, padded as the search padded.
    tnas_retrain)
      retrain "$1" tnas_search --algorithm=MAML --n_way=5 --k_shot=1 --first_order=true --inner_lr=0.01 --inner_steps=5 \
        --eval_inner_steps=10 --outer_lr=0.001 --meta_batch_size=4 --train_query=15 --pad=left --max_meta_steps=56250 ;;
    meta_ntk_search)
      has MetaNTKNAS || return 0
      train "$1" --config=$recipes/meta_ntknas_mini_imagenet_5w1s.yaml ${tiny:+--channels=8 --repeats=1} ;;
    meta_ntk_retrain)
      has MetaNTKNAS || return 0
      retrain "$1" meta_ntk_search --algorithm=RFS --n_way=5 --k_shot=5 --bn_mode=running --max_meta_steps=60000 \
        --outer_lr=0.02 --weight_decay=0.0005 --flat_batch_size=64 --lr_milestones=[36000,48000] --drop_path=0.2 ;;
    *) echo "published.sh: no step $1. Steps: ${names[*]}" >&2; exit 2 ;;
  esac
}

retrain() {  # NAME SEARCH FLAGS...: train the architecture that a search found
  local genotype=$out/$2/genotype.json
  [ -e "$genotype" ] || { echo "== $1: needs $2 to its end"; return 1; }
  train "$1" --model_class=GenotypeNetwork --genotype="$genotype" --data_class=MiniImagenet "${@:3}"
}

go() {
  echo "== $1"
  local began=$SECONDS
  step "$1" 2>&1 | tee -a "$out/$1.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] && touch "$out/$1.done"
  echo "== $1: exit $status after $((SECONDS - began)) s"
  return "$status"
}

case ${1:-next} in
  list) for name in "${names[@]}"; do finished "$name" && echo "done  $name" || echo "open  $name"; done ;;
  all) for name in "${names[@]}"; do finished "$name" || go "$name" || failed=1; done; exit "${failed:-0}" ;;
  next)
    for name in "${names[@]}"; do
      finished "$name" || { go "$name"; exit; }
    done
    echo "== every step is finished" ;;
  *) go "$1" ;;
esac
