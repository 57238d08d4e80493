//! What the program of a jail says to the caller's service manager (sd_notify(3)).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt};
use serde_json::json;
use tests::processes::field;
use tests::{Bundle, Host, LIMIT, finish, left_nothing, require_root, stage, wait_for};

/// What a script begins with: `say` sends one datagram, `give` one with a descriptor.
const SPEAK: &str = "use Socket; $| = 1; my $path = $ENV{NOTIFY_SOCKET}; \
    my $to = $path =~ s/^@/\\0/r; socket(S, AF_UNIX, SOCK_DGRAM, 0) or die; connect(S, pack_sockaddr_un($to)) or die $!; \
    sub say { defined(send(S, $_[0], 0)) or die \"send: $!\" } \
    sub give { my ($text, $fd) = @_; my $iov = pack('P Q', $text, length $text); \
      my $control = pack('Q l l l x4', 20, 1, 1, $fd); my $all = pack('Q Q P Q P Q Q', 0, 0, $iov, 1, $control, 24, 0); \
      syscall(46, fileno(S), $all, 0) >= 0 or die \"sendmsg: $!\" } ";

/// A service manager.
struct Manager {
    socket: UnixDatagram,
    address: String,
}

/// What it hears.
#[derive(Debug)]
struct Heard {
    text: String,
    fds: Vec<OwnedFd>,
    sender: i32,
}

impl Manager {
    fn listen(bundle: &Bundle) -> Manager {
        let address = bundle.dir.join("manager").to_string_lossy().into_owned();
        Manager::of(UnixDatagram::bind(&address).unwrap(), address)
    }

    fn without_a_file(bundle: &Bundle) -> Manager {
        let address = SocketAddr::from_abstract_name(&bundle.id).unwrap();
        Manager::of(UnixDatagram::bind_addr(&address).unwrap(), format!("@{}", bundle.id))
    }

    fn of(socket: UnixDatagram, address: String) -> Manager {
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager { socket, address }
    }

