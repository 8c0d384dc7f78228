#!/usr/bin/env bash
# Self-test, tests of the kernels and benchmarks on a machine with an NVIDIA driver: run.sh [FOLDER FOR LOGS].
# DEVICE (cuda:0), STEPS ("self-test tests bench pytorch") and LIMIT (seconds a step, 300) can be set.
# Ends with 1 where a step failed, with the logs of all.
set -u
out=$(mkdir -p "${1:-logs}" && cd "${1:-logs}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
# LLVM's programs take exp and ln from CUDA's library, which no driver brings.
export CUDA_PATH=${CUDA_PATH:-$PWD/cuda}
device=${DEVICE:-cuda:0} steps=${STEPS:-self-test tests bench pytorch}
# Programs find the driver's library in the usual places, and where containers mount it.
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:/usr/local/nvidia/lib64 BAM_TEST_DEVICE=$device
[ -d programs ] || xz --decompress --stdout --memlimit=0 programs.tar.xz | tar --extract || exit 1
failed=0

step() {
    local name=$1 code
    shift
    printf '── %s: %s\n' "$name" "$*"
    SECONDS=0
    timeout "${LIMIT:-300}" "$@" >"$out/$name.log" 2>&1
    code=$?
    tail -n 5 "$out/$name.log"
    printf '── %s ended with %d after %d s\n' "$name" $code $SECONDS
    [ $code = 0 ] || failed=1
}

for wanted in $steps; do
    case $wanted in
    self-test) step self-test programs/bam devices --check --device "$device" ;;
    tests) for test in programs/tests/*; do step "$(basename "$test")" "$test" --nocapture; done ;;
    bench) step bench programs/bench-attention ;;
    pytorch)
        if python3 -c 'import torch' 2>/dev/null; then
            step pytorch python3 attention_pytorch.py --device cuda --heads 16 --head-dim 128 --dtypes bf16 --lengths 1024 4096
        else
            printf -- '── pytorch: skipped, python3 has no torch\n'
        fi
        ;;
    *) printf 'STEPS: expected some of self-test tests bench pytorch, got %s\n' "$wanted" >&2 && exit 2 ;;
    esac
done
exit $failed
