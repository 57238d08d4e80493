//! The default root: a throw-away clone of the host's own, by an allow list. Secrets of the host are not in it, and
//! nothing that is done to it reaches the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tests::view::{self, View};
use tests::{Bundle, Done, Host, require_root, tree};

/// Mode and place of every planted secret: what a host has in these files is a key, a hash, a token or a person's own.
const PLANTED: &[(u32, &str)] = &[
    (0o640, "etc/shadow"),
    (0o644, "etc/shadow-"),
    (0o640, "etc/gshadow"),
    (0o440, "etc/sudoers"),
    (0o644, "etc/sudoers.d/rule"),
    (0o640, "etc/ssl/private/key.pem"),
    (0o600, "etc/ssl/certs/key.pem"),
    (0o600, "etc/ssh/ssh_host_ed25519_key"),
    (0o644, "etc/ssh/sshd_config"),
    (0o644, "etc/krb5.keytab"),
    (0o644, "etc/machine-id"),
    (0o644, "etc/environment"),
    (0o644, "etc/default/service"),
    (0o644, "etc/wireguard/wg0.conf"),
    (0o644, "etc/NetworkManager/wifi"),
    (0o644, "etc/docker/config.json"),
    (0o644, "etc/resolv.conf"),
    (0o644, "etc/hosts"),
    (0o644, "etc/hostname"),
    (0o644, "etc/fstab"),
    (0o644, "etc/crypttab"),
    (0o644, "etc/mysql/debian.cnf"),
    (0o644, "etc/apt/auth.conf"),
    (0o644, "etc/apt/auth.conf.d/token"),
    (0o600, "etc/apt/apt.conf.d/99token"),
    (0o600, "etc/alternatives/private"),
    (0o600, "etc/profile.d/private.sh"),
    (0o600, "etc/security/opasswd"),
    (0o4755, "etc/skel/suid"),
    (0o2755, "etc/skel/sgid"),
    (0o644, "etc/pam.d/closed/rule"),
    (0o600, "root/.ssh/id_ed25519"),
    (0o644, "root/.bash_history"),
    (0o644, "home/somebody/.aws/credentials"),
    (0o644, "var/lib/service/data"),
    (0o644, "var/lib/dpkg-lock/x"),
    (0o644, "var/lib/apt/listchanges.db"),
    (0o644, "var/log/auth.log"),
    (0o644, "var/cache/debconf/passwords.dat"),
    (0o644, "var/spool/cron/root"),
    (0o644, "var/mail/root"),
    (0o644, "var/tmp/left"),
    (0o644, "var/backups/shadow.bak"),
    (0o644, "srv/data"),
    (0o644, "opt/app/token"),
    (0o644, "tmp/left"),
    (0o644, "run/secrets/token"),
    (0o644, "mnt/disk/file"),
    (0o644, "media/stick/file"),
    (0o644, "boot/grub/password"),
    (0o644, "data/file"),
    (0o644, ".hidden"),
    (0o644, "top"),
];

