#!/usr/bin/env bash
# All figures that need a GPU, in one command and under ten minutes: tests of the kernels on the device, single
# kernels, whole steps, the layouts. Tables go to the terminal, JSON and logs to the folder given.
#
#     benchmarks/gpu.sh [FOLDER]        # default: gpu-figures
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-figures}
mkdir -p "$folder"
export PYTHONPATH=$PWD

failed=0
run() { # seconds at most, name, command: a stage that fails or is too slow does not take the others with it
  local seconds=$1 name=$2
  shift 2
  echo "== $name: $*"
  timeout "$seconds" "$@" 2>&1 | tee "$folder/$name.log"
  local status=${PIPESTATUS[0]}
  if [ "$status" -ne 0 ]; then
    echo "== $name failed with status $status"
    failed=1
  fi
}

python -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"' || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

run 120 tests python -m pytest -q tests/models/kernels -k triton -p no:cacheprovider
step=(python benchmarks/step.py --device cuda --precision bf16 --repeats 30)
run 60 depthwise python benchmarks/depthwise.py --model convnextv2_tiny --batch 256 --json "$folder/depthwise.json"
run 40 grn python benchmarks/grn.py --model convnextv2_tiny --batch 256 --json "$folder/grn.json"
run 150 tiny "${step[@]}" --model convnextv2_tiny --batch 512 --json "$folder/tiny.json"
run 150 base "${step[@]}" --model convnextv2_base --batch 256 --task pretrain --json "$folder/base.json"
run 60 layouts python benchmarks/layouts.py --model convnextv2_tiny --batch 256 --dtype bfloat16 --device cuda
exit "$failed"
