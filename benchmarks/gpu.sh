#!/usr/bin/env bash
# All figures that need a GPU, in under ten minutes: whole steps first, then single kernels; each benchmark
# checks its own results before it times them. A second mode times the layouts, and runs the kernels' tests.
#
#     benchmarks/gpu.sh [FOLDER]          # default: gpu-figures
#     benchmarks/gpu.sh FOLDER tests
#
# Made for the 141 GB of an H200. On a smaller GPU, the ways that do not fit are named and left out.
# The folder gets log.txt and a JSON file for each benchmark.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-figures}
mode=${2:-figures}
mkdir -p "$folder"
export PYTHONPATH=$PWD

failed=0
run() { # its seconds at most, command: one that fails, or takes too long, does not take the others with it
  local limit=$1 left=$((590 - SECONDS))
  shift
  if [ "$left" -lt "$limit" ]; then limit=$left; fi
  if [ "$limit" -lt 1 ]; then limit=1; fi
  {
    echo "== at ${SECONDS} s, for ${limit} s at most: $*"
    timeout --kill-after 5 "$limit" "$@" 2>&1
    local status=$?
    if [ "$status" -ne 0 ]; then echo "== failed with status $status"; fi
    return "$status"
  } | tee -a "$folder/log.txt"
  if [ "${PIPESTATUS[0]}" -ne 0 ]; then failed=1; fi
}

python3 -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu.sh: PyTorch finds no CUDA device")' || exit 1
run 10 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

if [ "$mode" = tests ]; then
  run 200 python3 benchmarks/layouts.py --model convnextv2_tiny --batch 256 --dtype bfloat16 --device cuda
  run 380 python3 -m pytest -q -m "gpu and not slow" tests/models tests/pretraining/test_gpu.py
  exit "$failed"
fi

step=(python3 benchmarks/step.py --device cuda --precision bf16 --repeats 30)
tiny=(--model convnextv2_tiny)
run 100 python3 benchmarks/warm.py convnextv2_tiny convnextv2_base
run 220 "${step[@]}" "${tiny[@]}" --batch 512 --task pretrain --seconds 140 --json "$folder/tiny.json"
run 90 "${step[@]}" "${tiny[@]}" --batch 256 --task finetune --seconds 60 \
  --ways '^timm, compiled|^ours, (compiled|graphs), triton' --json "$folder/finetune.json"
run 100 "${step[@]}" --model convnextv2_base --batch 256 --task pretrain --seconds 60 \
  --ways '^tiles, (eager, torch|compiled, triton)' --json "$folder/base.json"
run 45 python3 benchmarks/depthwise.py "${tiny[@]}" --json "$folder/depthwise.json"
run 30 python3 benchmarks/grn.py "${tiny[@]}" --json "$folder/grn.json"
run 590 "${step[@]}" "${tiny[@]}" --batch 1024 --task pretrain --seconds 40 \
  --ways '^tiles, compiled, triton' --json "$folder/tiny-1024.json"
exit "$failed"
