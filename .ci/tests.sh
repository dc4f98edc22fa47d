# Sourced by run: compiles and runs the tests of cargo.
#
# compile_tests      all of them, by the command line that runs them: else cargo would compile once more for each selection
# tests NAME WHICH   runs those: unit, integration, blackbox (the integration tests and those of libcontainer/tests), or other
#                    (the library's own, on the other architecture). IN_VIEW is a command that runs cargo, FILES names files
#                    of integration/tests to run alone

LIBRARY=$(package_of libcontainer)
FEATURES=$LIBRARY/oci-spec
IN_VIEW=()
FILES=()

# which WHICH: sets `selection`, the arguments of cargo nextest or cargo test
which_tests() {
    local file expression
    if [ "$1" = other ]; then
        selection=(--package "$LIBRARY" --package "$(package_of libcontainer/host)" --lib --target "$OTHER")
        return
    fi
    if have cargo-nextest; then
        case $1 in
        unit) expression='not package(integration)' ;;
        integration) expression='package(integration)' ;;
        blackbox) expression='package(integration) | (package(='"$LIBRARY"') & kind(test))' ;;
        esac
        if [ ${#FILES[@]} -gt 0 ]; then
            expression="($expression) & ("
            for file in "${FILES[@]}"; do expression+="binary_id(integration::$file) | "; done
            expression="${expression% | })"
        fi
        selection=(--workspace --features $FEATURES -E "$expression")
        return
    fi
    case $1 in
    unit) selection=(--workspace --features $FEATURES --exclude integration) ;;
    integration) selection=(--package integration) ;;
    blackbox) selection=(--package integration --package "$LIBRARY" --test '*') ;;
    esac
    for file in "${FILES[@]}"; do selection+=(--test "$file"); done
}

compile_tests() {
    local TIME_LIMIT=$BUILD_LIMIT selection
    if have cargo-nextest; then
        limit cargo nextest run --no-run --workspace --features $FEATURES
    else
        for one in unit integration blackbox; do
            which_tests $one
            limit cargo test --no-run "${selection[@]}"
        done
    fi
}

tests() {
    local name=$1 log=$SCRATCH/tests.log code=0 passed failed skipped selection
    which_tests "$2"
    rm -f "$TEST_RECORD"
    : >"$log"
    watch "$log"
    if have cargo-nextest; then
        limit "${IN_VIEW[@]}" cargo nextest run --no-fail-fast --success-output final --status-level pass --final-status-level fail \
            --color never "${selection[@]}" >"$log" 2>&1 || code=$?
        passed=$(sed -nE 's/^ *Summary .* ([0-9]+) passed.*/\1/p' "$log")
        failed=$(sed -nE 's/^ *Summary .* ([0-9]+) failed.*/\1/p' "$log")
    else
        limit "${IN_VIEW[@]}" cargo test --no-fail-fast "${selection[@]}" -- --show-output >"$log" 2>&1 || code=$?
        passed=$(awk '/^test result:/ { n += $4 } END { print n + 0 }' "$log")
        failed=$(awk '/^test result:/ { n += $6 } END { print n + 0 }' "$log")
    fi
    { sed -nE 's/^ *(skip [^:]*|skipped, )/\1/p' "$log"; grep '^SKIP ' "$TEST_RECORD" 2>/dev/null || true; } |
        sed -E 's/^(SKIP|skip|skipped,) +//' | sort -u >"$SCRATCH/these"
    while IFS= read -r line; do skip "${line%%: *}" "${line#*: }"; done <"$SCRATCH/these"
    skipped=$(wc -l <"$SCRATCH/these")
    passed=${passed:-0} failed=${failed:-0}
    # killed, or did not build
    [ "$code" = 0 ] || [ "$failed" != 0 ] || failed=1
    [ "$code" != 0 ] || [ "$passed" != 0 ] || { reason "no test ran"; failed=1 code=1; }
    passed=$((passed > skipped ? passed - skipped : 0))
    count "$passed" "$failed"
    echo "$name: $passed passed, $failed failed, $skipped skipped"
    [ "$code" != 0 ] || return 0
    without_passed "$log" | tail -n 300
    why_failed "$log"
    return "$code"
}

# the reason of a run of tests that failed: the names of the tests, or the error of the compiler
why_failed() {
    local names
    names=$(sed -nE 's/^ *(FAIL|SIGABRT|SIGKILL|SIGSEGV|SIGTERM|TIMEOUT) +\[[^]]*\] +(\([^)]*\) )?//p; s/^test (.*) \.\.\. FAILED$/\1/p' "$1" |
        sort -u | tr '\n' ',' | sed 's/,$//; s/,/, /g')
    [ -z "$names" ] || reason "these tests failed: $names"
    reason "$(grep -m 1 -E '^ *error' "$1" || tail -n 1 "$1")"
}

# what a log of tests says, without what passed
without_passed() {
    grep -vE '^ *(Compiling|Downloaded|Downloading|Checking) |^test .* \.\.\. ok$' "$1" |
        awk '/^ *[A-Z]+ +\[ *[0-9.]+s\]/ { quiet = $1 == "PASS" || $1 == "SLOW" || $1 == "LEAK" } !quiet'
}