    #[track_caller]
    fn hear(&self) -> Heard {
        let mut bytes = vec![0; 1 << 18];
        let mut space = nix::cmsg_space!(libc::ucred, [RawFd; 8]);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let fd = self.socket.as_raw_fd();
        let message = loop {
            match recvmsg::<UnixAddr>(fd, &mut into, Some(&mut space), MsgFlags::empty()) {
                // A socket with a time limit is not asked again by the kernel itself: signal(7).
                Err(Errno::EINTR) => {}
                heard => break heard.expect("a datagram"),
            }
        };
        let (mut fds, mut sender) = (Vec::new(), 0);
        for part in message.cmsgs().unwrap() {
            match part {
                ControlMessageOwned::ScmRights(all) => {
                    // SAFETY: they came with this message, and nobody else owns them.
                    fds.extend(all.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
                ControlMessageOwned::ScmCredentials(who) => sender = who.pid(),
                other => panic!("{other:?}"),
            }
        }
        let len = message.bytes;
        Heard { text: String::from_utf8_lossy(&bytes[..len]).into_owned(), fds, sender }
    }

    #[track_caller]
    fn hears(&self, text: &str) -> Heard {
        let heard = self.hear();
        assert_eq!(heard.text, text);
        heard
    }

    fn is_silent(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let silent = self.socket.recv(&mut [0]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        silent
    }

    /// `run` of this script under it.
    fn run(&self, bundle: &mut Bundle, script: &str) -> Child {
        let mut run = self.command(bundle, "run", &[], script);
        run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn command(&self, bundle: &mut Bundle, verb: &str, options: &[&str], script: &str) -> Command {
        let script = format!("{SPEAK}{script}");
        match bundle.rootfs().join("lib").is_symlink() {
            true => bundle.args(&["perl", "-e", &script]),
            false => bundle.perl(&script),
        };
        let mut command = bundle.making(verb, options);
        command.env("NOTIFY_SOCKET", &self.address);
        command
    }
}

/// What the run printed, after it ended well.
#[track_caller]
fn ended(run: Child) -> (String, String) {
    let output = tests::within_limit(move || run.wait_with_output().unwrap());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{}: {err}", output.status);
    (out, err)
}

fn a_stage() -> Option<(Bundle, Host, Manager)> {
    if !require_root() {
        return None;
    }
    let bundle = Bundle::new();
    let manager = Manager::listen(&bundle);
    let host = Host::snapshot(&bundle.id, &[]);
    Some((bundle, host, manager))
}

#[test]
fn every_datagram_arrives_in_order_from_whom_the_manager_listens_to() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let said = "say('STATUS=begins'); say(qq(READY=1\\nSTATUS=is up)); say('WATCHDOG=1') for 1 .. 3; \
        say(qq(RELOADING=1\\nMONOTONIC_USEC=5\\n)); say('EXTEND_TIMEOUT_USEC=9'); say('X_OWN=words'); say('STOPPING=1')";
    let run = manager.run(&mut bundle, &format!("{said}; <STDIN>; sleep 1000"));
    let runtime = i32::try_from(run.id()).unwrap();
    assert_eq!(manager.hears("STATUS=begins").sender, runtime);
    let main = bundle.pid().unwrap();
    let ready = manager.hears(&format!("READY=1\nSTATUS=is up\nMAINPID={main}"));
    assert_eq!(ready.sender, runtime, "the new one is not known yet");
    for text in ["WATCHDOG=1"; 3].into_iter().chain([
        "RELOADING=1\nMONOTONIC_USEC=5\n",
        "EXTEND_TIMEOUT_USEC=9",
        "X_OWN=words",
        "STOPPING=1",
    ]) {
        assert_eq!(manager.hears(text).sender, main);
    }
    bundle.kill("KILL").ok();
    let mut run = run;
    assert_eq!(tests::code(&mut run), Some(137));
    left_nothing(&bundle, &host);
}

/// Under WatchdogSec a unit whose pings do not arrive is killed.
#[test]
fn a_program_that_pings_is_heard_as_long_as_it_runs() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let script = "say('READY=1'); for (1 .. 20) { say('WATCHDOG=1'); select(undef, undef, undef, 0.05) } \
        print qq($ENV{WATCHDOG_USEC} $ENV{WATCHDOG_PID} $$\\n)";
    let mut command = manager.command(&mut bundle, "run", &[], script);
    let run = command.env("WATCHDOG_USEC", "400000").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(manager.hear().text.starts_with("READY=1\n"));
    manager.socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..20 {
        manager.hears("WATCHDOG=1");
    }
    assert_eq!(ended(run).0, "400000 1 1\n");
    left_nothing(&bundle, &host);
}

#[test]
fn a_watchdog_of_another_process_is_not_passed_on() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let mut command = manager.command(&mut bundle, "run", &[], "print $ENV{WATCHDOG_USEC} // 'none'");
    command.env("WATCHDOG_USEC", "400000").env("WATCHDOG_PID", "1");
    assert_eq!(finish(&mut command, LIMIT).ok(), "none");
    command.env("WATCHDOG_USEC", "often").env_remove("WATCHDOG_PID");
    assert!(finish(&mut command, LIMIT).fails().contains("WATCHDOG_USEC \"often\""));
    left_nothing(&bundle, &host);
}

/// The kernel lets nobody speak in the name of a process that is gone.
#[test]
fn what_is_said_after_the_end_of_a_named_main_process_arrives() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let script = "my $child = fork // die; if (!$child) { sleep 1000 } say(qq(READY=1\\nMAINPID=$child)); \
        say('STATUS=both'); sleep 1 while !-e '/go'; kill 9, $child; waitpid $child, 0; \
        say('WATCHDOG=1'); give('FDSTORE=1', 1); say('STOPPING=1')";
    let run = manager.run(&mut bundle, script);
    let text = manager.hear().text;
    let child = text.strip_prefix("READY=1\nMAINPID=").unwrap_or_else(|| panic!("{text}")).parse::<i32>().unwrap();
    assert_eq!(manager.hears("STATUS=both").sender, child);
    let main = bundle.pid().unwrap();
    std::fs::write(bundle.rootfs().join("go"), "").unwrap();
    for text in ["WATCHDOG=1", "FDSTORE=1", "STOPPING=1"] {
        assert_eq!(manager.hears(text).sender, main, "{text}");
    }
    assert_eq!(ended(run).1, "");
    left_nothing(&bundle, &host);
}

