#!/usr/bin/env bash
# Builds Caravan for every GPU architecture that it has code for: A100 (80), RTX 3090 (86), L4 and RTX 4090 (89), H100
# and H200 (90a). Takes several times as long as a build for the GPUs of this machine, and needs none.
#   deploy/build_all_architectures.sh [FOLDER [TARGET…]]        FOLDER: build/all_architectures if not given
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/all_architectures}
cmake --preset release -B "$folder" -DCARAVAN_BUILD_TESTS=OFF -DCARAVAN_CUDA=ON "-DCARAVAN_CUDA_ARCHITECTURES=80;86;89;90a"
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(caravan_programs)
cmake --build "$folder" --target "${targets[@]}"
