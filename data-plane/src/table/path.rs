//! What a path means, so that it means the same here and to the instances.
//!
//! A path is normalised once, before it is matched, and forwarded as it was matched:
//!
//! - An escape of an unreserved character is that character (RFC 3986, section 6.2.2.2), and the hexadecimal
//!   digits of other escapes are upper case (section 6.2.2.1). `%2F` stays an escape: it separates nothing.
//! - Slashes in a row stay: to many servers they matter.
//!
//! What could mean something else to an instance is refused: a segment that it might resolve (`..`, in every
//! spelling), which could lead it out of the prefix that was matched; backslashes, which some servers take for
//! slashes; control characters, also as escapes; and a `%` that begins no escape.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A segment is `.` or `..`.
    #[error("a \".\" or \"..\" segment, which is not forwarded; send it resolved")]
    DotSegment,
    /// It has a backslash.
    #[error("a backslash, which some servers take for a slash; send \"/\", or \"%5C\" where it is meant")]
    Backslash,
    /// It has a control character.
    #[error("a control character, as such or as an escape; send it without")]
    Control,
    /// A `%` is not followed by two hexadecimal digits.
    #[error("a \"%\" that is not followed by two hexadecimal digits; send \"%25\" where it is meant")]
    Escape,
}

/// A path as it is matched and forwarded. Most paths are so already.
///
/// # Errors
/// It could mean something else to an instance.
pub fn normalised(path: &str) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    // A dot inside of a segment is nothing to look at: every gRPC service and most files have one.
    let mut before = b'/';
    let is_plain = bytes.iter().all(|byte| {
        let is_inner_dot = *byte == b'.' && before != b'/';
        before = *byte;
        is_inner_dot || !NOTABLE[usize::from(*byte)]
    });
    if is_plain {
        return Ok(Cow::Borrowed(path));
    }
    let mut changed: Option<String> = None;
    let mut at = 0;
    while at < bytes.len() {
        let mut width = 1;
        match bytes[at] {
            b'\\' => return Err(PathError::Backslash),
            0..=0x1F | 0x7F => return Err(PathError::Control),
            b'%' => {
                let value = escaped(&bytes[at..]).ok_or(PathError::Escape)?;
                width = 3;
                if value.is_ascii_control() {
                    return Err(PathError::Control);
                }
                let same = &path[at..at + width];
                let unreserved = value.is_ascii_alphanumeric() || b"-._~".contains(&value);
                if changed.is_none() && (unreserved || same.bytes().any(|byte| byte.is_ascii_lowercase())) {
                    changed = Some(path[..at].to_owned());
                }
                match &mut changed {
                    Some(text) if unreserved => text.push(char::from(value)),
                    Some(text) => text.push_str(&same.to_ascii_uppercase()),
                    None => {}
                }
                at += width;
                continue;
            }
            // What is not ASCII is copied byte after byte up to the next character's begin.
            _ => {
                while !path.is_char_boundary(at + width) {
                    width += 1;
                }
            }
        }
        if let Some(text) = &mut changed {
            text.push_str(&path[at..at + width]);
        }
        at += width;
    }
    let path = changed.map_or(Cow::Borrowed(path), Cow::Owned);
    if is_safe(&path) { Ok(path) } else { Err(PathError::DotSegment) }
}

/// The bytes that a path has to be looked at for, the dot only where it begins a segment.
const NOTABLE: [bool; 256] = {
    let mut notable = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        notable[byte] = true;
        byte += 1;
    }
    notable[0x7F] = true;
    notable[b'%' as usize] = true;
    notable[b'.' as usize] = true;
    notable[b'\\' as usize] = true;
    notable
};

/// The byte that an escape at the begin stands for.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(1)? * 16 + digit(2)?).ok()
}

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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_of_unreserved_characters_are_those_and_others_stay() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/%61%2Db%5f%7e", "/a-b_~"),
            ("/a%2fb", "/a%2Fb"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a//b/", "/a//b/"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%2e%2ea", "/..a"),
            ("/a%5Cb", "/a%5Cb"),
            ("/é%41é", "/éAé"),
        ] {
            assert_eq!(normalised(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        for (path, error) in [
            ("/a\\b", PathError::Backslash),
            ("/a%00", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
            ("/a%7f", PathError::Control),
            ("/a\u{1}", PathError::Control),
            ("/100%", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%%32e%%32e/", PathError::Escape),
            ("/%2", PathError::Escape),
            ("/a/%2e%2e/b", PathError::DotSegment),
            ("/a%2F..%2fb", PathError::DotSegment),
        ] {
            assert_eq!(normalised(path), Err(error), "{path}");
        }
    }

    /// What a lenient server might make of a path: escapes decoded, `\` for `/`.
    fn leniently_decoded(path: &str) -> String {
        let mut bytes = path.as_bytes().to_vec();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'%'
                && let Some(value) = escaped(&bytes[at..])
            {
                bytes.splice(at..at + 3, [value]);
            }
            at += 1;
        }
        String::from_utf8_lossy(&bytes).replace('\\', "/")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_is_idempotent_and_lets_no_dot_segment_pass(path in "(/|\\\\|\\.|%|2|e|E|5|c|f|F|;|a|é|%2e|%2F|\u{1}){0,12}") {
            if let Ok(once) = normalised(&path) {
                let twice = normalised(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                for meant in [once.to_string(), leniently_decoded(&once)] {
                    for segment in meant.split('/') {
                        let segment = segment.split(';').next().unwrap_or_default();
                        prop_assert!(segment != "." && segment != "..", "{} is {}", path, meant);
                    }
                }
            }
        }

        #[test]
        fn it_never_panics(path in any::<String>()) {
            let _ = normalised(&path);
        }
    }

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
