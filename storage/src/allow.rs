//! What of the host's own tree a clone may show: everything that is not named here stays outside.

use std::ffi::CStr;

/// Entries of the host's `/etc` (or of one directory in it) that are copied, and why a program inside wants them.
///
/// An entry that is a directory is copied with what is below it, each file under the rules of [`crate::clone`].
pub(crate) struct Group {
    /// The directory in `/etc` that the names are in; empty for `/etc` itself.
    pub(crate) under: &'static CStr,
    /// The names, each one word.
    pub(crate) names: &'static [&'static CStr],
}

const fn group(under: &'static CStr, names: &'static [&'static CStr]) -> Group {
    Group { under, names }
}

/// The table. Not in it on purpose: `shadow`, `gshadow`, `sudoers`, `ssh`, `ssl/private`, `apt/auth.conf`,
/// `krb5.keytab`, `machine-id`, `environment` and `default` (places where administrators put tokens), every
/// service's own directory, and `resolv.conf`, `hosts` and `hostname`, which describe the host's network.
pub(crate) const ETC: &[Group] = &[
    // Which distribution this is: installers and build scripts branch on it.
    group(c"", &[c"os-release", c"debian_version", c"lsb-release", c"issue"]),
    // How names are looked up: libc reads these before any look-up.
    group(c"", &[c"nsswitch.conf", c"host.conf", c"gai.conf", c"services", c"protocols", c"rpc", c"networks"]),
    // Where the dynamic linker finds libraries.
    group(c"", &[c"ld.so.conf", c"ld.so.conf.d", c"ld.so.cache"]),
    // What the generic command names lead to: without them `awk`, `vi` or `java` dangle.
    group(c"", &[c"alternatives"]),
    // Time zone and language.
    group(c"", &[c"localtime", c"timezone", c"locale.alias", c"locale.conf", c"locale.gen"]),
    group(c"default", &[c"locale"]),
    // Shells and terminals.
    group(c"", &[c"profile", c"profile.d", c"bash.bashrc", c"bash_completion.d", c"skel", c"shells"]),
    group(c"", &[c"inputrc", c"terminfo", c"vim"]),
    // Accounts made inside: defaults of useradd(8), and what login(1) and su(1) ask.
    group(c"", &[c"login.defs", c"adduser.conf", c"deluser.conf", c"pam.conf", c"pam.d", c"security"]),
    // File types, manual pages, extended attributes.
    group(c"", &[c"magic", c"mime.types", c"manpath.config", c"groff", c"xattr.conf"]),
    // Public certificates, and how TLS is done.
    group(c"ssl", &[c"certs", c"openssl.cnf"]),
    group(c"", &[c"ca-certificates", c"ca-certificates.conf"]),
    // The package manager, with its public keys and without its credentials.
    group(c"", &[c"dpkg", c"debconf.conf", c"ucf.conf"]),
    group(c"apt", &[c"apt.conf", c"apt.conf.d", c"preferences", c"preferences.d", c"sources.list", c"sources.list.d"]),
    group(c"apt", &[c"keyrings", c"trusted.gpg", c"trusted.gpg.d"]),
    // Interpreters and what /usr links to here; versions are in PATTERNS.
    group(c"", &[c"perl", c"python3", c"fonts"]),
];

/// Directories that are shown by an overlay and not copied where they are large and everything in them is public when
/// the jail is made: hundreds of links each, which would be half of all the time. What root adds to them on the host
/// later shows inside, as with `/usr`; only update-alternatives(1) and update-ca-certificates(8) do.
pub(crate) const LIVE: &[&[u8]] = &[b"etc/alternatives", b"etc/ssl/certs"];

/// More entries of `/etc`, whose names have a version in them: what the name begins and ends with.
pub(crate) const PATTERNS: &[(&[u8], &[u8])] = &[(b"python3.", b""), (b"java-", b"-openjdk")];

/// Account databases: copied line by line without anything that could be a hash. Where the host's cannot be copied,
/// the second text is written, since a jail in which uid 0 has no name is of little use.
pub(crate) const ACCOUNTS: &[(&CStr, &[u8])] = &[
    (c"passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    (c"group", b"root:x:0:\nnogroup:x:65534:\n"),
];

/// Files of `/etc` that are the jail's own. An empty machine-id means "not yet set" to systemd; resolv.conf is empty
/// since the jail's own network stack reaches nobody.
pub(crate) const FRESH: &[(&CStr, &[u8])] =
    &[(c"machine-id", b""), (c"resolv.conf", b""), (c"fstab", b""), (c"subuid", b""), (c"subgid", b"")];

/// Words of the root that a merged `/usr` has as links into it, and another host as directories.
pub(crate) const MERGED: &[&CStr] = &[c"bin", c"sbin", c"lib", c"lib32", c"lib64", c"libx32"];

/// Directories that are made empty, parents first, with their modes.
pub(crate) const EMPTY: &[(&CStr, u32)] = &[
    (c"dev", 0o755),
    (c"etc", 0o755),
    (c"home", 0o755),
    (c"media", 0o755),
    (c"mnt", 0o755),
    (c"opt", 0o755),
    (c"proc", 0o555),
    (c"root", 0o700),
    (c"run", 0o755),
    (c"run/lock", 0o1777),
    (c"srv", 0o755),
    (c"sys", 0o555),
    (c"tmp", 0o1777),
    (c"var", 0o755),
    (c"var/backups", 0o755),
    (c"var/cache", 0o755),
    (c"var/cache/apt", 0o755),
    (c"var/cache/apt/archives", 0o755),
    (c"var/cache/apt/archives/partial", 0o700),
    (c"var/cache/debconf", 0o755),
    (c"var/cache/ldconfig", 0o700),
    (c"var/lib", 0o755),
    (c"var/lib/apt", 0o755),
    (c"var/lib/apt/lists", 0o755),
    (c"var/lib/apt/lists/partial", 0o700),
    (c"var/lib/misc", 0o755),
    (c"var/local", 0o755),
    (c"var/log", 0o755),
    (c"var/log/apt", 0o755),
    (c"var/mail", 0o755),
    (c"var/opt", 0o755),
    (c"var/spool", 0o755),
    (c"var/tmp", 0o1777),
];

/// Links that are made anew: target, then place.
pub(crate) const LINKS: &[(&CStr, &CStr)] = &[
    (c"/run", c"var/run"),
    (c"/run/lock", c"var/lock"),
    (c"../mail", c"var/spool/mail"),
    (c"/proc/self/mounts", c"etc/mtab"),
];
