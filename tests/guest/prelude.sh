# What every job of the guest begins with. A job is this, a script with functions, and one line a case:
#     check NAME FUNCTION ARGUMENT…

# busybox prefers its own programs to those of the same name.
mke2fs() { /bin/mke2fs -q -F -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$@"; }

failures=0

# Seconds one case may take, on the slowest machine.
readonly LIMIT=300

# Runs a function that ends at the first command that fails, and tells how it went; what it said only when it failed.
check() {
    local name=$1 status case dog
    shift
    (set -ex; "$@") >/tmp/log 2>&1 &
    case=$!
    (sleep "$LIMIT"; echo "no end after $LIMIT seconds" >>/tmp/log; kill "$case") &
    dog=$!
    wait "$case"
    status=$?
    kill "$dog" 2>/dev/null
    if [ "$status" = 0 ]; then
        echo "@@ pass $name"
        return
    fi
    failures=$((failures + 1))
    cat /tmp/log
    dmesg | tail -n 20
    echo "@@ fail $name"
}

# Succeeds when a command fails.
fails() { if "$@"; then return 1; fi; }

# Puts files of odd sizes into a mounted file system, by two writers at once, and removes one again.
fill() {
    local dir=$1 size
    mkdir "$dir/one" "$dir/two"
    (for size in 1 511 4097 70001 1500000; do head -c "$size" /dev/urandom >"$dir/one/$size"; done; sync) &
    for size in 3 513 65537 300003; do
        dd if=/dev/urandom of="$dir/two/$size" bs="$size" count=1 conv=fsync
        cp "$dir/two/$size" "$dir/two/$size.copy"
    done
    wait $!
    rm "$dir/two/513"
}

# Writes the sums of all files of a mounted file system.
sums() { (cd "$1" && find . -type f | sort | xargs sha256sum) >"$2"; }

# Forgets what was read, so that it is read again.
forget() { sync; echo 3 >/proc/sys/vm/drop_caches; }
