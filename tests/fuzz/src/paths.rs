//! Paths: what is forwarded means what was sent, is normalised already, and leads out of nowhere.

use super::text;
use waypost_proxy::table::path::{is_safe, normalised};

/// All escapes as the bytes that they stand for.
fn decoded(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two digits"));
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Holds the promise for a path.
pub fn run(bytes: &[u8]) {
    let path = text(bytes);
    let Ok(once) = normalised(path) else { return };
    assert_eq!(normalised(&once).as_deref(), Ok(&*once), "once is enough");
    assert!(is_safe(&once));
    let meaning = decoded(&once);
    assert_eq!(meaning, decoded(path), "it means the same");
    assert!(!meaning.iter().any(u8::is_ascii_control));
    assert!(!once.contains('\\'));
    // Also for a server that takes every spelling of a slash for one, and drops parameters.
    let text = String::from_utf8_lossy(&meaning).replace('\\', "/");
    for segment in text.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        assert!(!matches!(name, "." | ".."), "{path:?}");
    }
}
