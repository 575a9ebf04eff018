//! Header compression (RFC 7541).
//!
//! ```text
//! block ─▶ decoder ─▶ header ─▶ head or trailers
//! head  ─▶ encoder ─▶ block
//! ```
//!
//! Each direction of a connection has one table of fields that were sent lately; a field that is in it takes one byte.
//! The entries are kept as the types that requests and answers are made of, so that what is in the table is not read
//! again.
//!
//! No crate does this well: of those that there are, one is private to h2, and the others are not kept up or give
//! bytes, which would have to be checked for every request.

mod decoder;
mod encoder;
mod header;
mod huffman;
mod integer;
mod static_table;

pub(crate) use self::{decoder::Decoder, encoder::Encoder, header::Header};

/// How many bytes a table may have unless something else was agreed upon.
pub(crate) const TABLE_SIZE: usize = 4096;
/// What each entry counts for beside its text (section 4.1).
const ENTRY: usize = 32;
