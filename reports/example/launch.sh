#!/usr/bin/env bash
# demo: openvino int8_static, 2 instances of 1 thread, batch 8, length_sorted, int8_rest=bf16
#
# Runs that configuration on the rows it was tuned on, with the environment, pinning and
# command it was measured with, and prints its speed and accuracy beside what was promised.
# Arguments are passed to the scoring command (--json for programs).
#
# The nearest command line of Hugging Face's own script
# (examples/pytorch/question-answering/run_qa.py at tag v4.52.4 of huggingface/transformers):
#
#   HF_HUB_DISABLE_TELEMETRY=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python run_qa.py --model_name_or_path /autotune/autotune/demo/model --validation_file workload/validation.json --do_eval --max_seq_length 384 --doc_stride 128 --per_device_eval_batch_size 8 --no_cuda --pad_to_max_length False --output_dir run_qa_output
#
# It cannot express, so it will be slower than this script:
#   - mode=openvino: the script runs torch's own engines
#   - precision=int8_static: the script has no such flag
#   - padding=length_sorted: the script pads to the longest of each batch, unsorted
#   - instances=2: start one for each part of the data
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# What has changed since the search, on standard error.
/autotune/.venv/bin/python -m autotune changes . >&2

work=$(mktemp -d "${TMPDIR:-/tmp}/autotune-launch.XXXXXX")
set -m  # each worker is a process group of its own, which ends with all that it started
workers=()
end_workers() {
    for worker in ${workers[@]+"${workers[@]}"}; do  # none is an error before bash 4.4
        kill -KILL -- "-$worker" 2> /dev/null || true
    done
    workers=()
}
finish() {
    end_workers
    rm -rf -- "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A clean environment: what is passed on, then what the configuration sets.
environment=()
for name in PATH HOME LANG LC_ALL TMPDIR XDG_CACHE_HOME LD_LIBRARY_PATH HF_HOME HF_HUB_CACHE HF_ENDPOINT HF_TOKEN HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HTTPS_PROXY HTTP_PROXY NO_PROXY SSL_CERT_FILE REQUESTS_CA_BUNDLE; do
    if [[ -v $name ]]; then environment+=("$name=${!name}"); fi
done

# Waits for the worker just started and says its exit code.
mkfifo -- "$work/ended"
exec 3<> "$work/ended"
ended() {
    local code=0
    wait "$!" || code=$?
    echo "$code" >&3
}

mkdir -- "$work/0"
{
    env -i "${environment[@]}" \
    HF_HUB_DISABLE_TELEMETRY=1 \
    OMP_NUM_THREADS=1 \
    TOKENIZERS_PARALLELISM=false \
    /autotune/.venv/bin/python -P /autotune/autotune/worker/__main__.py --instance 0 --instances 2 \
    --requests launch.jsonl --replies "$work/0/replies.jsonl" \
    --workdir "$work/0" \
    --together "$work" \
    ${AUTOTUNE_THEN:+--then "$AUTOTUNE_THEN/0"} \
    > "$work/0/worker.log" 2>&1 &
    ended
} &
workers+=($!)
mkdir -- "$work/1"
{
    env -i "${environment[@]}" \
    HF_HUB_DISABLE_TELEMETRY=1 \
    OMP_NUM_THREADS=1 \
    TOKENIZERS_PARALLELISM=false \
    /autotune/.venv/bin/python -P /autotune/autotune/worker/__main__.py --instance 1 --instances 2 \
    --requests launch.jsonl --replies "$work/1/replies.jsonl" \
    --workdir "$work/1" \
    --together "$work" \
    ${AUTOTUNE_THEN:+--then "$AUTOTUNE_THEN/1"} \
    > "$work/1/worker.log" 2>&1 &
    ended
} &
workers+=($!)

status=0
for _ in "${workers[@]}"; do  # one that fails ends all
    read -r status <&3
    if (( status )); then break; fi
done
if (( status )); then
    cat -- "$work"/*/worker.log >&2
    exit "$status"
fi
end_workers
/autotune/.venv/bin/python -m autotune score . "$work" "$@"
