//! Bad input: the answer names field, value and rule; nothing changes, nothing crashes.

mod endpoints;
mod fields;
mod flags;
mod garbage;
