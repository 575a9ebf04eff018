//! Whether a path means to the instances what it means here.
//!
//! Paths are matched as they came. A segment that an instance might resolve (`..`, also percent-encoded)
//! could lead it out of the prefix that was matched, so such paths are refused.

/// Whether a raw path has no segment that is `.` or `..`, also where its dots or slashes are percent-encoded,
/// its slashes are backslashes, or a `;` parameter follows.
pub fn is_safe(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut at = 0;
    let mut dots = Some(0_u8);
    while at < bytes.len() {
        let (byte, width) = decoded(&bytes[at..]);
        match byte {
            b'/' | b'\\' | b';' => {
                if matches!(dots, Some(1 | 2)) {
                    return false;
                }
                // What follows a `;` is no segment.
                dots = (byte != b';').then_some(0);
            }
            b'.' => dots = dots.and_then(|count| count.checked_add(1)),
            _ => dots = None,
        }
        at += width;
    }
    !matches!(dots, Some(1 | 2))
}

/// The first byte, and how long it is; the few characters that matter here may be percent-encoded.
fn decoded(bytes: &[u8]) -> (u8, usize) {
    match bytes {
        [b'%', b'2', b'e' | b'E', ..] => (b'.', 3),
        [b'%', b'2', b'f' | b'F', ..] => (b'/', 3),
        [b'%', b'5', b'c' | b'C', ..] => (b'\\', 3),
        [b'%', b'3', b'b' | b'B', ..] => (b';', 3),
        _ => (bytes[0], 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_segment_is_refused_in_every_spelling() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/.",
            "/a/..",
            "/a/.",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/%2e",
            "/..%2fb",
            "/a%2F..%2fb",
            "/a\\..\\b",
            "/a%5c..",
            "/a/..;x=1/b",
            "/a/..%3bx",
            "..",
            ".",
        ] {
            assert!(!is_safe(path), "{path}");
        }
    }

    #[test]
    fn dots_within_segments_are_fine() {
        for path in
            ["/", "", "/a.b", "/.well-known/x", "/a..b/", "/...", "/a/b..", "/%2e%2ea", "/a;v=.", "//", "/%2"]
        {
            assert!(is_safe(path), "{path}");
        }
    }
}
