//! The bytes of a stored snapshot: magic, version, length, checksum, contents.
//!
//! ```text
//!  8   "WAYPOSTS"
//!  4   version, little-endian like all numbers here
//!  8   length of the contents
//!  8   XXH3 of the contents
//!  …   contents: a header (JSON, with its length before it), then `SnapshotChunk` messages, each with its
//!      length before it: those of the snapshot, then those of what is carried over
//! ```
//!
//! Deliberately absent: a migration. What another version wrote is set aside, and the control plane asked.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use serde::{Deserialize, Serialize};
use waypost_proto::{
    snapshot::{Snapshot, SnapshotError},
    v1::SnapshotChunk,
};
use xxhash_rust::xxh3::xxh3_64;

use super::Saved;

const MAGIC: &[u8; 8] = b"WAYPOSTS";
const VERSION: u32 = 1;
const CHUNK_ENTRIES: usize = 1_000;

/// Why a stored snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It was not written by a proxy.
    #[error("it does not begin as a stored snapshot does")]
    Foreign,
    /// It was written by another version.
    #[error("it has format {0}, and this proxy reads format {VERSION}")]
    Version(u32),
    /// It ends early or is damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Its contents do not make a snapshot.
    #[error("its contents make no snapshot: {0}")]
    Contents(#[source] SnapshotError),
    /// It belongs to other namespaces than the proxy subscribes to.
    #[error("it holds the namespaces {found:?}, and the proxy subscribes to {wanted:?} (none means all)")]
    Namespaces {
        /// What it holds.
        found: Vec<String>,
        /// What the proxy subscribes to.
        wanted: Vec<String>,
    },
    /// It is too old.
    #[error("it is {} old, and --state-max-age is {}", whole_seconds(*age), whole_seconds(*max_age))]
    TooOld {
        /// How old it is.
        age: Duration,
        /// How old it may be.
        max_age: Duration,
    },
}

fn whole_seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

#[derive(Serialize, Deserialize)]
struct Header {
    stored_at_ms: u64,
    namespaces: Vec<String>,
}

/// The bytes of a file.
pub(super) fn encode(saved: &Saved, namespaces: &[String], now: SystemTime) -> Vec<u8> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stored_at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let header = Header { stored_at_ms, namespaces: namespaces.to_owned() };
    let header = serde_json::to_vec(&header).expect("a header has nothing that JSON lacks");
    let mut contents = Vec::new();
    prost::encode_length_delimiter(header.len(), &mut contents).expect("a vector grows");
    contents.extend_from_slice(&header);
    let carried = saved.carried.as_ref().map(|carried| with_own_digest(carried.to_chunks(CHUNK_ENTRIES)));
    for chunk in saved.current.to_chunks(CHUNK_ENTRIES).iter().chain(carried.iter().flatten()) {
        chunk.encode_length_delimited(&mut contents).expect("a vector grows");
    }
    let mut bytes = Vec::with_capacity(contents.len() + 28);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(contents.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&xxh3_64(&contents).to_le_bytes());
    bytes.append(&mut contents);
    bytes
}

/// What is carried over has the digest of what the control plane sent, and not of what it holds.
fn with_own_digest(mut chunks: Vec<SnapshotChunk>) -> Vec<SnapshotChunk> {
    let mut digest = 0_u64;
    for entries in chunks.iter().filter_map(|chunk| chunk.entries.as_ref()) {
        let services = entries.services.iter().map(|entry| entry.hash);
        let instances = entries.instances.iter().map(|entry| entry.hash);
        let routes = entries.routes.iter().map(|entry| entry.hash);
        digest = services.chain(instances).chain(routes).fold(digest, u64::wrapping_add);
    }
    chunks
        .iter_mut()
        .filter_map(|chunk| chunk.position.as_mut())
        .for_each(|position| position.digest = digest);
    chunks
}

/// What a file holds, and when it was stored.
pub(super) fn decode(bytes: &[u8], namespaces: &[String]) -> Result<(Saved, SystemTime), Unusable> {
    let short = || Unusable::Damaged("it ends within its first 28 bytes");
    let (magic, rest) = bytes.split_first_chunk().ok_or(Unusable::Foreign)?;
    if magic != MAGIC {
        return Err(Unusable::Foreign);
    }
    let (version, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (checksum, contents) = rest.split_first_chunk().ok_or_else(short)?;
    if u64::from_le_bytes(*length) != contents.len() as u64 {
        return Err(Unusable::Damaged("its length is not what it says"));
    }
    if u64::from_le_bytes(*checksum) != xxh3_64(contents) {
        return Err(Unusable::Damaged("its checksum differs"));
    }
    contents_of(contents, namespaces)
}

fn contents_of(mut contents: &[u8], namespaces: &[String]) -> Result<(Saved, SystemTime), Unusable> {
    let no_header = || Unusable::Damaged("its header cannot be read");
    let length = prost::decode_length_delimiter(&mut contents).map_err(|_| no_header())?;
    let (header, mut rest) = contents.split_at_checked(length).ok_or_else(no_header)?;
    let header: Header = serde_json::from_slice(header).map_err(|_| no_header())?;
    if header.namespaces != namespaces {
        return Err(Unusable::Namespaces { found: header.namespaces, wanted: namespaces.to_owned() });
    }
    let mut snapshots = Vec::new();
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let chunk = SnapshotChunk::decode_length_delimited(&mut rest);
        let chunk = chunk.map_err(|_| Unusable::Damaged("a part of it cannot be read"))?;
        let last = chunk.last;
        chunks.push(chunk);
        if last {
            snapshots.push(Snapshot::from_chunks(&chunks).map_err(Unusable::Contents)?);
            chunks.clear();
        }
    }
    let mut snapshots = snapshots.into_iter();
    let current = snapshots.next().filter(|_| chunks.is_empty());
    let current = current.ok_or(Unusable::Damaged("parts of it are missing"))?;
    let stored_at = UNIX_EPOCH + Duration::from_millis(header.stored_at_ms);
    Ok((Saved { current, carried: snapshots.next() }, stored_at))
}
