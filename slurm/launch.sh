#!/usr/bin/env bash
# Submits a table or a grid to Slurm: arrays over its manifest, then the job that draws it.
set -euo pipefail

usage() {
    cat <<'END'
usage: slurm/launch.sh TABLE_OR_GRID [KEY=VALUE ...]
       slurm/launch.sh FILE.manifest [table=NAME|grid=NAME [KEY=VALUE ...]]

Writes results/slurm/NAME-DATE/manifest, one line a task, submits it as an array (several, if it is longer than Slurm's
MaxArraySize) and a dependent job that scores what the tasks have made and draws table and figures. Nothing is submitted
before everything has been checked.

TABLE_OR_GRID is table=NAME, grid=NAME, or a bare NAME from configs/table or configs/grid. KEY=VALUE are settings of
'erk-bench table' or 'erk-bench grid'. With FILE.manifest, written by 'erk-bench plan --manifest FILE ...', the job that
draws is submitted only if the table or grid is named too.

examples:
  slurm/launch.sh digits_choice                            # a grid, with the cluster's own defaults
  SBATCH_OPTIONS="--partition=gpu --gpus-per-node=8 --time=4:00:00" slurm/launch.sh table=table2
  THROTTLE=4 slurm/launch.sh grid=figure4_16 seeds=0-9999  # at most 4 tasks at once
  DRY_RUN=1 slurm/launch.sh table=table2                   # show everything, submit nothing; needs no Slurm

Environment:
  SBATCH_OPTIONS     options of sbatch for the arrays
  AGGREGATE_OPTIONS  options of sbatch for the job that draws, such as --partition=cpu --mem=32G
  THROTTLE           tasks of an array that may run at once (default: as many as Slurm starts)
  MAX_ARRAY_SIZE     the cluster's MaxArraySize (default: what scontrol says)
  DRY_RUN            1 shows the commands, the manifest and the settings, and submits nothing
  ERK_BENCH          the program (default: erk-bench on PATH, else .venv/bin/erk-bench)
and what the jobs themselves read: LAUNCHER, RANKS_PER_NODE, GRACE, MAX_CRASHES, MAX_REQUEUES, see docs/slurm.md.
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DRY_RUN=${DRY_RUN:-0}
THROTTLE=${THROTTLE:-}
SLURMS_DEFAULT=1001 # MaxArraySize of a Slurm that nobody configured
jobs=()

fail() {
    echo "launch.sh: $*" >&2
    exit 2
}

names_of() { # table|grid: the names in configs/
    find "$ROOT/configs/$1" -name '*.yaml' -printf '%P\n' | sed 's/\.yaml$//' | sort | paste -sd ' '
}

check_settings() {
    [[ $DRY_RUN == [01] ]] || fail "DRY_RUN is '$DRY_RUN'; use 1, or leave it unset"
    local name
    for name in THROTTLE MAX_ARRAY_SIZE; do
        [[ ! -v $name || ${!name} =~ ^([1-9][0-9]*)?$ ]] ||
            fail "$name is '${!name}'; expected a whole number from 1 on"
    done
    ERK_BENCH=${ERK_BENCH:-$(command -v erk-bench || echo "$ROOT/.venv/bin/erk-bench")}
    [[ -x $ERK_BENCH ]] || fail "no program '$ERK_BENCH'; run 'make setup', or set ERK_BENCH to your erk-bench"
    export ERK_BENCH ERK_BENCH_ROOT=$ROOT
    ((DRY_RUN)) && return
    for name in sbatch scontrol scancel; do
        command -v "$name" >/dev/null ||
            fail "'$name' is not on PATH, so this is no node of a Slurm cluster; DRY_RUN=1 needs none"
    done
}

find_subject() { # WORD...: sets name, kind and subject (words of table or grid), or given (a manifest)
    given='' kind='' subject=()
    if [[ $1 == *.manifest ]]; then
        given=$1
        [[ -f $given ]] || fail "no manifest '$given'; 'erk-bench plan --manifest $given table=NAME' writes one"
        name=$(basename "$given" .manifest)
        shift
        (($#)) || return 0
        [[ $1 == table=* || $1 == grid=* ]] ||
            fail "'$1' is neither table=NAME nor grid=NAME; say which the manifest is of"
    fi
    local word=$1 tables grids
    tables=" $(names_of table) " grids=" $(names_of grid) "
    case $word in
    table=* | grid=*) ;;
    *=*) fail "'$word' is a setting; name the table or the grid first. Tables:$tables Grids:$grids" ;;
    *)
        case "$tables|$grids" in
        *" $word "*"|"*" $word "*) fail "'$word' is a table and a grid; say table=$word or grid=$word" ;;
        *" $word "*"|"*) word=table=$word ;;
        *"|"*" $word "*) word=grid=$word ;;
        *) fail "unknown table or grid '$word'. Tables:$tables Grids:$grids" ;;
        esac
        ;;
    esac
    kind=${word%%=*} subject=("$word" "${@:2}")
    name=${name:-$(basename "${word#*=}" .yaml)}
}

