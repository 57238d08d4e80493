//! A message of process 1, from whom nothing is trusted: not one of ours, or one that is sent as it was received.
#![no_main]

use runtime::channel::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Some(message));
    }
});
