//! The listener of a filter that notifies: a real agent gets it, and answers calls of the jail.

use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use libseccomp::{ScmpFd, ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recvmsg,
};
use serde_json::{Value, json};
use tests::{
    Bundle, LIMIT, code, finish, left_nothing, processes, require_root, runtimes, stage, stage_of, wait_for,
    within_limit,
};

/// An agent, which takes listeners.
struct Agent {
    path: PathBuf,
    socket: UnixListener,
}

impl Agent {
    fn of(bundle: &Bundle) -> Agent {
        let path = bundle.dir.join("agent");
        let _ = std::fs::remove_file(&path);
        let socket = UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Agent { path, socket }
    }

    /// Waits for one connection.
    fn connection(&self) -> UnixStream {
        let mut accepted = None;
        wait_for("a connection to the agent", || {
            accepted = self.socket.accept().ok();
            accepted.is_some()
        });
        accepted.unwrap().0
    }

    /// Waits for one listener; gives what was told with it.
    fn accept(&self) -> (Value, OwnedFd) {
        receive(&self.connection())
    }
}

fn receive(stream: &UnixStream) -> (Value, OwnedFd) {
    let mut text = vec![0; 65536];
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut into = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut into, Some(&mut space), flags).unwrap();
    let fds = message.cmsgs().unwrap().find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let (fds, length) = (fds.expect("a descriptor"), message.bytes);
    assert_eq!(fds.len(), 1);
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    (serde_json::from_slice(&text[..length]).unwrap(), unsafe { OwnedFd::from_raw_fd(fds[0]) })
}

/// Answers one call with an error number, and gives the number of the process that made it.
fn answer(listener: &OwnedFd, errno: i32) -> u32 {
    let fd = listener.as_raw_fd() as ScmpFd;
    let request = ScmpNotifReq::receive(fd).unwrap();
    ScmpNotifResp::new_error(request.id, -errno, ScmpNotifRespFlags::empty()).respond(fd).unwrap();
    request.pid
}

/// Notifies of mkdir(2), which the shell's `mkdir` makes.
fn notifying(bundle: &mut Bundle, agent: &Agent) {
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": &agent.path, "listenerMetadata": "who=jail",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}),
    );
}

const MKDIR: &[&str] = &["sh", "-c", "mkdir /tmp/x 2>&1"];
const ANSWERED: &str = "mkdir: can't create directory '/tmp/x': Invalid cross-device link\n";

/// Runs a jail whose mkdir is answered, and gives what was told to the agent.
fn answered(bundle: &mut Bundle) -> Value {
    let agent = Agent::of(bundle);
    notifying(bundle, &agent);
    bundle.args(MKDIR);
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let (told, listener) = agent.accept();
            answer(&listener, libc::EXDEV);
            told
        });
        assert_eq!(bundle.run().out, ANSWERED);
        told.join().unwrap()
    })
}

#[test]
fn an_agent_gets_the_listener_of_run_with_the_state_and_answers_a_call() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for privileges in [true, false] {
            let (mut bundle, host) = stage_of(runtime.clone());
            bundle.set("/process/noNewPrivileges", privileges).set("/annotations", json!({"a": "b"}));
            let told = answered(&mut bundle);
            assert_eq!(told["fds"], json!(["seccompFd"]));
            assert_eq!(told["metadata"], "who=jail");
            assert!(told["ociVersion"].as_str().unwrap().starts_with("1."));
            let state = &told["state"];
            assert_eq!((&state["id"], &state["status"]), (&json!(bundle.id), &json!("creating")));
            assert_eq!((&state["bundle"], &state["annotations"]), (&json!(bundle.dir), &json!({"a": "b"})));
            assert!(told["pid"].as_i64().unwrap() > 1 && state["pid"] == told["pid"], "{told}");
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn start_and_exec_send_a_listener_each_with_the_number_of_their_own_process() {
    if !require_root() {
        return;
    }
    for privileges in [true, false] {
        for user in [false, true] {
            let (mut bundle, host) = stage();
            let agent = Agent::of(&bundle);
            notifying(&mut bundle, &agent);
            if user {
                let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
                bundle.set("/linux/namespaces/-", json!({"type": "user"}));
                bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
            }
            bundle.set("/process/noNewPrivileges", privileges).args(&["sleep", "1000"]).create().ok();
            bundle.start().ok();
            let (told, _listener) = agent.accept();
            assert_eq!(told["pid"], json!(bundle.pid().unwrap()));
            assert_eq!(told["state"]["status"], "created");
            std::thread::scope(|scope| {
                let answering = scope.spawn(|| {
                    let (told, listener) = agent.accept();
                    (told["pid"].clone(), told["state"]["status"].clone(), answer(&listener, libc::EXDEV))
                });
                // One program, so that the number is that of the one who calls.
                let done = bundle.exec(&["mkdir", "/tmp/x"]);
                assert_eq!((done.code(), done.err.as_str()), (Some(1), ANSWERED), "{done}");
                let (pid, status, caller) = answering.join().unwrap();
                assert_eq!((status, pid), (json!("running"), json!(caller)));
            });
            bundle.delete_force().ok();
            drop(agent);
            left_nothing(&bundle, &host);
        }
    }
}

/// The jail must have no way to the agent, nor keep the listener: with it a program answers its own calls.
#[test]
fn the_program_has_neither_the_listener_nor_the_socket_of_its_agent() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let agent = Agent::of(&bundle);
    notifying(&mut bundle, &agent);
    bundle.start_sleeper();
    let connection = agent.connection();
    let (_, _listener) = receive(&connection);
    assert_eq!((&connection).read(&mut [0]).unwrap(), 0, "the connection is closed behind the one message");
    let fds = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(fds(bundle.pid().unwrap()), 3);
    bundle.delete_force().ok();
    drop((agent, connection));
    left_nothing(&bundle, &host);
}

