# The program of the demo: it runs inside the jail, and says what it sees. $1 is a name that nothing else has.
# demo.sh hands this text to the jail's shell, since no file of the place where it lies is in there.
title() { printf '\n== %s\n' "$*"; }

title "Who and where"
echo "host name $(uname -n), user $(id -un)"

title "All processes"
for folder in /proc/[0-9]*; do
    # A process of the pipe below may be gone by now.
    words=$(tr '\0\n' '  ' 2>/dev/null <"$folder/cmdline" | cut -c -40) 2>/dev/null || continue
    [ -z "$words" ] || printf "%s  %s\n" "${folder#/proc/}" "$words"
done

title "All of the network"
tail -n +3 /proc/net/dev | while read -r link _; do echo "${link%:}"; done

title "The root: the host's programs, and nothing that is anybody's"
echo /*
echo "/usr/bin: $(find /usr/bin | wc -l) entries"
for place in /home /root /srv /mnt /tmp /var/log; do
    echo "$place: $(find $place -mindepth 1 -type f | wc -l) files"
done
for secret in /etc/shadow /etc/ssh /etc/ssl/private /root/.ssh; do
    if [ -e $secret ]; then echo "$secret: VISIBLE"; else echo "$secret: not there"; fi
done
echo "DEMO_SECRET of the caller's environment: ${DEMO_SECRET:-not there}"

title "It may change its root"
echo "written inside" >"/usr/bin/$1" && echo "wrote /usr/bin/$1"
rm /usr/bin/env && echo "removed /usr/bin/env"
echo "root::0:0::/:/bin/sh" >/etc/passwd && echo "took root's password away"

title "It may not reach further"
try() { if "$@" 2>/dev/null; then echo "$*: WORKED"; else echo "$*: refused"; fi; }
try mount -t tmpfs none /mnt
try unshare -U true
try mknod /tmp/mem c 1 1
try sh -c 'echo x >/proc/sys/kernel/core_pattern'

title "Name spaces and control groups"
for kind in pid mnt uts ipc net cgroup; do echo "name space $(readlink /proc/self/ns/$kind)"; done
cut -d: -f2- /proc/self/cgroup | sed 's/^/control group /'

# Left behind on purpose: it must be gone when the jail is. demo.sh looks for its name.
sh -c "sleep 86400; : $1" &
exit 7