#[test]
fn a_main_process_gets_the_number_that_the_host_knows() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    // The numbers of the host are not the jail's to name.
    let script = "my $child = fork // die; if (!$child) { sleep 1000 } say(qq(MAINPID=$child\\nSTATUS=x)); \
        say('READY=1'); say('MAINPID=99999'); say('MAINPID=rubbish'); say(qq(STATUS=y\\nMAINPID=1\\nMAINPID=2)); \
        say(qq(MAINPIDFDID=7\\nMAINPID=$child)); say('STATUS=end'); \
        sleep 1 while !-e '/go'; kill 9, $child";
    let run = manager.run(&mut bundle, script);
    let text = manager.hear().text;
    let number = text.strip_prefix("STATUS=x\nMAINPID=").unwrap_or_else(|| panic!("{text}"));
    let (child, main) = (number.parse::<i32>().unwrap(), bundle.pid().unwrap());
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    assert_eq!(field(&status, "NSpid").split_whitespace().next_back(), Some("2"));
    assert_eq!(manager.hears("READY=1").sender, child, "it was named before");
    manager.hears(&format!("STATUS=y\nMAINPID={main}"));
    manager.hears(&format!("MAINPID={child}"));
    manager.hears("STATUS=end");
    std::fs::write(bundle.rootfs().join("go"), "").unwrap();
    let (_, err) = ended(run);
    assert_eq!(err.lines().filter(|line| line.contains("no process of the jail")).count(), 1, "{err}");
    left_nothing(&bundle, &host);
}

#[test]
fn descriptors_come_along_and_are_closed_by_whoever_passed_them_on() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let script = "open(F, '<', '/etc/passwd'); give(qq(FDSTORE=1\\nFDNAME=web), fileno(F)); pipe(R, W); \
        give('BARRIER=1', fileno(W)); close(W); print 'closed' unless <R>; say('STATUS=after')";
    let run = manager.run(&mut bundle, script);
    let stored = manager.hears("FDSTORE=1\nFDNAME=web");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", stored.fds[0].as_raw_fd())).unwrap();
    assert_eq!(link.file_name().unwrap(), "passwd");
    let barrier = manager.hears("BARRIER=1");
    assert_eq!(barrier.fds.len(), 1);
    // As systemd does: the program waits for this.
    drop(barrier);
    manager.hears("STATUS=after");
    assert_eq!(ended(run).0, "closed");
    left_nothing(&bundle, &host);
}

#[test]
fn rubbish_and_what_is_huge_neither_end_nor_stop_the_run() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let script = "say('x' x 70000); say('y' x 150000); say(qq(\\xff\\xfe\\0=\\n\\n)); say(''); open(F, '<', '/'); \
        give('z' x 100000, fileno(F)); say('STATUS=still here'); exit 0";
    let run = manager.run(&mut bundle, script);
    assert!(manager.hear().text.contains('='));
    manager.hears("STATUS=still here");
    let (_, err) = ended(run);
    assert_eq!(err.lines().filter(|line| line.contains("65536")).count(), 1, "{err}");
    left_nothing(&bundle, &host);
}

/// The manager reads nothing, so that its queue is full, and the program goes on as fast as it can.
#[test]
fn a_flood_neither_ends_nor_stops_the_run() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let script = "for (1 .. 50000) { send(S, qq(WATCHDOG=1\\nMAINPID=$_), 0x40) } open(F, '<', '/'); \
        for (1 .. 300) { my $t = 'FDSTORE=1'; my $iov = pack('P Q', $t, 9); my $c = pack('Q l l l x4', 20, 1, 1, 3); \
        my $all = pack('Q Q P Q P Q Q', 0, 0, $iov, 1, $c, 24, 0); syscall(46, fileno(S), $all, 0x40) } exit 0";
    let run = manager.run(&mut bundle, script);
    let (_, err) = ended(run);
    assert!(err.lines().count() <= 3, "{err}");
    assert!(!manager.is_silent());
    left_nothing(&bundle, &host);
}

