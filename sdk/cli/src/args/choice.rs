//! Values of which there are only a few, in the words of the command line.

use clap::ValueEnum;
use waypost_proto::v1::{InstanceState, Protocol};

/// The states to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// In rotation.
    Up,
    /// Out of rotation.
    Down,
    /// Finishing what is in flight.
    Draining,
    /// Kept although its lease ran out.
    Suspect,
}

impl From<State> for InstanceState {
    fn from(state: State) -> Self {
        match state {
            State::Up => Self::Up,
            State::Down => Self::Down,
            State::Draining => Self::Draining,
            State::Suspect => Self::Suspect,
        }
    }
}

/// What an override does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverrideAction {
    /// In rotation, whatever its health says
    Up,
    /// Out of rotation, whatever its health says
    Down,
    /// End the override that is in force
    Clear,
}

/// The protocols to register with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speaks {
    /// HTTP/1.1, with upgrades
    Http1,
    /// HTTP/2 with prior knowledge over cleartext
    Http2,
    /// gRPC
    Grpc,
}

impl From<Speaks> for Protocol {
    fn from(speaks: Speaks) -> Self {
        match speaks {
            Speaks::Http1 => Self::Http1,
            Speaks::Http2 => Self::Http2,
            Speaks::Grpc => Self::Grpc,
        }
    }
}