#[test]
fn without_its_agent_nothing_starts_and_a_created_jail_stays_created() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let agent = Agent::of(&bundle);
    notifying(&mut bundle, &agent);
    drop(agent);
    std::fs::remove_file(bundle.dir.join("agent")).unwrap();
    let line = bundle.run().fails();
    assert!(line.contains("/linux/seccomp/listenerPath") && line.contains("no such file"), "{line}");
    left_nothing(&bundle, &host);
    bundle.args(&["sleep", "1000"]).create().ok();
    let line = bundle.start().fails();
    assert!(line.contains("/linux/seccomp/listenerPath"), "{line}");
    assert_eq!(bundle.status().as_deref(), Some("created"));
    // And with it the same jail starts.
    let agent = Agent::of(&bundle);
    bundle.start().ok();
    let (_, listener) = agent.accept();
    drop(agent);
    std::fs::remove_file(bundle.dir.join("agent")).unwrap();
    let before = processes::with_word(&bundle.id).len();
    let line = bundle.exec(&["true"]).fails();
    assert!(line.contains("/linux/seccomp/listenerPath"), "{line}");
    assert_eq!(processes::with_word(&bundle.id).len(), before);
    drop(listener);
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// A listener is a descriptor that a caller may pass on, such as an agent that is itself in a jail.
#[test]
fn a_listener_that_the_caller_passes_on_is_not_taken_for_that_of_the_jail() {
    if !require_root() {
        return;
    }
    let (mut other, other_host) = stage();
    let others = Agent::of(&other);
    notifying(&mut other, &others);
    other.start_sleeper();
    let (_, passed) = others.accept();
    let (mut bundle, host) = stage();
    let agent = Agent::of(&bundle);
    notifying(&mut bundle, &agent);
    bundle.args(MKDIR);
    let mut run = bundle.making("run", &["--preserve-fds", "1"]);
    let number = passed.as_raw_fd();
    // SAFETY: dup2(2) may be called between fork and exec; the descriptor is open until the command has ended.
    unsafe { run.pre_exec(move || Ok(Errno::result(libc::dup2(number, 3)).map(drop)?)) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (_, listener) = agent.accept();
            answer(&listener, libc::EXDEV);
        });
        assert_eq!(finish(&mut run, LIMIT).out, ANSWERED);
    });
    other.delete_force().ok();
    drop((agent, others, passed));
    left_nothing(&bundle, &host);
    left_nothing(&other, &other_host);
}

/// Whoever holds the lock of a jail waits for nobody for ever.
#[test]
fn an_agent_that_takes_nothing_is_named_and_keeps_nobody_waiting() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let path = bundle.dir.join("agent");
    let socket = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
    };
    let (agent, address) = (socket(), UnixAddr::new(&path).unwrap());
    bind(agent.as_raw_fd(), &address).unwrap();
    listen(&agent, Backlog::new(0).unwrap()).unwrap();
    let agent = Agent { path, socket: agent.into() };
    notifying(&mut bundle, &agent);
    let crowd: Vec<_> = std::iter::repeat_with(socket).take(4).collect();
    let refused = crowd.iter().filter(|caller| connect(caller.as_raw_fd(), &address).is_err()).count();
    assert!(refused > 0, "there is no room left");
    let line = bundle.run().fails();
    let why = format!("listenerPath {}: it takes nothing for 5 seconds", bundle.dir.join("agent").display());
    assert!(line.contains(&why), "{line}");
    drop((agent, crowd));
    left_nothing(&bundle, &host);
}

