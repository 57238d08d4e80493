//! Mounts by descriptor: open_tree(2), fsopen(2), fsconfig(2), fsmount(2), move_mount(2), mount_setattr(2).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// What [`mount_setattr`] sets and clears: `MOUNT_ATTR_*` bits and a propagation type (`MS_PRIVATE`, …, or 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 for none.
    pub propagation: u64,
}

fn descriptor(ret: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(ret)?;
    // SAFETY: every caller passes the result of a call that returns a new descriptor which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes a detached copy of the mount at `path`, with what is mounted below it if `recursive`.
///
/// An empty `path` means `dir` itself. Source: open_tree(2), OPEN_TREE_CLONE.
///
/// # Errors
/// As open_tree(2); `EINVAL` where an unbindable mount, or in a user name space a locked one, is below.
pub fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    clone_with(dir, path, if recursive { libc::AT_RECURSIVE } else { 0 })
}

/// As [`clone_tree`], of a link itself where `path` is one. Source: open_tree(2), AT_SYMLINK_NOFOLLOW.
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_tree_itself(dir: impl AsFd, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    clone_with(dir, path, libc::AT_SYMLINK_NOFOLLOW | if recursive { libc::AT_RECURSIVE } else { 0 })
}

fn clone_with(dir: impl AsFd, path: &CStr, flags: libc::c_int) -> nix::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | (libc::AT_EMPTY_PATH | flags) as u32;
    // SAFETY: `path` is a C string that outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_fd().as_raw_fd(), path.as_ptr(), flags) })
}

/// Opens a context in which a new file system of type `name` is configured. Source: fsopen(2).
///
/// # Errors
/// `ENODEV` where the kernel does not know the type.
pub fn fsopen(name: &CStr) -> nix::Result<OwnedFd> {
    // SAFETY: `name` is a C string that outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

fn fsconfig(fs: RawFd, command: u32, key: Option<&CStr>, value: Option<&CStr>, aux: i32) -> nix::Result<()> {
    let null = std::ptr::null();
    let (key, value) = (key.map_or(null, CStr::as_ptr), value.map_or(null, CStr::as_ptr));
    // SAFETY: both strings are null or outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, fs, command, key, value, aux) }).map(drop)
}

/// Sets option `key` to `value`. Source: fsconfig(2), FSCONFIG_SET_STRING.
///
/// # Errors
/// `EINVAL` for an option that the file system does not know; [`fs_reason`] says more.
pub fn fs_set(fs: impl AsFd, key: &CStr, value: &CStr) -> nix::Result<()> {
    fsconfig(fs.as_fd().as_raw_fd(), libc::FSCONFIG_SET_STRING, Some(key), Some(value), 0)
}

/// Sets option `key`, which has no value. Source: fsconfig(2), FSCONFIG_SET_FLAG.
///
/// # Errors
/// As [`fs_set`].
pub fn fs_set_flag(fs: impl AsFd, key: &CStr) -> nix::Result<()> {
    fsconfig(fs.as_fd().as_raw_fd(), libc::FSCONFIG_SET_FLAG, Some(key), None, 0)
}

/// Makes the configured file system. Source: fsconfig(2), FSCONFIG_CMD_CREATE.
///
/// # Errors
/// Whatever the file system says of its options or its device.
pub fn fs_create(fs: impl AsFd) -> nix::Result<()> {
    fsconfig(fs.as_fd().as_raw_fd(), libc::FSCONFIG_CMD_CREATE, None, None, 0)
}

/// Makes a detached mount of a created file system, with `MOUNT_ATTR_*` bits. Source: fsmount(2).
///
/// # Errors
/// `EPERM` in a user name space where the mount would show more than the host lets it see.
pub fn fsmount(fs: impl AsFd, attr: u64) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, fs.as_fd().as_raw_fd(), libc::FSMOUNT_CLOEXEC, attr as libc::c_uint)
    })
}

/// What the file system itself said of the last refusal, such as `tmpfs: Bad value for 'size'`.
pub fn fs_reason(fs: impl AsFd) -> Option<String> {
    let mut text = [0; 512];
    let len = nix::unistd::read(fs, &mut text).ok()?;
    // A line is `e message`: the class, a space, the text.
    let line = std::str::from_utf8(text.get(2..len)?).ok()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Attaches the mount `tree` on what `target` is a descriptor of. Source: move_mount(2).
///
/// # Errors
/// `ENOTDIR` or `EINVAL` where one is a directory and the other is not, or `target` is in a foreign name space.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(ret).map(drop)
}

/// Changes attributes and propagation of the mount `tree`, and of those below it if `recursive`.
/// Source: mount_setattr(2).
///
/// # Errors
/// `EPERM` for a locked attribute, `EINVAL` for bits that the kernel does not know.
pub fn mount_setattr(tree: impl AsFd, recursive: bool, attr: &MountAttr) -> nix::Result<()> {
    let raw =
        libc::mount_attr { attr_set: attr.set, attr_clr: attr.clear, propagation: attr.propagation, userns_fd: 0 };
    setattr(tree, recursive, &raw)
}

/// Shows the files of the detached mount `tree`, and of those below it if `recursive`, as owned by whom the maps of the
/// user name space `users` make of their owners. Source: mount_setattr(2), MOUNT_ATTR_IDMAP.
///
/// # Errors
/// `EINVAL` where the file system cannot do it, `EPERM` where it is done already or the maps are empty.
pub fn map_owners(tree: impl AsFd, recursive: bool, users: impl AsFd) -> nix::Result<()> {
    let userns_fd = users.as_fd().as_raw_fd() as u64;
    let raw = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    setattr(tree, recursive, &raw)
}

fn setattr(tree: impl AsFd, recursive: bool, raw: &libc::mount_attr) -> nix::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `raw` outlives the call and its true size is passed.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(raw),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(ret).map(drop)
}
