#!/usr/bin/env bash
# Builds Caravan for every GPU architecture that it has code for: A100 (80), RTX 3090 (86), L4 and RTX 4090 (89), H100
# and H200 (90a). Needs no GPU, and four times as long for the kernels as a build for one (10 minutes of one core in all).
# Machine code alone: on a GPU of another architecture the worker ends at start and says which to build for.
#   deploy/build_all_architectures.sh [FOLDER [TARGET…]]        FOLDER: build/all_architectures if not given
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/all_architectures}
cmake --preset release -B "$folder" -DCARAVAN_BUILD_TESTS=OFF -DCARAVAN_CUDA=ON "-DCARAVAN_CUDA_ARCHITECTURES=80;86;89;90a"
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(caravan_programs)
cmake --build "$folder" --target "${targets[@]}"
worker=$folder/bin/caravan_worker
if [ -e "$worker" ]; then
  echo "$worker: $(stat -c %s "$worker") bytes"
  if command -v cuobjdump > /dev/null; then # comes with CUDA, not with nvcc alone
    cuobjdump --list-elf "$worker" | grep -oE 'sm_[0-9]+a?' | sort | uniq -c
  fi
fi
