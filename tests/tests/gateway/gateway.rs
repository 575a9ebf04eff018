//! Gateway: where requests come in, and who may take them.

mod listeners;
mod status;
mod tls;

use crate::case::Case;

/// All cases of Gateway.
pub(super) const CASES: &[&[Case]] = &[listeners::CASES, tls::CASES, status::CASES];