/// As the agents of user-mode networks do: they want to hear of most calls that a socket or a descriptor is used by.
#[test]
fn an_agent_may_be_notified_of_every_call_that_the_runtime_makes_afterwards() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let agent = Agent::of(&bundle);
    notifying(&mut bundle, &agent);
    let calls = ["close", "sendmsg", "recvmsg", "read", "sendto", "connect", "execve", "exit_group"];
    bundle.set("/linux/seccomp/syscalls/0/names", calls.to_vec()).set("/process/noNewPrivileges", true);
    let mut child = bundle.args(&["true"]).run_in_background();
    let (_, listener) = agent.accept();
    let fd = listener.as_raw_fd() as ScmpFd;
    let ended = within_limit(move || {
        let mut seen = 0;
        while let Ok(request) = ScmpNotifReq::receive(fd) {
            seen += 1;
            let go_on = ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::empty());
            // The process may have ended meanwhile.
            let _ = go_on.respond(fd);
        }
        seen
    });
    assert!(ended > 1, "{ended}");
    assert_eq!(code(&mut child), Some(0));
    drop(agent);
    left_nothing(&bundle, &host);
}

#[test]
fn a_profile_that_would_wait_for_an_agent_without_a_listener_is_refused() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let rule = |call: &str| json!([{"names": ["read", call], "action": "SCMP_ACT_NOTIFY"}]);
    for (profile, place) in [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}), "/linux/seccomp/defaultAction: "),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": rule("write")}),
            "/linux/seccomp/syscalls/0: SCMP_ACT_NOTIFY of write",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("mkdir")}),
            "/linux/seccomp/syscalls/0/action: SCMP_ACT_NOTIFY needs /linux/seccomp/listenerPath",
        ),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}), "/linux/seccomp/listenerMetadata: "),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "x"}), "/linux/seccomp/listenerPath: "),
    ] {
        let line = bundle.set("/linux/seccomp", profile).run().fails();
        assert!(line.contains(place), "{line}");
    }
    left_nothing(&bundle, &host);
    // Of exec without no_new_privs, which clones under the filter.
    let agent = Agent::of(&bundle);
    notifying(&mut bundle, &agent);
    bundle.set("/linux/seccomp/syscalls/0/names", json!(["mkdir", "clone"])).start_sleeper();
    let (_, _listener) = agent.accept();
    let line = bundle.exec(&["true"]).fails();
    assert!(line.contains("notifies of clone") && line.contains("/process/noNewPrivileges"), "{line}");
    bundle.delete_force().ok();
    drop(agent);
    left_nothing(&bundle, &host);
}

#[test]
fn a_path_that_no_rule_needs_is_ignored_and_what_an_agent_is_told_makes_no_other_filter() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/agent",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
    );
    bundle.run().ok();
    left_nothing(&bundle, &host);
    let cached = |bundle: &Bundle| std::fs::read_dir(bundle.root.join(".cache")).unwrap().count();
    let before = cached(&bundle);
    for metadata in ["one", "two"] {
        answered(&mut bundle);
        let agent = bundle.spec["linux"]["seccomp"]["listenerMetadata"].clone();
        assert_eq!(agent, "who=jail");
        bundle.set("/linux/seccomp/listenerMetadata", metadata);
    }
    assert_eq!(cached(&bundle), before + 1);
}

#[test]
fn a_call_that_waits_for_its_agent_ends_with_the_jail() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let agent = Agent::of(&bundle);
    notifying(&mut bundle, &agent);
    bundle.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]));
    bundle.args(MKDIR).create().ok();
    bundle.start().ok();
    let (_, listener) = agent.accept();
    // Received, and never answered.
    let _request = ScmpNotifReq::receive(listener.as_raw_fd() as ScmpFd).unwrap();
    assert_eq!(bundle.status().as_deref(), Some("running"));
    bundle.delete_force().ok();
    drop(agent);
    left_nothing(&bundle, &host);
}
