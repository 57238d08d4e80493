//! System calls that the kernel has and that an older libseccomp (Debian 12: 2.5.4) cannot name.

/// Name and number, by number. From 424 on a call has one number on every architecture, but for alpha, and for mips and
/// x32, which add a base. Source: the tables of the kernel, `arch/*/kernel/syscalls/syscall*.tbl` and `scripts/syscall.tbl`.
const CALLS: &[(&str, u32)] = &[
    ("futex_waitv", 449),
    ("set_mempolicy_home_node", 450),
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
];

/// The number of `name`, where it is one of the new calls.
pub(crate) fn number(name: &str) -> Option<u32> {
    CALLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use libseccomp::ScmpSyscall;

    use super::CALLS;

    #[test]
    fn numbers_rise_and_agree_with_libseccomp_where_it_knows_the_name() {
        assert!(CALLS.windows(2).all(|pair| pair[0].1 < pair[1].1));
        for (name, number) in CALLS {
            let known = ScmpSyscall::from_name(name).ok().map(i32::from).filter(|known| *known >= 0);
            assert!(known.is_none_or(|known| known == *number as i32), "{name}");
        }
    }
}
