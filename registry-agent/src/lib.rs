//! The agent as a library; its page is the README, which follows.
//!
#![doc = include_str!("../README.md")]

pub mod admin;
pub mod args;
pub mod child;
pub mod config;
pub mod file;
pub mod fleet;
pub mod member;
pub mod metrics;
pub mod options;
pub mod probe;
pub mod signals;
pub mod supervise;