fn put(tree: &Path, mode: u32, place: &str, text: &str) {
    let path = tree.join(place);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What makes a tree a host: a merged /usr with busybox as its every program.
fn usr(tree: &Path) {
    let bin = tree.join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(tree.join("usr/local/bin")).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for name in "sh cat ls grep find id env rm chmod touch mv mkdir stat wc true mount df test".split(' ') {
        symlink("busybox", bin.join(name)).unwrap();
    }
}

/// A host with secrets everywhere.
fn host(tree: &Path) {
    fs::create_dir(tree).unwrap();
    usr(tree);
    symlink("usr/bin", tree.join("bin")).unwrap();
    // Of the words that lead into /usr, one leads elsewhere here.
    symlink("root", tree.join("lib32")).unwrap();
    for (mode, place) in PLANTED {
        put(tree, *mode, place, &format!("SECRET {place}\n"));
    }
    fs::set_permissions(tree.join("etc/pam.d/closed"), fs::Permissions::from_mode(0o700)).unwrap();
    // What everybody may read and nobody should.
    put(tree, 0o644, "etc/apt/sources.list", "deb https://user:SECRET@repo.example/debian stable main\n");
    put(tree, 0o644, "etc/profile.d/proxy.sh", "export http_proxy=\"http://me:SECRET@proxy:3128\"\n");
    put(tree, 0o644, "etc/ssl/certs/both.pem", "-----BEGIN RSA PRIVATE KEY-----\nSECRET\n");
    put(tree, 0o644, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\neve:SECRET:1000:1000::/home/eve:/bin/sh\n");
    put(tree, 0o644, "etc/group", "root:x:0:\nstaff:SECRET:50:\n");
    // Links from what is allowed to what is not.
    for (to, place) in [
        ("/root/.bash_history", "etc/profile"),
        ("../shadow-", "etc/profile.d/link.sh"),
        ("/root", "etc/ld.so.conf.d"),
        ("../../../root", "etc/terminfo"),
        ("../../root/.ssh/id_ed25519", "etc/skel/key"),
    ] {
        symlink(to, tree.join(place)).unwrap();
    }
    // … and what is allowed and public, so that an empty root is no success.
    put(tree, 0o644, "etc/profile.d/public.sh", "PUBLIC\n");
    put(tree, 0o644, "etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nPUBLIC\n");
    put(tree, 0o644, "var/lib/dpkg/status", "PUBLIC\n");
    put(tree, 0o755, "usr/local/bin/tool", "PUBLIC\n");
    for number in 0..80 {
        symlink(format!("/usr/bin/tool{number}"), tree.join(format!("etc/alternatives/tool{number}"))).unwrap();
    }
}

fn run(bundle: &Bundle, tree: &Path, script: &str) -> Done {
    bundle.call(&["run", "--from", &tree.to_string_lossy(), &bundle.id, "--", "sh", "-c", script])
}

/// Every line of every file that has the word, but for the file systems of the kernel.
fn search(word: &str) -> String {
    format!(
        "for p in /* /.[!.]*; do case $p in /proc|/sys|/dev) ;; *) grep -r {word} $p;; esac; done 2>/dev/null; \
         find / \\( -path /proc -o -path /sys \\) -prune -o -type f -print | wc -l"
    )
}

#[test]
fn no_secret_of_the_host_is_in_the_default_root() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let tree = bundle.dir.join("host");
    host(&tree);
    // The search finds them where they are.
    let found = std::process::Command::new("grep").args(["-rl", "SECRET"]).arg(&tree).output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&found).lines().count() >= PLANTED.len());
    let out = run(&bundle, &tree, &search("SECRET")).ok();
    let (files, lines): (Vec<&str>, Vec<&str>) = out.lines().partition(|line| line.trim().parse::<u32>().is_ok());
    assert!(lines.is_empty(), "{lines:#?}");
    assert!(files[0].trim().parse::<u32>().unwrap() > 5, "{out}");
    let public = run(&bundle, &tree, &search("PUBLIC")).ok();
    for place in ["/etc/profile.d/public.sh", "/etc/ssl/certs/ca.pem", "/var/lib/dpkg/status", "/usr/local/bin/tool"] {
        assert!(public.contains(place), "{place} is not in {public}");
    }
    let names =
        run(&bundle, &tree, "find / -path /proc -prune -o -path /sys -prune -o -print; cat /proc/self/mountinfo").ok();
    for name in ["history", ".ssh", "somebody", "id_ed25519", "wireguard", "docker", "opasswd", "crypttab", "host/usr"]
    {
        assert!(!names.contains(name), "{name}");
    }
}

/// What appears on the host while the jail runs does not appear inside, where it is not of /usr.
#[test]
fn what_the_host_gets_later_does_not_come_in() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let tree = bundle.dir.join("host");
    host(&tree);
    let words =
        ["run", "--detach", "--from", &tree.to_string_lossy(), &bundle.id, "--", "sh", "-c", "while :; do :; done"];
    bundle.call(&words).ok();
    for place in ["etc/profile.d/later.sh", "etc/skel/later", "home/later", "var/lib/later", "root/later"] {
        put(&tree, 0o644, place, "SECRET\n");
    }
    put(&tree, 0o644, "etc/passwd", "root:SECRET:0:0:root:/root:/bin/sh\n");
    let out = bundle.exec(&["sh", "-c", &search("SECRET")]).ok();
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[test]
fn no_write_to_the_default_root_reaches_the_host() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let (from, host_before) = (bundle.dir.join("host"), Host::snapshot(&bundle.id, &[]));
    host(&from);
    let before = tree(&from);
    let script = "set -e; echo x >> /usr/bin/busybox2; echo x >> /etc/passwd; echo x > /etc/new; \
        echo x >> /var/lib/dpkg/status; rm /usr/local/bin/tool; mv /usr/bin/df /usr/bin/other; chmod 700 /usr/bin; \
        mkdir -p /usr/lib/new /home/new /var/lib/new /root/new; touch /usr/bin/busybox /etc/profile.d/public.sh /tmp/x; \
        rm -r /etc/alternatives /etc/ssl; chmod 600 /usr/bin/busybox; ls /usr/lib/new /home/new; echo done";
    let out = run(&bundle, &from, script).ok();
    assert!(out.ends_with("done\n"), "{out}");
    assert_eq!(tree(&from), before);
    // Not for the next jail either.
    let again = run(&bundle, &from, "cat /etc/new /usr/bin/busybox2; ls /home; cat /usr/local/bin/tool");
    assert_eq!(again.out, "PUBLIC\n", "{again}");
    fs::remove_dir_all(&from).unwrap();
    host_before.assert_unchanged();
}