write_manifest() { # sets count; the folder is made once the manifest is known to be good
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    manifest=$scratch/manifest
    if [[ -n $given ]]; then
        cp "$given" "$manifest"
        if ((${#subject[@]})); then # the job that draws must not fail hours later for a name
            "$ERK_BENCH" plan --manifest "$scratch/again" "${subject[@]}" >/dev/null || exit
        fi
    else
        local word planned=()
        for word in "${subject[@]}"; do # what only the job that draws understands
            [[ $word == @(to|records|views)=* ]] || planned+=("$word")
        done
        "$ERK_BENCH" plan --manifest "$manifest" "${planned[@]}" >/dev/null || exit
    fi
    count=$(grep -cvE '^[[:space:]]*(#|$)' "$manifest") || true
    ((count)) || fail "the manifest ${given:-of ${subject[*]}} has no tasks; nothing to submit"
    "$ERK_BENCH" task "$manifest" >/dev/null || exit
    ((DRY_RUN)) && return
    mkdir -p results/slurm
    mkdir "$folder" || fail "'$folder' was made this very second by another launch; try again"
    mv "$manifest" "$folder/manifest"
    manifest=$folder/manifest
}

array_size() { # the greatest number of tasks of an array
    local size=${MAX_ARRAY_SIZE:-}
    if [[ -z $size ]] && command -v scontrol >/dev/null; then
        size=$(scontrol show config 2>/dev/null | sed -n 's/^MaxArraySize *= *//p') || true
    fi
    if [[ -z $size ]] && ((!DRY_RUN)); then
        fail "'scontrol show config' names no MaxArraySize; is the cluster up? MAX_ARRAY_SIZE=N says it instead"
    fi
    size=${size:-$SLURMS_DEFAULT}
    [[ $size != 0 ]] ||
        fail "this cluster has MaxArraySize 0, no arrays; submit a manifest's lines with slurm/generate.sbatch"
    echo "$size"
}

submit() { # SBATCH WORDS...: sets job to its number; on failure cancels what was submitted before
    if ((DRY_RUN)); then
        job="JOB$((${#jobs[@]} + 1))"
        printf '%q ' "$@"
        echo
    else
        # Slurm's message goes to the terminal. The number may be followed by ';CLUSTER'.
        if ! job=$("$1" --parsable "${@:2}"); then
            echo "launch.sh: sbatch failed, see above; it was: $*" >&2
            ((!${#jobs[@]})) || give_up
            exit 1
        fi
        job=${job%%;*}
    fi
    jobs+=("$job")
}

give_up() {
    if scancel "${jobs[@]}"; then
        echo "launch.sh: the jobs submitted before it were cancelled: ${jobs[*]}" >&2
    else
        echo "launch.sh: the jobs submitted before it could not be cancelled; do it by hand: scancel ${jobs[*]}" >&2
    fi
}

submit_all() {
    local size offset last arrays=() options=() own=()
    size=$(array_size)
    read -ra options <<<"${SBATCH_OPTIONS:-}"
    read -ra own <<<"${AGGREGATE_OPTIONS:-}"
    for ((offset = 0; offset < count; offset += size)); do
        last=$((count - offset < size ? count - offset - 1 : size - 1))
        submit sbatch --array="0-$last${THROTTLE:+%$THROTTLE}" --job-name="$name" --output="$folder/%A_%a.log" \
            "${options[@]}" "$ROOT/slurm/sweep.sbatch" "$folder/manifest" "$offset"
        arrays+=("$job")
        echo "array $job: lines $offset to $((offset + last)) of the manifest"
    done
    [[ -n $kind ]] || return 0
    submit sbatch --dependency="afterany$(printf ':%s' "${arrays[@]}")" --job-name="$name-aggregate" \
        --output="$folder/aggregate-%j.log" "${own[@]}" "$ROOT/slurm/aggregate.sbatch" "$kind" "${subject[@]}"
    echo "aggregate $job: erk-bench $kind ${subject[*]} sampling=false, when all of the tasks have ended"
}

show_settings() {
    echo
    echo "manifest: $count tasks"
    cat "$manifest"
    echo
    local script
    for script in sweep aggregate; do
        echo "slurm/$script.sbatch: $(sed -n 's/^#SBATCH //p' "$ROOT/slurm/$script.sbatch" | paste -sd ' ')"
    done
    echo "LAUNCHER=${LAUNCHER:-srun} RANKS_PER_NODE=${RANKS_PER_NODE:-one a GPU} GRACE=${GRACE:-90}" \
        "MAX_CRASHES=${MAX_CRASHES:-3} MAX_REQUEUES=${MAX_REQUEUES:-100} ERK_BENCH=$ERK_BENCH"
    env | grep '^SBATCH_' | grep -v '^SBATCH_OPTIONS=' || true
    echo "dry run: nothing was submitted"
}

main() {
    case ${1:-} in
    -h | --help | help)
        usage
        exit 0
        ;;
    '')
        usage >&2
        exit 2
        ;;
    esac
    name=''
    find_subject "$@"
    check_settings
    folder=$PWD/results/slurm/$name-$(date +%Y%m%d-%H%M%S)
    write_manifest
    submit_all
    if ((DRY_RUN)); then
        show_settings
        return
    fi
    echo
    echo "watch:  squeue --jobs=$(IFS=, && echo "${jobs[*]}")"
    echo "logs:   tail -F $folder/*.log"
    echo "cancel: scancel ${jobs[*]}"
}

main "$@"
