//! A session's token: 25 bytes in base64url (RFC 4648, section 5).
//!
//! ```text
//! 1        version
//! 6        begun           milliseconds since 1970
//! 6        seen last       milliseconds since 1970
//! 4        the backend     hash of service, versions and tags ┐ under a seed that is made of the rule and of all
//! 8        the instance    hash of service and id             ┘ that stands before
//! ```
//!
//! Other versions are none. XXH3 is the same on all machines and in all versions.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use waypost_proto::name::{InstanceKey, ServiceKey};
use xxhash_rust::xxh3::xxh3_64_with_seed as hash;

use crate::table::declared::BackendRef;

const VERSION: u8 = 1;
const LENGTH: usize = 25;
const ENCODED: usize = (LENGTH * 8).div_ceil(6);
/// What the decoder asks for: it reckons with whole groups of four.
const DECODE_BUFFER: usize = ENCODED.div_ceil(4) * 3;
/// The latest time that there is room for.
const LATEST: u64 = (1 << 48) - 1;

/// What a client brings, or gets, to stay with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    stamps: Stamps,
    /// Made of the rule and the times.
    salt: u64,
    backend: u32,
    instance: u64,
}

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    /// When the session began.
    pub(super) issued: u64,
    /// When a request of it came last.
    pub(super) seen: u64,
}

impl Token {
    pub(super) fn new(stamps: Stamps, seed: u64, backend: &BackendRef, instance: &InstanceKey) -> Self {
        let stamps = Stamps { issued: stamps.issued.min(LATEST), seen: stamps.seen.min(LATEST) };
        let salt = salt(stamps, seed);
        let backend = of_backend(backend, salt);
        Self { stamps, salt, backend, instance: of_instance(instance, salt, backend) }
    }

    /// Reads a token. `None`: it is none. Whether it was ever given out shows when it names something.
    pub(super) fn read(text: &[u8], seed: u64) -> Option<Self> {
        if text.len() != ENCODED {
            return None;
        }
        let mut bytes = [0; DECODE_BUFFER];
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok().filter(|length| *length == LENGTH)?;
        let (version, rest) = bytes.split_first()?;
        let (issued, rest) = rest.split_first_chunk::<6>()?;
        let (seen, rest) = rest.split_first_chunk::<6>()?;
        let (backend, rest) = rest.split_first_chunk::<4>()?;
        let (instance, _) = rest.split_first_chunk::<8>()?;
        let time = |bytes: &[u8; 6]| bytes.iter().fold(0, |time, byte| time << 8 | u64::from(*byte));
        let stamps = Stamps { issued: time(issued), seen: time(seen) };
        let (backend, instance) = (u32::from_be_bytes(*backend), u64::from_be_bytes(*instance));
        (*version == VERSION).then(|| Self { stamps, salt: salt(stamps, seed), backend, instance })
    }

    pub(super) fn stamps(&self) -> Stamps {
        self.stamps
    }

    /// Whether the session belongs to a backend of the rule.
    pub fn is_for(&self, backend: &BackendRef) -> bool {
        self.backend == of_backend(backend, self.salt)
    }

    /// Whether the session belongs to an instance.
    pub fn is(&self, instance: &InstanceKey) -> bool {
        self.instance == of_instance(instance, self.salt, self.backend)
    }

    /// As it is sent.
    pub(super) fn value(&self) -> HeaderValue {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..7].copy_from_slice(&self.stamps.issued.to_be_bytes()[2..]);
        bytes[7..13].copy_from_slice(&self.stamps.seen.to_be_bytes()[2..]);
        bytes[13..17].copy_from_slice(&self.backend.to_be_bytes());
        bytes[17..].copy_from_slice(&self.instance.to_be_bytes());
        // What base64url writes can stand in a field.
        HeaderValue::try_from(URL_SAFE_NO_PAD.encode(bytes)).unwrap_or(HeaderValue::from_static(""))
    }
}

fn salt(stamps: Stamps, seed: u64) -> u64 {
    let mut bytes = [VERSION; 16];
    bytes[..8].copy_from_slice(&stamps.issued.to_be_bytes());
    bytes[8..].copy_from_slice(&stamps.seen.to_be_bytes());
    hash(&bytes, seed)
}

fn of_service(service: &ServiceKey, seed: u64) -> u64 {
    hash(service.name().as_bytes(), hash(service.namespace().as_bytes(), seed))
}

fn of_backend(backend: &BackendRef, salt: u64) -> u32 {
    let subset = &backend.subset;
    // The count sets two lists apart that have the same texts between them.
    let seed = of_service(&backend.service, salt) ^ subset.versions.len() as u64;
    let texts = subset.versions.iter().chain(subset.tags.iter());
    texts.fold(seed, |seed, text| hash(text.as_bytes(), seed)) as u32
}

fn of_instance(instance: &InstanceKey, salt: u64, backend: u32) -> u64 {
    let seed = hash(&backend.to_be_bytes(), salt);
    hash(instance.id().as_bytes(), of_service(instance.service(), seed))
}