/// A file system at PLACE, in the mount name space of this test.
struct Mounted(PathBuf);

impl Mounted {
    fn at(place: &Path) -> Mounted {
        fs::create_dir_all(place).unwrap();
        mount(Some("none"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        Mounted(place.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_usr_and_a_var_of_their_own_file_systems_are_in_the_default_root() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    for read_only in [false, true] {
        let bundle = Bundle::new();
        let tree = bundle.dir.join("host");
        fs::create_dir(&tree).unwrap();
        let _usr = Mounted::at(&tree.join("usr"));
        let _local = Mounted::at(&tree.join("usr/local"));
        let _var = Mounted::at(&tree.join("var"));
        let _log = Mounted::at(&tree.join("var/log"));
        usr(&tree);
        symlink("usr/bin", tree.join("bin")).unwrap();
        put(&tree, 0o644, "var/lib/dpkg/status", "PUBLIC var\n");
        put(&tree, 0o644, "var/lib/dpkg/info/x.list", "PUBLIC info\n");
        put(&tree, 0o755, "usr/local/bin/tool", "PUBLIC local\n");
        put(&tree, 0o644, "var/log/syslog", "SECRET\n");
        put(&tree, 0o644, "var/lib/secret", "SECRET\n");
        put(&tree, 0o644, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        if read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, &tree.join("usr"), None::<&str>, flags, None::<&str>).unwrap();
        }
        let before = view::mounts();
        let script = format!(
            "cat /var/lib/dpkg/status /usr/local/bin/tool; touch /usr/bin/x /var/lib/dpkg/y /usr/local/z; \
            echo $?; {}",
            search("SECRET")
        );
        let out = run(&bundle, &tree, &script).ok();
        assert!(out.starts_with("PUBLIC var\nPUBLIC local\n0\n") && out.lines().count() == 4, "{out}");
        assert_eq!(view::mounts(), before);
        assert!(!tree.join("usr/bin/x").exists() && !tree.join("usr/local/z").exists());
    }
}

#[test]
fn a_host_with_odd_files_in_etc_is_cloned_without_them() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let from = bundle.dir.join("host");
    host(&from);
    let etc = from.join("etc");
    fs::remove_file(etc.join("passwd")).unwrap();
    nix::unistd::mkfifo(&etc.join("passwd"), Mode::from_bits_truncate(0o644)).unwrap();
    nix::unistd::mkfifo(&etc.join("login.defs"), Mode::from_bits_truncate(0o644)).unwrap();
    mknod(&etc.join("shells"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o644), makedev(1, 5)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(etc.join("skel/socket")).unwrap();
    fs::File::create(etc.join("services")).unwrap().set_len(1 << 30).unwrap();
    fs::File::create(etc.join("profile.d/huge.sh")).unwrap().set_len(1 << 40).unwrap();
    let out = run(&bundle, &from, "id; cd /etc; ls -d login.defs shells skel/socket services profile.d/*; cat passwd");
    assert!(
        out.out.starts_with("uid=0(root) gid=0(root)") && out.out.contains("root:x:0:0:root:/root:/bin/sh"),
        "{out}"
    );
    for name in ["login.defs", "shells", "socket", "services", "huge"] {
        assert!(!out.out.contains(name), "{name} in {out}");
    }
}

#[test]
fn a_usr_that_is_a_link_is_refused() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let from = bundle.dir.join("host");
    host(&from);
    fs::rename(from.join("usr"), from.join("elsewhere")).unwrap();
    symlink("/root", from.join("usr")).unwrap();
    let host_before = Host::snapshot(&bundle.id, &[]);
    assert!(run(&bundle, &from, "true").fails().contains("usr"));
    host_before.assert_unchanged();
}

/// On this very machine: the files that every Debian has and no jail may have.
#[test]
fn the_real_host_shows_no_key_and_no_home() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let before = Host::snapshot(&bundle.id, &[]);
    let script = "ls -A /root /home /tmp /srv /opt /mnt /media /var/log /var/tmp /run/jail 2>&1 | grep -v :; \
        for f in /etc/shadow /etc/gshadow /etc/ssh /etc/ssl/private /etc/sudoers /etc/hostname /boot /run/docker.sock; do \
        [ -e $f ] && echo $f; done; cat /etc/hostname; hostname; ls /proc | grep -c '^[0-9]*$'; ls /sys/class/net";
    let out = bundle.call(&["run", &bundle.id, "--", "sh", "-c", script]).ok();
    let lines: Vec<&str> = out.lines().filter(|line| !line.is_empty() && *line != "apt").collect();
    assert_eq!(lines[0..3], ["/etc/hostname", &bundle.id, &bundle.id], "{out}");
    assert!(lines[3].parse::<u32>().unwrap() < 6 && lines[4..] == ["lo"], "{out}");
    before.assert_unchanged();
}