#[test]
fn a_manager_that_has_gone_away_ends_nothing() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let run = manager.run(&mut bundle, "say('STATUS=a'); sleep 1 while !-e '/go'; say('STATUS=b'); say('STATUS=c')");
    manager.hears("STATUS=a");
    let Manager { socket, address } = manager;
    drop(socket);
    std::fs::write(bundle.rootfs().join("go"), "").unwrap();
    let (_, err) = ended(run);
    assert_eq!(err.lines().filter(|line| line.contains("does not listen")).count(), 1, "{err}");
    // For the comparison: it was there before.
    std::fs::remove_file(&address).unwrap();
    let _again = UnixDatagram::bind(&address).unwrap();
    left_nothing(&bundle, &host);
}

#[test]
fn after_create_the_socket_itself_is_inside() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let script = "say(qq(READY=1\\nMAINPID=$$)); sleep 1000";
    finish(&mut manager.command(&mut bundle, "create", &[], script), LIMIT).ok();
    bundle.start().ok();
    let main = bundle.pid().unwrap();
    assert_eq!(manager.hears("READY=1\nMAINPID=1").sender, main);
    bundle.delete_force().ok();
    // Nobody stays here either.
    finish(&mut manager.command(&mut bundle, "run", &["--detach"], "say('READY=1'); sleep 1000"), LIMIT).ok();
    assert_eq!(manager.hears("READY=1").sender, bundle.pid().unwrap());
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn a_socket_without_a_file_is_reached_where_it_can_be() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let manager = Manager::without_a_file(&bundle);
    let host = Host::snapshot(&bundle.id, &[]);
    let run = manager.run(&mut bundle, "say('STATUS=passed on'); print $path");
    manager.hears("STATUS=passed on");
    assert_eq!(ended(run).0, "/run/notify/notify.sock");
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    let script = "say('STATUS=direct'); sleep 1000";
    finish(&mut manager.command(&mut bundle, "create", &[], script), LIMIT).ok();
    bundle.start().ok();
    manager.hears("STATUS=direct");
    bundle.delete_force().ok();
    bundle.set("/linux/namespaces/-", json!({"type": "network"}));
    let line = finish(&mut manager.command(&mut bundle, "create", &[], script), LIMIT).fails();
    assert!(line.contains("network name space") && line.contains("run"), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn whoever_the_program_is_may_speak() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).set("/root/readonly", true);
    let run = manager.run(&mut bundle, "say('STATUS=of a user')");
    manager.hears("STATUS=of a user");
    ended(run);
    bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    for map in ["uidMappings", "gidMappings"] {
        bundle.set(&format!("/linux/{map}"), json!([{"containerID": 0, "hostID": 100_000, "size": 2000}]));
    }
    let run = manager.run(&mut bundle, "say('STATUS=of a mapped user')");
    manager.hears("STATUS=of a mapped user");
    ended(run);
    left_nothing(&bundle, &host);
}

#[test]
fn the_default_root_has_the_socket_too_and_exec_has_not() {
    let Some((bundle, host, manager)) = a_stage() else { return };
    let script = format!("{SPEAK}say('READY=1'); sleep 1000");
    let mut run = bundle.command(&["run", &bundle.id, "--", "perl", "-e", &script]);
    let mut run = run.env("NOTIFY_SOCKET", &manager.address).stdout(Stdio::null()).spawn().unwrap();
    assert!(manager.hear().text.starts_with("READY=1\nMAINPID="));
    let mut exec = bundle.command(&["exec", &bundle.id, "env"]);
    let seen = finish(exec.env("NOTIFY_SOCKET", &manager.address).env("WATCHDOG_USEC", "1"), LIMIT).ok();
    assert!(!seen.contains("NOTIFY") && !seen.contains("WATCHDOG"), "{seen}");
    bundle.kill("KILL").ok();
    assert_eq!(tests::code(&mut run), Some(137));
    left_nothing(&bundle, &host);
}

