//! What must hold for any input, whoever makes it up: libFuzzer for long (`make fuzz`), or a test that every run of the
//! tests carries out for some seconds (`tests/brief.rs`).
//!
//! | target | an input is | it holds that |
//! | --- | --- | --- |
//! | [`resources`] | a YAML document | it is read or refused with reasons; what is read is stored and read as the same |
//! | [`paths`] | a path | what is forwarded means the same, is normalised already, and leads out of nowhere |
//! | [`matching`] | changes of routes and listeners, and requests | a table that was changed finds what a new one finds |
//! | [`http2`] | what a client and a server do on a connection | bytes mean the same in any pieces, nothing passes its bounds, what is sent is in order |
//! | [`hpack`] | blocks of headers | what is read and written is what another implementation writes and reads |
//!
//! An input that was wrong once lies in `seeds`, which both begin with.
//!
//! Deliberately absent: how inputs are made up.

pub mod hpack;
pub mod http2;
pub mod matching;
pub mod paths;
pub mod resources;

/// Holds its promise for one input; panics where that is broken.
pub type Target = fn(&[u8]);

/// A target, by its name.
pub fn by_name(name: &str) -> Option<Target> {
    match name {
        "resources" => Some(resources::run),
        "paths" => Some(paths::run),
        "matching" => Some(matching::run),
        "http2" => Some(http2::run),
        "hpack" => Some(hpack::run),
        _ => None,
    }
}

/// As much of an input as is text.
fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}
