//! What this program can do, as the features document of the OCI runtime specification.
//!
//! Nothing is listed here that another table decides: each list is read from the code that carries it out.

use std::collections::HashMap;

use oci_spec::runtime::{
    Apparmor, Cgroup, Features, IDMap, IntelRdt, LinuxFeature, MemoryPolicy, MountExtensions, NetDevices, Seccomp,
    Selinux,
};

use crate::{check, hooks, scheduling};

/// The document.
pub fn document() -> Features {
    let hooks = hooks::Moment::ALL.iter().map(|moment| moment.key().to_owned()).collect();
    let mut features = Features::default();
    features
        .set_oci_version_min("1.0.0".to_owned())
        .set_oci_version_max(check::VERSION.to_owned())
        .set_hooks(Some(hooks))
        .set_mount_options(Some(storage::option::words()))
        .set_linux(Some(linux()))
        .set_annotations(Some(versions()))
        // As a prefix: all of ours change what the runtime itself does on the host.
        .set_potentially_unsafe_config_annotations(Some(vec!["org.jail.".to_owned()]));
    features
}

fn linux() -> LinuxFeature {
    let no = Some(false);
    let mut cgroup = Cgroup::default();
    cgroup.set_v1(Some(true)).set_v2(Some(true)).set_systemd(Some(true)).set_systemd_user(no).set_rdma(Some(true));
    // Whether this program can, whatever this host has.
    let yes = Some(true);
    let mut rdt = IntelRdt::default();
    rdt.set_enabled(yes).set_schemata(yes).set_monitoring(yes);
    let mut apparmor = Apparmor::default();
    apparmor.set_enabled(yes);
    let mut selinux = Selinux::default();
    selinux.set_enabled(yes);
    let mut policy = MemoryPolicy::default();
    policy.set_modes(Some(words(&scheduling::MODES))).set_flags(Some(words(&scheduling::FLAGS)));
    let mut idmap = IDMap::default();
    idmap.set_enabled(Some(true));
    let mut mounts = MountExtensions::default();
    mounts.set_idmap(Some(idmap));
    let mut devices = NetDevices::default();
    devices.set_enabled(Some(true));
    let capabilities = secmodel::caps::known().iter().map(ToString::to_string).collect();
    let mut linux = LinuxFeature::default();
    linux
        .set_namespaces(Some(check::NAMESPACES.to_vec()))
        .set_capabilities(Some(capabilities))
        .set_cgroup(Some(cgroup))
        .set_seccomp(Some(seccomp()))
        .set_apparmor(Some(apparmor))
        .set_selinux(Some(selinux))
        .set_intel_rdt(Some(rdt))
        .set_memory_policy(Some(policy))
        .set_mount_extensions(Some(mounts))
        .set_net_devices(Some(devices));
    linux
}

fn seccomp() -> Seccomp {
    use secmodel::support;
    let mut seccomp = Seccomp::default();
    seccomp
        .set_enabled(Some(true))
        .set_actions(Some(support::actions()))
        .set_operators(Some(words(&support::OPERATORS)))
        .set_archs(Some(support::architectures()))
        .set_known_flags(Some(words(&support::FLAGS)))
        .set_supported_flags(Some(words(&support::FLAGS)));
    seccomp
}

fn words<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Versions, by the names that runc gives such annotations.
fn versions() -> HashMap<String, String> {
    let mut versions = HashMap::from([("org.jail.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    versions
        .extend(secmodel::support::version().map(|version| ("io.github.seccomp.libseccomp.version".into(), version)));
    versions
}
