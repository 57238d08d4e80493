#!/bin/sh
# What `make demo` runs: makes a jail on a throw-away clone of this host's root, lets demo/inside.sh look around in it,
# and then checks from outside that it was one, and that nothing of it is left.
#
# usage: demo.sh PATH-OF-JAIL
set -eu

jail=$1
here=$(dirname "$0")
name=demo-$$
work=$(mktemp -d /run/demo.XXXXXX)
trap '"$jail" --root "$work/store" delete --force "$name" || true; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "$name" >"$work/name"
before=$(cksum /etc/passwd /usr/bin/env)
export DEMO_SECRET=only-for-the-host

program=$(sed '/^#/d' "$here/inside.sh")
echo "\$ jail run $name -- sh -c '... demo/inside.sh ...'"
began=$(date +%s%N)
code=0
"$jail" --root "$work/store" run "$name" -- sh -c "$program" sh "$name" >"$work/out" || code=$?
ended=$(date +%s%N)
cat "$work/out"

failed=0
not() { ! "$@"; }
check() {
    text=$1
    shift
    if "$@"; then echo "yes  $text"; else echo "NO   $text"; failed=1; fi
}
said() { grep -qxF -- "$1" "$work/out"; }
hidden() { said "/etc/shadow: not there" && not grep -qE 'VISIBLE|WORKED|only-for-the-host' "$work/out"; }
unwritten() { said "wrote /usr/bin/$name" && not test -e "/usr/bin/$name"; }
own_name_space() { said "name space $(readlink "/proc/self/ns/$1")" && return 1; grep -q "^name space $1:" "$work/out"; }
all_roots() { grep -q '^control group .*:/$' "$work/out" && not grep -q '^control group .*:/.' "$work/out"; }
only_lo() { [ "$(sed -n '/^== All of the network/,/^$/p' "$work/out" | sed '1d;/^$/d')" = lo ]; }
few() { sed -n '/^== All processes/,/^$/p' "$work/out" | grep -q '^1  sh -c' && not grep -q '^[0-9][0-9][0-9]*  ' "$work/out"; }
left() {
    "$jail" --root "$work/store" list --quiet | grep . ||
        grep -F "$work/store" /proc/self/mountinfo ||
        find /sys/fs/cgroup -type d -name "$name*" 2>/dev/null | grep . ||
        # By a file, so that this search does not find itself.
        grep -lF -f "$work/name" /proc/[0-9]*/cmdline 2>/dev/null
}

echo
echo "== Seen from the host"
check "its host name was $name" said "host name $name, user root"
for kind in pid mnt uts ipc net cgroup; do check "it had its own $kind name space" own_name_space "$kind"; done
check "it saw no process but its own" few
check "it saw no network but lo" only_lo
check "each of its control groups was a root to it" all_roots
check "no secret was there, and nothing forbidden worked" hidden
check "what it wrote to /usr is not here" unwritten
check "what it removed and changed is as it was" test "$before" = "$(cksum /etc/passwd /usr/bin/env)"
check "its exit code 7 was passed on" test "$code" = 7
check "no jail, mount, control group or process of it is left" not left
echo
[ $failed = 0 ] || exit 1
echo "Made, run and removed in $(((ended - began) / 1000000)) ms, on $(uname -sr)."
