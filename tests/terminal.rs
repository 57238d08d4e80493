//! The terminal of a jail: over a console socket, and on the screen of a person.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use serde_json::json;
use tests::terminal::{read_all, terminal_from, with_terminal};
use tests::{LIMIT, code, left_nothing, processes, require_root, runtimes, stage, stage_of, wait_for, within_limit};

#[test]
fn a_console_socket_gets_the_terminal() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        with_terminal(&mut bundle);
        bundle.set("/process/consoleSize", json!({"height": 33, "width": 77}));
        let script = "test -t 0 && test -t 1 && test -t 2 && echo three; stty size; read word; echo got $word; : < /dev/tty && echo own";
        bundle.args(&["sh", "-c", script]);
        let path = bundle.dir.join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let taker = std::thread::spawn(move || terminal_from(&listener));
        bundle.create_with(&["--console-socket", &path.to_string_lossy()]).ok();
        let mut terminal = File::from(within_limit(move || taker.join().unwrap()));
        bundle.start().ok();
        terminal.write_all(b"hello\n").unwrap();
        let text = within_limit(move || read_all(&mut terminal));
        for line in ["three", "33 77", "got hello", "own"] {
            assert!(text.lines().any(|seen| seen == line), "no {line:?} in {text:?}");
        }
        bundle.becomes("stopped");
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_console_socket_that_nobody_listens_on_undoes_the_create() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        with_terminal(&mut bundle);
        let socket = bundle.dir.join("nobody.sock");
        bundle.create_with(&["--console-socket", &socket.to_string_lossy()]).fails();
        left_nothing(&bundle, &host);
    }
}

/// A person's terminal: what the test holds, and what the runtime has as its standard streams.
struct Screen {
    keys: File,
    user: OwnedFd,
}

impl Screen {
    fn new(rows: u16, columns: u16) -> Screen {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        Screen { keys: pair.master.into(), user: pair.slave }
    }

    fn end(&self) -> Stdio {
        self.user.try_clone().unwrap().into()
    }

    /// Starts a command on it.
    fn spawn(&self, mut command: Command) -> Child {
        command.stdin(self.end()).stdout(self.end()).stderr(self.end()).spawn().unwrap()
    }

    fn resize(&self, rows: u16, columns: u16) {
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let done = Command::new("stty").args(["rows", &rows, "cols", &columns]).stdin(self.end()).status();
        assert!(done.unwrap().success());
    }
}

/// Reads what appears on a screen, so that a test can wait for a word.
struct Seen {
    lines: mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Seen {
    fn on(screen: &Screen) -> Seen {
        let mut keys = screen.keys.try_clone().unwrap();
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = keys.read(&mut bytes) {
                if send.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Seen { lines, text: String::new() }
    }

    #[track_caller]
    fn wait_for(&mut self, word: &str) {
        while !self.text.contains(word) {
            match self.lines.recv_timeout(LIMIT) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("never seen {word:?} in {:?}", self.text),
            }
        }
    }
}

#[test]
fn a_run_on_a_terminal_has_its_size_and_keys() {
    if !require_root() {
        return;
    }
    // Not against runc, which sets the size after the start: its signal can end the `read` below.
    let (mut bundle, host) = stage();
    with_terminal(&mut bundle);
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 6' INT; stty size; read word; echo got $word; \
                  echo ready; while :; do sleep 0.01; done";
    bundle.args(&["sh", "-c", script]);
    let mut screen = Screen::new(30, 100);
    let before = tcgetattr(&screen.user).unwrap();
    let mut seen = Seen::on(&screen);
    let mut run = screen.spawn(bundle.making("run", &[]));
    seen.wait_for("30 100");
    screen.keys.write_all(b"hello\r").unwrap();
    seen.wait_for("got hello");
    seen.wait_for("ready");
    screen.resize(40, 90);
    // The kernel sends it to the terminal's foreground, which a child of the test is not.
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), Signal::SIGWINCH).unwrap();
    seen.wait_for("40 90");
    // Ctrl-C is a byte for the runtime and a signal inside.
    screen.keys.write_all(b"\x03").unwrap();
    seen.wait_for("interrupted");
    assert_eq!(code(&mut run), Some(6));
    let after = tcgetattr(&screen.user).unwrap();
    assert_eq!((after.input_flags, after.output_flags), (before.input_flags, before.output_flags));
    assert_eq!((after.local_flags, after.control_flags), (before.local_flags, before.control_flags));
    left_nothing(&bundle, &host);
}

/// What a program writes just before its end must not be lost with its terminal.
#[test]
fn the_last_words_on_a_terminal_arrive() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    with_terminal(&mut bundle);
    bundle.args(&["sh", "-c", "seq 1 5000; echo the end"]);
    for _ in 0..10 {
        let screen = Screen::new(30, 100);
        let mut seen = Seen::on(&screen);
        let mut run = screen.spawn(bundle.making("run", &[]));
        seen.wait_for("\r\n5000\r\nthe end\r\n");
        assert_eq!(code(&mut run), Some(0));
    }
    left_nothing(&bundle, &host);
}

#[test]
fn a_terminal_of_a_run_without_one_is_a_plain_pipe() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    with_terminal(&mut bundle);
    let done = bundle.args(&["sh", "-c", "test -t 0 && echo terminal; exit 4"]).run();
    assert_eq!((done.code(), &done.out[..]), (Some(4), "terminal\r\n"), "{done}");
    left_nothing(&bundle, &host);
}

/// A person on a terminal of the default root.
#[test]
fn a_jail_on_the_default_root_has_a_working_terminal() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    let mut screen = Screen::new(31, 101);
    let mut seen = Seen::on(&screen);
    let mut run = screen.spawn(bundle.command(&["run", &bundle.id, "--", "sh"]));
    screen.keys.write_all(b"stty size; tty\r").unwrap();
    seen.wait_for("31 101");
    seen.wait_for("/dev/");
    // Job control: Ctrl-C ends the program in the foreground, not the shell.
    screen.keys.write_all(b"echo w''ait; sleep 1000\r").unwrap();
    seen.wait_for("wait");
    let sleeps = || processes::with_word("sleep\u{0}1000").into_iter().any(|pid| is_in(pid, &bundle.id));
    wait_for("the program in the foreground", sleeps);
    screen.keys.write_all(b"\x03").unwrap();
    wait_for("its end", || !sleeps());
    screen.keys.write_all(b"exit 9\r").unwrap();
    assert_eq!(code(&mut run), Some(9));
    left_nothing(&bundle, &host);
}

fn is_in(pid: i32, id: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id))
}