/// podman mounts a socket of its own, and says where it is.
#[test]
fn a_specification_that_has_a_way_of_its_own_is_left_alone() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    bundle.set("/process/env", json!(["PATH=/bin", "NOTIFY_SOCKET=/run/notify/own"]));
    for verb in [&["run"][..], &["run", "--detach"]] {
        bundle.args(&["sh", "-c", "(echo $NOTIFY_SOCKET; ls /run | grep notify) > /seen"]);
        let mut run = bundle.making(verb[0], &verb[1..]);
        finish(run.env("NOTIFY_SOCKET", &manager.address).stdout(Stdio::null()).stderr(Stdio::null()), LIMIT);
        wait_for("the end", || bundle.status().is_none_or(|status| status == "stopped"));
        assert_eq!(std::fs::read_to_string(bundle.rootfs().join("seen")).unwrap(), "/run/notify/own\n");
        bundle.delete_force().ok();
    }
    assert!(manager.is_silent());
    left_nothing(&bundle, &host);
}

/// After `create` it is the host's own, on which all of its services depend.
#[test]
fn the_program_cannot_change_the_socket_that_it_writes_to() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    let before = std::fs::metadata(&manager.address).unwrap();
    let script = "say('READY=1'); my $done = chmod(0, $path) + chown(5, 5, $path) + utime(1, 1, $path); \
        say(\"STATUS=$done\"); exit";
    bundle.capabilities(&["CAP_CHOWN", "CAP_FOWNER"]);
    for detach in [&[][..], &["--detach"]] {
        let mut run = manager.command(&mut bundle, "run", detach, script);
        run.stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(finish(&mut run, LIMIT).code(), Some(0));
        assert!(manager.hear().text.starts_with("READY=1"));
        manager.hears("STATUS=0");
        bundle.delete_force().ok();
    }
    let after = std::fs::metadata(&manager.address).unwrap();
    assert_eq!((after.mode(), after.uid(), after.mtime()), (before.mode(), before.uid(), before.mtime()));
    left_nothing(&bundle, &host);
}

#[test]
fn the_socket_goes_with_the_jail_however_that_ends() {
    let Some((mut bundle, host, manager)) = a_stage() else { return };
    // Not made, and not started.
    for (pointer, value) in [("/root/path", json!("nowhere")), ("/process/args", json!(["/no/program"]))] {
        let before = bundle.spec.clone();
        bundle.set(pointer, value);
        finish(bundle.making("run", &[]).env("NOTIFY_SOCKET", &manager.address), LIMIT).fails();
        left_nothing(&bundle, &host);
        bundle.spec = before;
    }
    // Its runtime killed.
    let mut run = manager.run(&mut bundle, "say('READY=1'); sleep 1000");
    assert!(manager.hear().text.starts_with("READY=1\n"));
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(bundle.entry("notify").exists());
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
    // Kept.
    let done = finish(&mut manager.command(&mut bundle, "run", &["--keep"], "say('STATUS=x')"), LIMIT);
    done.ok();
    assert_eq!(bundle.status().as_deref(), Some("stopped"));
    assert!(!bundle.entry("notify").exists());
    bundle.delete().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn without_a_manager_there_is_nothing_of_it() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mut run = bundle.args(&["sh", "-c", "env; ls /run"]).making("run", &[]);
    let seen = finish(run.env("WATCHDOG_USEC", "1").env("NOTIFY_SOCKET", ""), LIMIT).ok();
    assert!(!seen.contains("NOTIFY") && !seen.contains("WATCHDOG") && !seen.contains("notify"), "{seen}");
    assert_eq!(field(&bundle.own_status(), "State"), "R (running)");
    left_nothing(&bundle, &host);
}

#[test]
fn an_address_that_makes_no_sense_is_refused_before_anything_is_made() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    let file = bundle.dir.join("config.json").to_string_lossy().into_owned();
    let long = format!("@{}", "x".repeat(200));
    for (address, verb, reason) in [
        ("relative", "run", "neither"),
        ("vsock:2:1", "create", "neither"),
        ("/nowhere/socket", "run", "no such file or directory"),
        (&file, "create", "it is no socket"),
        ("@nobody-listens-here", "run", "connection refused"),
        (&long, "run", "name too long"),
    ] {
        let line = finish(bundle.making(verb, &[]).env("NOTIFY_SOCKET", address), LIMIT).fails();
        assert!(line.contains("NOTIFY_SOCKET") && line.contains(reason), "{line}");
        assert!(std::fs::read_dir(&bundle.root).unwrap().next().is_none(), "{address}");
    }
    left_nothing(&bundle, &host);
}
