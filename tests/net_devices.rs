//! Links of the host that become a jail's. "The host" of these tests is a network of their own.

use std::fs;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tests::{Bundle, installed, left_nothing, require_root, stage, wait_for};

/// Puts this test, and all that it starts, into an empty network; whether it can be.
fn own_network() -> bool {
    if !require_root() || !installed("ip") {
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    true
}

#[track_caller]
fn ip(words: &str) -> String {
    let out = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A link that is up and has addresses of several kinds.
fn device(name: &str) {
    ip(&format!("link add {name} address 02:00:00:00:00:77 type ifb"));
    ip(&format!("link set {name} up mtu 1400"));
    ip(&format!("address add 192.0.2.7/24 broadcast 192.0.2.255 dev {name}"));
    ip(&format!("address add 192.0.2.8/24 dev {name} label {name}:1"));
    ip(&format!("address add 198.51.100.1/32 dev {name} noprefixroute"));
    ip(&format!("-6 address add 2001:db8::7/64 dev {name} nodad"));
    ip(&format!("address add 203.0.113.1/24 dev {name} valid_lft 1000 preferred_lft 1000"));
    ip(&format!("address add 169.254.3.4/16 scope link dev {name}"));
}

const KEPT: &str = "192.0.2.7/24\n192.0.2.8/24\n198.51.100.1/32\n2001:db8::7/64\n";

/// What `ip` shows of the permanent addresses of global scope.
fn addresses(text: &str) -> String {
    let global = text.lines().filter(|line| line.contains("scope global") && line.contains("forever"));
    let mut list: Vec<_> = global.map(|line| line.split_whitespace().nth(3).unwrap()).collect();
    list.sort_unstable();
    list.iter().map(|address| format!("{address}\n")).collect()
}

/// What the host has of a link: its addresses and whether it is up; nothing where it has no such link.
fn of_host(name: &str) -> Option<(String, bool)> {
    let shown = Command::new("ip").args(["-o", "address", "show", "dev", name]).output().unwrap();
    let link = Command::new("ip").args(["link", "show", "dev", name]).output().unwrap();
    link.status.success().then(|| {
        let up = String::from_utf8_lossy(&link.stdout).contains(",UP");
        (addresses(&String::from_utf8_lossy(&shown.stdout)), up)
    })
}

/// What `ip`, run by this process in the network of another, shows.
fn inside(pid: i32, words: &str) -> String {
    let out =
        Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "ip"]).args(words.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn with_device(bundle: &mut Bundle, name: &str, inside: &str) {
    bundle.set("/linux/netDevices", json!({name: {"name": inside}}));
}

/// A network that a jail can join by its path.
struct Network(Child);

impl Network {
    fn new() -> Network {
        let child = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        let network = Network(child);
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = network.path();
        wait_for("the network", || fs::read_link(&path).is_ok_and(|other| other != own));
        network
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn joined_by(&self, bundle: &mut Bundle) {
        let list = bundle.spec["linux"]["namespaces"].as_array().unwrap();
        let at = list.iter().position(|namespace| namespace["type"] == "network").unwrap();
        bundle.set(&format!("/linux/namespaces/{at}/path"), self.path());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_link_of_the_host_becomes_the_jails_with_its_addresses() {
    if !own_network() {
        return;
    }
    for rename in ["", "net0"] {
        let (mut bundle, host) = stage();
        device("wire0");
        with_device(&mut bundle, "wire0", rename);
        bundle.start_sleeper();
        let (pid, name) = (bundle.pid().unwrap(), if rename.is_empty() { "wire0" } else { rename });
        assert_eq!(of_host("wire0"), None);
        assert_eq!(addresses(&inside(pid, &format!("-o address show dev {name}"))), KEPT);
        let shown = inside(pid, &format!("address show dev {name}"));
        for word in [",UP", "mtu 1400", "02:00:00:00:00:77", "brd 192.0.2.255", "noprefixroute", &format!("{name}:1")] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        assert!(!shown.contains("203.0.113.1") && !shown.contains("169.254.3.4"), "{shown}");
        // The program sees it too; a virtual link ends with its network, as the specification has it.
        assert!(bundle.exec(&["ip", "link"]).ok().contains(&format!("{name}:")));
        bundle.delete_force().ok();
        wait_for("its end", || !ip("link").contains("wire0") && !ip("link").contains("net0"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_link_goes_into_a_network_that_is_joined_and_stays_there() {
    if !own_network() {
        return;
    }
    let network = Network::new();
    let (mut bundle, host) = stage();
    device("wire0");
    // Its number is taken there.
    let index = ip("-o link show dev wire0").split(':').next().unwrap().to_owned();
    inside(network.pid(), &format!("link add other0 index {index} type ifb"));
    with_device(&mut bundle, "wire0", "net%d");
    network.joined_by(&mut bundle);
    inside(network.pid(), "link add net0 type ifb");
    let look = "ip link show net1";
    assert!(bundle.script(look).contains(",UP"));
    assert_eq!(addresses(&inside(network.pid(), "-o address show dev net1")), KEPT);
    assert_eq!(of_host("wire0"), None);
    left_nothing(&bundle, &host);
}

#[test]
fn a_link_goes_into_a_jail_with_a_user_name_space() {
    if !own_network() {
        return;
    }
    let (mut bundle, host) = stage();
    device("wire0");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    with_device(&mut bundle, "wire0", "net0");
    bundle.start_sleeper();
    assert_eq!(addresses(&inside(bundle.pid().unwrap(), "-o address show dev net0")), KEPT);
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn the_other_end_of_a_pair_stays_on_the_host_and_carries() {
    if !own_network() {
        return;
    }
    let (mut bundle, host) = stage();
    ip("link add end0 type veth peer name end1");
    ip("link set end0 up");
    ip("link add spare type ifb");
    bundle.set("/linux/netDevices", json!({"end1": {"name": "eth0"}, "spare": {}})).start_sleeper();
    wait_for("the carrier", || ip("link show end0").contains("LOWER_UP"));
    let names = bundle.exec(&["ip", "link"]).ok();
    assert!(names.contains("eth0@") && names.contains("spare:"), "{names}");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn hooks_and_sysctls_find_the_link_in_its_place() {
    if !own_network() {
        return;
    }
    let (mut bundle, host) = stage();
    device("wire0");
    with_device(&mut bundle, "wire0", "net0");
    let seen = bundle.dir.join("seen");
    let script = format!("ls /sys/class/net > /dev/null; cat /proc/net/dev > {}", seen.display());
    bundle.set("/hooks/createContainer", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    bundle.set("/linux/sysctl", json!({"net.ipv4.conf.net0.log_martians": "1"}));
    assert_eq!(bundle.script("cat /proc/sys/net/ipv4/conf/net0/log_martians"), "1\n");
    assert!(fs::read_to_string(seen).unwrap().contains("net0:"));
    left_nothing(&bundle, &host);
}

/// It would go by one name and could not come back by it.
#[test]
fn a_link_is_asked_for_by_its_own_name() {
    if !own_network() {
        return;
    }
    let (mut bundle, host) = stage();
    device("wire0");
    ip("link property add dev wire0 altname enx02000077");
    let before = ip("address show dev wire0");
    for inside in ["", "net0"] {
        with_device(&mut bundle, "enx02000077", inside);
        let line = bundle.args(&["true"]).run().fails();
        let why = "/linux/netDevices/enx02000077: it is another name of the link wire0, whose own is wanted";
        assert!(line.contains(why), "{line}");
        assert_eq!(ip("address show dev wire0"), before);
    }
    left_nothing(&bundle, &host);
    ip("link del wire0");
}

#[test]
fn a_jail_that_is_not_made_after_all_gives_its_links_back_as_they_were() {
    if !own_network() {
        return;
    }
    let network = Network::new();
    let failing = json!([{"path": "/bin/false"}]);
    let renaming = "ip link set net0 down; ip link set net0 name other; ip address flush dev other; exit 1";
    let renaming = json!([{"path": "/bin/sh", "args": ["sh", "-c", renaming], "env": ["PATH=/sbin:/usr/sbin:/bin"]}]);
    for (pointer, value) in [
        ("/process/args", json!(["/no/such/program"])),
        ("/hooks/createRuntime", failing.clone()),
        ("/hooks/createContainer", failing),
        ("/hooks/createContainer", renaming),
        ("/process/cwd", json!("/etc/passwd")),
    ] {
        for joins in [false, true] {
            for up in [true, false] {
                let (mut bundle, host) = stage();
                device("wire0");
                ip("link add spare type ifb");
                if !up {
                    // Those of version 6 go with it.
                    ip("link set wire0 down");
                    ip("-6 address replace 2001:db8::7/64 dev wire0 nodad");
                }
                if joins {
                    network.joined_by(&mut bundle);
                }
                bundle.set("/linux/netDevices", json!({"wire0": {"name": "net0"}, "spare": {"name": "net1"}}));
                bundle.set(pointer, value.clone());
                bundle.create().fails();
                assert_eq!(of_host("wire0"), Some((KEPT.to_owned(), up)), "{pointer} {joins}");
                assert_eq!(of_host("spare"), Some((String::new(), false)), "{pointer} {joins}");
                assert!(!inside(network.pid(), "link").contains("net0"));
                for name in ["wire0", "spare"] {
                    ip(&format!("link del {name}"));
                }
                left_nothing(&bundle, &host);
            }
        }
    }
}

#[test]
fn what_cannot_be_moved_is_refused_before_anything_is_touched() {
    if !own_network() {
        return;
    }
    let network = Network::new();
    inside(network.pid(), "link add taken type ifb");
    device("wire0");
    ip("link add wire1 type ifb");
    let (mut bundle, host) = stage();
    let usual = bundle.spec.clone();
    let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
    for (devices, place, reason) in [
        (json!({"absent": {}}), "", "/linux/netDevices/absent: the host has no such link"),
        (json!({"wire0": {"name": "taken"}}), "joined", "the network that the jail joins has a link taken already"),
        (json!({"wire0": {"name": "x"}, "wire1": {"name": "x"}}), "", "\"x\" is the name of wire0 too"),
        (json!({"wire0": {"name": "wire1"}, "wire1": {}}), "", "\"wire1\" is the name of wire0 too"),
        (json!({"lo": {}}), "", "\"lo\" is the link that every network has of its own"),
        (json!({"wire0": {"name": "lo"}}), "", "\"lo\" is the link that every network has of its own"),
        (json!({"wire0": {"name": "with space"}}), "", "is no name of a link"),
        (json!({"wire0": {"name": "sixteen-letters-x"}}), "", "it has 1 to 15 bytes"),
        (json!({"wire0": {}}), "none", "/linux/netDevices: it needs a name space of type network"),
        (json!({"wire0": {}}), "own", "is the one in which it is already"),
    ] {
        bundle.spec.clone_from(&usual);
        let at = usual["linux"]["namespaces"].as_array().unwrap().iter().position(|one| one["type"] == "network");
        match place {
            "joined" => network.joined_by(&mut bundle),
            "none" => drop(bundle.remove(&format!("/linux/namespaces/{}", at.unwrap()))),
            "own" => drop(bundle.set(&format!("/linux/namespaces/{}/path", at.unwrap()), own.clone())),
            _ => (),
        }
        let line = bundle.set("/linux/netDevices", devices).create().fails();
        assert!(line.contains(reason), "{reason}: {line}");
        assert_eq!(of_host("wire0"), Some((KEPT.to_owned(), true)), "{reason}");
        left_nothing(&bundle, &host);
    }
    bundle.spec.clone_from(&usual);
    with_device(&mut bundle, "wire0", "net0");
    let plan = bundle.create_with(&["--dry-run"]).ok();
    assert!(plan.contains("host  move link wire0 into the jail as net0"), "{plan}");
    assert_eq!(of_host("wire0"), Some((KEPT.to_owned(), true)));
    left_nothing(&bundle, &host);
}

#[test]
fn a_link_that_cannot_leave_its_network_is_named_and_the_others_come_back() {
    if !own_network() {
        return;
    }
    let (mut bundle, host) = stage();
    device("a-wire");
    ip("link add bridge type bridge");
    bundle.set("/linux/netDevices", json!({"a-wire": {"name": "net0"}, "bridge": {"name": "net1"}}));
    let line = bundle.create().fails();
    let reason = "move link bridge into the jail as net1: a link of its kind cannot leave its network";
    assert!(line.contains(reason), "{line}");
    assert_eq!(of_host("a-wire"), Some((KEPT.to_owned(), true)));
    left_nothing(&bundle, &host);
}
