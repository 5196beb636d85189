#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over a small case of every operator: memory that is not ours or was never written, and races
# in shared memory. The last line counts.
#   tests/gpu/sanitizers.sh PROGRAMS [TOOL…]      TOOL: memcheck, racecheck (both if none is given)
# Cases run side by side; each has LIMIT_S seconds (120). They are tens of times slower than without. Then, one after the
# other, the kernels that wait for peers, where each of their ranks has a GPU: on two GPUs every rank sums all (one shot)
# with and without the norm, on four also a part each, through the ring.
set -uo pipefail
programs=$1
tools=("${@:2}")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck)
limit=${LIMIT_S:-120}
at_once=${AT_ONCE:-8}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer is not on the PATH: it comes with CUDA"; exit 1; }

cases=(
  '*/MatmulTest.AgreesWithFloat64/cuda_float16_float16'
  '*/MatmulTest.AgreesWithFloat64/cuda_batch_invariant_bfloat16_bfloat16'
  '*/MatmulTest.AgreesWithFloat64/cuda_float32_float32'
  '*/MatmulCudaTest.TilesMayBeSplitOverClusters/bfloat16:*/MatmulCudaTest.StreamsMayBeDividedInAnyWay/bfloat16'
  '*/RmsNormTest.*/cuda_float16:*/RmsNormTest.*/cuda_bfloat16'
  '*/SwiGluTest.*/cuda_float16_float16:*/SwiGluTest.*/cuda_float32_bfloat16'
  '*/EmbeddingTest.*/cuda_float16_float16:*/GatherRowsTest.*/cuda:*/CopyKvBlocksTest.*/cuda'
  '*/RopeAppendKvTest.*/cuda_bfloat16_bfloat16'
  '*/PagedAttentionTest.AgreesWithFloat64ForEveryHeadSize/cuda_float16_float16'
  '*/PagedAttentionTest.AgreesWithFloat64ForEveryHeadSize/cuda_portable_bfloat16_bfloat16'
  '*/PagedAttentionTest.AgreesWithFloat64AroundTheBordersOfTilesWhileDecoding/cuda_bfloat16_bfloat16'
  '*/PagedAttentionTest.AgreesWithFloat64ForEveryGrouping/cuda_batch_invariant_float16_float16'
  '*/SamplingTest.ReportsTheLogProbabilitiesOfTheReference/cuda:*/SamplingTest.GreedyTakesTheLowestIdAmongEquals/cuda'
  '*/SamplingTest.DrawsFromManyKeptTokens/cuda:*/SamplingTest.TellsWhetherTheModelGaveANumber/cuda'
  '*/SlotTablesTest.*/cuda'
  '*/DummyFillTest.GivesThePartOfOneTensor/cuda_float16'
)
# Program and filter. PeerTest's parameters count its kinds of ranks: /1 is two, /3 four. One thread enqueues for all of
# its ranks; those of GpuCollectivesTest have one each, as a tool needs that lets a launch wait for its kernel.
gpus=$(nvidia-smi --list-gpus | wc -l)
norm='kernels_test Ranks/PeerTest.AddsTheSumToTheResidualAndNormalizes'
sums='kernels_test Ranks/PeerTest.SumsHaveTheBitsOfTheRankOrderOnAllRanks'
threads() { # ranks
  local test='Groups/GpuCollectivesTest'
  echo "worker_replica_test $test.RanksAsThreadsGetExactResults/peer_$1:$test.AllRanksHoldTheSameBits/peer_$1"
}
declare -A peer_cases=()
((gpus < 2)) || peer_cases=(
  [memcheck]="$sums/1;$norm/1;kernels_test Ranks/PeerTest.GathersColumnsOfWholeAndBrokenPacks/1"
  [racecheck]="$(threads 2);$norm/1"
)
((gpus < 4)) || peer_cases=([memcheck]="${peer_cases[memcheck]};$sums/3;$norm/3" [racecheck]="${peer_cases[racecheck]};$(threads 4);$norm/3")
check() { # tool number program filter sanitizer_flags…
  local log="$work/$1.$2" rc
  timeout -k 5 "$limit" compute-sanitizer --tool "$1" --error-exitcode 9 "${@:5}" "$programs/$3" --gtest_brief=1 \
    --gtest_filter="$4" > "$log" 2>&1
  rc=$?
  case $rc in
    0) if grep -q 'PASSED  \] [1-9]' "$log"; then echo "passed: $1 $4"; else echo "FAILED: $1 $4: no test ran"; fi ;;
    124 | 137) echo "FAILED: $1 $4: more than $limit s" ;;
    *) echo "FAILED: $1 $4: $(grep -m1 -E '=========.*(rror|hazard)|FAILED' "$log" | cut -c1-200)" ;;
  esac
}
for tool in "${tools[@]}"; do
  for number in "${!cases[@]}"; do
    while (($(jobs -rp | wc -l) >= at_once)); do wait -n; done
    check "$tool" "$number" kernels_test "${cases[number]}" >> "$work/results" &
  done
done
wait
((gpus >= 2)) || echo "not run: the kernels that wait for peers, they need two GPUs"
for tool in "${tools[@]}"; do
  flags=()
  # Peer access is asked for without a look whether it is on already, which is an error of the API (704).
  [ "$tool" != memcheck ] || flags=(--report-api-errors no)
  IFS=';' read -ra list <<< "${peer_cases[$tool]:-}"
  for number in "${!list[@]}"; do
    check "$tool" "peer_$number" "${list[number]% *}" "${list[number]#* }" "${flags[@]}" >> "$work/results"
  done
done
sort "$work/results"
failed=$(grep -c '^FAILED' "$work/results")
echo "$(grep -c '^passed' "$work/results") passed, $failed failed"
[ "$failed" = 0 ]
