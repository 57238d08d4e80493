#!/bin/sh
# The Debian packages that this project needs, named here and nowhere else.
#
# usage: packages.sh build|test
#
# Installs what is missing of one kind. Without root it says what is missing: fatal for a build, not for the tests,
# which skip what they cannot do and say so.
set -eu

# Kind, package, and a program that will do in its place wherever it comes from ("-": none).
list() {
    cat <<'END'
build  gcc              cc
build  libc6-dev        -
build  libseccomp-dev   -
test   bubblewrap       bwrap
test   buildah          buildah
test   busybox-static   -
test   catatonit        catatonit
test   conmon           conmon
test   containerd       containerd
test   containernetworking-plugins -
test   crun             crun
test   docker.io        dockerd
test   fuse-overlayfs   fuse-overlayfs
test   g++              c++
test   iproute2         ip
test   kmod             modprobe
test   podman           podman
test   runc             runc
test   slirp4netns      slirp4netns
test   systemd          -
test   uidmap           newuidmap
test   user-mode-linux  linux.uml
END
}

kind=${1:-}
case $kind in build | test) ;; *) echo "usage: packages.sh build|test" >&2; exit 2 ;; esac
PATH=$PATH:/usr/sbin:/sbin

command -v dpkg-query >/dev/null || {
    echo "packages.sh: this is no Debian; what the $kind needs must be there already (the list is in packages.sh)" >&2
    exit 0
}

missing() {
    list | while read -r of package program; do
        [ "$of" = "$kind" ] || continue
        [ "$program" = - ] || ! command -v "$program" >/dev/null || continue
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

# Without what a build needs there is no build. The tests go on, but in CI nothing is left out.
give_up() {
    echo "packages.sh: $1" >&2
    [ "$kind" = test ] && [ "${CI:-}" != true ] || exit 1
    echo "packages.sh: the tests that need it will say that they were skipped" >&2
    exit 0
}

wanted=$(missing)
[ -n "$wanted" ] || exit 0
# shellcheck disable=SC2086 # a list of words
set -- $wanted
[ "$(id -u)" = 0 ] || give_up "missing, and only root can install it: apt-get install $*"

# No service starts because of us: the tests start their own daemons on private sockets. This is Debian's way to
# say so; a policy that is there already stays. A dangling link or a kill leaves at most this file, which says whose it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\n# Made by packages.sh of the jail project while it installs packages; safe to remove.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
# --no-remove: where Docker's own containerd.io is installed, Debian's packages would replace it.
get() { apt-get install -y -q --no-install-recommends --no-remove "$@"; }

echo "packages.sh: installing $*"
known() { apt-cache show "$1" >/dev/null 2>&1; }
for package in "$@"; do
    # Lists that were never fetched, or are older than the package.
    known "$package" || { apt-get update -q; break; }
done
get "$@" || { apt-get update -q && get "$@"; } || {
    # One that this release does not have must not keep the others away.
    for package in "$@"; do get "$package" || true; done
}

# Nor at the next start of the machine.
services() {
    case $1 in
    containerd) echo containerd.service ;;
    docker.io) echo docker.service docker.socket ;;
    podman) echo podman.service podman.socket podman-restart.service podman-auto-update.service podman-auto-update.timer ;;
    esac
}
for package in "$@"; do
    # shellcheck disable=SC2046 # a list of words
    [ -z "$(services "$package")" ] || ! command -v systemctl >/dev/null || systemctl -q disable $(services "$package") || true
done

left=$(missing | tr '\n' ' ')
[ -z "$left" ] || give_up "could not install ${left% }"
