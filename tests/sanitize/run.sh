#!/bin/sh
# Runs tests against a sanitizer build of the native half.
#
#   tests/sanitize/run.sh address|undefined|thread [PYTEST ARGUMENTS…]
#
# The build is a copy of the tree in build/sanitize-KIND, so that the normal build is left alone; it is
# brought up to date each time (a second run compiles only what changed). PYTHON is the interpreter (default:
# python3); it needs what the normal build and its tests need. Reports are printed at the end (pytest would
# swallow them). Exit status: that of pytest, or of the aborted process; 66 where there was a report and all
# else went well.
#
# How this works with a Python that knows nothing of sanitizers:
# - The sanitizer's run-time library must be the first one in the process, hence LD_PRELOAD with gcc's own
#   copy. UBSan needs none.
# - PYTHONMALLOC=malloc, so that the sanitizer sees each object of Python as its own allocation, not a piece
#   of an arena.
# - Leaks are not looked for: Python frees little at its end. The engine's own ledger is what tests check.
# - Children inherit the preloaded library. That is fine for Python children, slow for others; tests that
#   start nginx and the like take LD_PRELOAD out of the environment that they hand on.
# - ThreadSanitizer sees the plain accesses of our modules only, but the locks and semaphores of all (it
#   intercepts them), so what Python orders by the GIL or by Thread.start and join counts as ordered. It does
#   not know fences: shared memory uses ordered operations only. What the interpreter does among its own
#   threads is listed in thread.supp. gcc 12's library does not stand much address-space randomisation, so it
#   is switched off for this process.
set -eu

usage() {
    sed -n '4s/^# *//p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
kind=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
case $python in
*/*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
esac
cc=${CC:-gcc}
copy=$root/build/sanitize-$kind

library() {
    path=$($cc -print-file-name="$1")
    if [ ! -e "$path" ]; then
        echo "$1 is missing: install gcc's sanitizer libraries (Debian: they come with the package gcc)." >&2
        exit 1
    fi
    echo "$path"
}

run=
case $kind in
address)
    # The C++ library is loaded too, for the sanitizer looks up the functions behind exceptions only once, at
    # the start.
    preload="$(library libasan.so) $(library libstdc++.so)"
    options="detect_leaks=0:strict_string_checks=1:detect_stack_use_after_return=1:abort_on_error=1"
    export ASAN_OPTIONS="$options:log_path=$copy/report:${ASAN_OPTIONS:-}"
    ;;
undefined)
    preload=
    export UBSAN_OPTIONS="print_stacktrace=1:abort_on_error=1:log_path=$copy/report:${UBSAN_OPTIONS:-}"
    ;;
thread)
    preload=$(library libtsan.so)
    options="suppressions=$root/tests/sanitize/thread.supp:second_deadlock_stack=1:history_size=4:exitcode=66"
    export TSAN_OPTIONS="$options:log_path=$copy/report:${TSAN_OPTIONS:-}"
    if setarch "$(uname -m)" -R true 2>/dev/null; then
        run="setarch $(uname -m) -R"
    fi
    ;;
*) usage ;;
esac

"$python" "$root/tests/sanitize/copy_tree.py" "$root" "$copy"
cd "$copy"
FASTMESH_SANITIZE=$kind FASTMESH_TEST_MODULES=1 CC=$cc "$python" setup.py -q build_ext --inplace

export PYTHONMALLOC=malloc PYTHONPATH=$copy FASTMESH_SANITIZED=$kind
rm -f "$copy"/report.*
status=0
# shellcheck disable=SC2086  # $run is one command in words, or nothing
env ${preload:+LD_PRELOAD="$preload"} $run "$python" -m pytest -p no:cacheprovider "$@" || status=$?
for report in "$copy"/report.*; do
    [ -e "$report" ] || continue
    cat "$report" >&2
    # Also where the process that reported was a child whose end nobody looked at.
    [ $status -ne 0 ] || status=66
done
exit $status
