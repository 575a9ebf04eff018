//! How much of bodies may come before anybody has read it.
//!
//! A body begins with a small window. One that is read gets a wide one, so that it is not slowed down by a client that is far
//! away; few have that at a time, each until its stream ends. The connection's window is all of that together: however many
//! bodies nobody reads, they fill their own windows, and not those of others. What a stream that has ended leaves unread does
//! count until it is read or given up, though its place is another's by then. What is held for a connection is bounded by it,
//! and so by how many streams there may be.
//!
//! HAProxy and nginx give every stream a small window, too. With one window for a stream and for all, as h2 and Go have it, a
//! body that nobody reads stops all others.

/// What a body begins with.
pub(super) const FIRST: u32 = 64 << 10;
/// What it gets once half of that was read.
pub(super) const WIDE: u32 = 1 << 20;
/// How many of a connection's bodies have that at a time.
pub(super) const MOST_WIDE: u32 = 8;
/// How much of all bodies is read before it is said.
pub(super) const UPDATE: u32 = 512 << 10;
/// The most that a connection's window is. With more streams than fit into it, they do stop each other.
const MOST: u32 = 64 << 20;

/// The window of a connection with so many streams.
pub(super) fn of_connection(streams: u32) -> u32 {
    streams.saturating_mul(FIRST).saturating_add(MOST_WIDE * (WIDE - FIRST) + UPDATE).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_holds_what_its_streams_may_and_no_more_than_is_said() {
        assert_eq!(of_connection(250) >> 10, 250 * 64 + 8 * 960 + 512);
        assert_eq!(of_connection(1) >> 10, 64 + 8 * 960 + 512);
        assert_eq!(of_connection(u32::MAX), MOST);
    }
}
