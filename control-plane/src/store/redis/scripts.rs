//! The scripts, and requests that use them.
//!
//! A script is sent by its hash, and by its text where the server does not know it (any more): after `SCRIPT FLUSH`,
//! a restart, or a fail-over.
//!
//! Deliberately absent: functions of Redis 7, which would have to be installed.

use std::sync::LazyLock;

use redis::{Cmd, FromRedisValue, RedisResult, Script, ToRedisArgs, aio::MultiplexedConnection};

use super::fault::is_no_script;

/// A script's text and its hash.
pub(super) struct Source {
    text: String,
    hash: String,
}

macro_rules! scripts {
    ($($(#[doc = $doc:literal])* $name:ident = $($file:literal)+;)+) => {$(
        $(#[doc = $doc])*
        pub(super) static $name: LazyLock<Source> =
            LazyLock::new(|| Source::new(concat!($(include_str!($file), "\n"),+)));
    )+};
}

scripts! {
    /// Tries all commands.
    PROBE = "probe.lua";
    /// Begins a history or a term.
    OPEN = "open.lua";
    /// Creates or replaces an instance.
    PUT = "clock.lua" "commit.lua" "put.lua";
    /// Removes an instance.
    REMOVE = "clock.lua" "commit.lua" "remove.lua";
    /// Forgets a service.
    FORGET = "clock.lua" "commit.lua" "forget.lua";
    /// Says that all is there.
    COMPLETE = "clock.lua" "commit.lua" "complete.lua";
    /// Creates or replaces resources.
    DECLARE = "clock.lua" "commit.lua" "declare.lua";
    /// Renews leases.
    RENEW = "clock.lua" "renew.lua";
    /// Lists leases that have lapsed.
    LAPSED = "clock.lua" "lapsed.lua";
    /// Lists the leases of a service.
    LEASES = "clock.lua" "leases.lua";
    /// Reads instances and changes.
    READ = "read.lua";
}

impl Source {
    fn new(text: &str) -> Self {
        Self { hash: Script::new(text).get_hash().to_owned(), text: text.to_owned() }
    }
}

/// Something to ask a server for, as often as it takes.
pub(super) enum Request {
    /// A script with its number of keys, and keys and arguments.
    Script(&'static Source, usize, Vec<Vec<u8>>),
    /// A command.
    Plain(Cmd),
}

impl Request {
    /// A script with these keys.
    pub(super) fn script<'a>(source: &'static Source, keys: impl IntoIterator<Item = &'a String>) -> Self {
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| key.as_bytes().to_vec()).collect();
        Self::Script(source, keys.len(), keys)
    }

    /// The same with one more argument.
    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        match &mut self {
            Self::Script(_, _, arguments) => arguments.extend(argument.to_redis_args()),
            Self::Plain(command) => {
                command.arg(argument);
            }
        }
        self
    }

    /// Asks once.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let (source, keys, arguments) = match self {
            Self::Plain(command) => return command.query_async(connection).await,
            Self::Script(source, keys, arguments) => (source, keys, arguments),
        };
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(*keys).arg(arguments);
            command
        };
        match command("EVALSHA", &source.hash).query_async(connection).await {
            Err(error) if is_no_script(&error) => command("EVAL", &source.text).query_async(connection).await,
            answer => answer,
        }
    }
}
