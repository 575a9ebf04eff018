//! The `waypost` program, as a user and as a script meet it.
//!
//! One program for all tests, because each would otherwise be linked anew.

mod declared;
mod dev;
mod explain;
mod fake;
mod init;
mod output;
mod refusals;
mod resources;
mod support;
