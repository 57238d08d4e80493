//! The streams of `exec` and `attach`, as a WebSocket of the sub-protocol `v4.channel.k8s.io`: each message begins with
//! the number of its channel. Source: RFC 6455, and remotecommand of k8s.io/kubelet.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tests::Room;

/// What came over the channels until the server closed them.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Channel 1.
    pub(crate) stdout: String,
    /// Channel 2.
    pub(crate) stderr: String,
    /// Channel 3: how it ended, as JSON.
    pub(crate) status: String,
}

/// Connects to a URL in the room, types KEYS on channel 0, and listens until the end.
pub(crate) fn listen(room: &Room, url: &str, keys: &str) -> Heard {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = connect(room, host);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The key is any; nobody but us could have sent its answer.
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://{host}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    )
    .unwrap();
    let mut from = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    assert!(line.contains(" 101 "), "{url}: {line}");
    while line != "\r\n" {
        line.clear();
        from.read_line(&mut line).unwrap();
    }
    if !keys.is_empty() {
        // Whole and binary; masked, as all that a client sends, here by zeros.
        let mut frame = vec![0x82, 0x80 | u8::try_from(keys.len() + 1).unwrap(), 0, 0, 0, 0, 0];
        frame.extend_from_slice(keys.as_bytes());
        stream.write_all(&frame).unwrap();
    }
    let mut heard = Heard::default();
    while let Some(message) = message(&mut from) {
        let Some((channel, bytes)) = message.split_first() else { continue };
        let text = match channel {
            1 => &mut heard.stdout,
            2 => &mut heard.stderr,
            3 => &mut heard.status,
            other => panic!("channel {other}: {bytes:?}"),
        };
        text.push_str(&String::from_utf8_lossy(bytes));
    }
    heard
}

/// A connection that belongs to the network name space of the room, which only a thread of its own can enter.
fn connect(room: &Room, host: &str) -> TcpStream {
    let space = std::fs::File::open(room.seen("/proc/1/ns/net")).unwrap();
    let connect = || {
        setns(&space, CloneFlags::CLONE_NEWNET).unwrap();
        TcpStream::connect(host).unwrap()
    };
    std::thread::scope(|scope| scope.spawn(connect).join().unwrap())
}

/// The next message of the server; none where it has closed.
fn message(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    from.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut long = [0; 2];
            from.read_exact(&mut long).ok()?;
            usize::from(u16::from_be_bytes(long))
        }
        short @ 0..=125 => usize::from(short),
        _ => panic!("a message of more than 64 KiB"),
    };
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    // 8 says that the server closes.
    (head[0] & 0xf != 8).then_some(body)
}
