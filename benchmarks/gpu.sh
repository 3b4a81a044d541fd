#!/usr/bin/env bash
# All figures that need a GPU, in one command and under ten minutes: single kernels, whole steps, the layouts; and
# the tests of the kernels on the device with what time is left (each benchmark checks its own results first). Tables go to the terminal, JSON and logs to the folder given.
#
#     benchmarks/gpu.sh [FOLDER]        # default: gpu-figures
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-figures}
mkdir -p "$folder"
export PYTHONPATH=$PWD

failed=0
run() { # name, command: one that fails, or finds no time left, does not take the others with it
  local name=$1 left=$((590 - SECONDS))
  shift
  echo "== $name, at ${SECONDS} s: $*"
  timeout "$((left > 1 ? left : 1))" "$@" 2>&1 | tee "$folder/$name.log"
  local status=${PIPESTATUS[0]}
  if [ "$status" -ne 0 ]; then
    echo "== $name failed with status $status"
    failed=1
  fi
}

python -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"' || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

step=(python benchmarks/step.py --device cuda --precision bf16 --repeats 30)
run grn python benchmarks/grn.py --model convnextv2_tiny --batch 256 --json "$folder/grn.json"
run depthwise python benchmarks/depthwise.py --model convnextv2_tiny --batch 256 --json "$folder/depthwise.json"
run tiny "${step[@]}" --model convnextv2_tiny --batch 512 --json "$folder/tiny.json"
run base "${step[@]}" --model convnextv2_base --batch 256 --task pretrain --ways '^tiles.*triton' \
  --json "$folder/base.json"
run layouts python benchmarks/layouts.py --model convnextv2_tiny --batch 256 --dtype bfloat16 --device cuda
run tests python -m pytest -q tests/models/kernels -k triton -m "not slow"
exit "$failed"
