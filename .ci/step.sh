# Sourced by run: runs one step after what it needs, counts it, says how far it is and why it failed.
#
# run_step NAME        the step and what it needs, each once
# count PASSED FAILED  for steps that count for themselves; others are one check, passed by exit code 0
# skip NAME REASON     one check that cannot be made here
# skip_step REASON     the whole step cannot be
# reason TEXT          why the step fails, instead of its exit code
# limit COMMAND...     ends it after $TIME_LIMIT seconds; that is then the reason
# watch FILE           the last line of FILE is told while the step runs

: >"$SCRATCH/failures"
count() { echo "$1 $2" >>"$SCRATCH/counts"; }
skip() {
    echo "SKIP $1: $2"
    echo "$1: $2" >>"$SCRATCH/skips"
}
skip_step() {
    skip "$STEP" "$1"
    : >"$SCRATCH/skipped-step"
}
reason() { [ -e "$SCRATCH/reason" ] || echo "$*" >"$SCRATCH/reason"; }
watch() { echo "$1" >"$SCRATCH/watched"; }

limit() {
    local begin=$SECONDS code=0
    timeout --kill-after=20 "$TIME_LIMIT" "$@" || code=$?
    case $code in
    124 | 137) [ $((SECONDS - begin)) -lt "$TIME_LIMIT" ] || reason "the time limit of $TIME_LIMIT s ended it" ;;
    esac
    return $code
}

# needs_of STEP
needs_of() {
    local entry
    for entry in "${STEPS[@]}"; do
        [ "${entry%%:*}" = "$1" ] || continue
        entry=${entry#*:}
        echo "${entry%%:*}" | tr , ' '
    done
}

run_step() {
    local need
    [ ! -e "$SCRATCH/done-$1" ] || return 0
    : >"$SCRATCH/done-$1"
    for need in $(needs_of "$1"); do run_step "$need"; done
    for need in $(needs_of "$1"); do
        [ ! -e "$SCRATCH/failed-$need" ] || {
            # the cause is counted once
            skip "$1" "$need failed, which it needs"
            : >"$SCRATCH/failed-$1"
            return 0
        }
    done
    STEP=$1 step "$1" "step_${1//-/_}"
}

step() {
    local name=$1 begin=$SECONDS code lines watcher
    shift
    lines=$(wc -l <"$SCRATCH/counts")
    rm -f "$SCRATCH/skipped-step" "$SCRATCH/reason" "$SCRATCH/watched"
    echo "== $name"
    tell_progress "$name" &
    watcher=$!
    # not in a condition: that would switch off -e within
    set +e
    (set -eu; "$@")
    code=$?
    set -e
    kill "$watcher" && wait "$watcher" 2>/dev/null || true
    if [ $code != 0 ]; then
        # a step that counted its own failures has said so already
        [ "$(tail -n +$((lines + 1)) "$SCRATCH/counts" | awk '{ n += $2 } END { print n + 0 }')" != 0 ] || count 0 1
        reason "exit code $code"
        echo "$name: $(cat "$SCRATCH/reason")" >>"$SCRATCH/failures"
        echo "FAIL $name: $(cat "$SCRATCH/reason")"
        : >"$SCRATCH/failed-$name"
    elif [ "$(wc -l <"$SCRATCH/counts")" = "$lines" ] && [ ! -e "$SCRATCH/skipped-step" ]; then
        count 1 0
    fi
    echo "== $name: $((SECONDS - begin)) s"
}

# a line each 30 seconds. A pipe at which nobody writes is the clock: sleep(1) would outlive this, and keep our output open
tell_progress() {
    local begin=$SECONDS last
    trap - EXIT INT TERM HUP
    [ -p "$SCRATCH/clock" ] || mkfifo "$SCRATCH/clock"
    exec 9<>"$SCRATCH/clock"
    while :; do
        read -r -t 30 -u 9 || true
        # the gate was ended
        [ -d "$SCRATCH" ] || exit
        last=
        [ ! -e "$SCRATCH/watched" ] || last=$(tail -n 1 "$(cat "$SCRATCH/watched")" 2>/dev/null | tr -s ' ' | cut -c 1-110)
        echo "   $1: $((SECONDS - begin)) s${last:+, at: $last}"
    done
}
