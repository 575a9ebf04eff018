//! HTTPRoute: which requests go where, and what is done with them on the way.

mod backends;
mod cors;
mod headers;
mod hostnames;
mod limits;
mod matching;
mod mirror;
mod parents;
mod precedence;
mod protocols;
mod redirect;
mod rewrite;
mod sessions;

use crate::case::Case;

/// All cases of HTTPRoute.
pub(super) const CASES: &[&[Case]] = &[
    hostnames::CASES,
    matching::CASES,
    precedence::CASES,
    backends::CASES,
    headers::CASES,
    redirect::CASES,
    rewrite::CASES,
    mirror::CASES,
    cors::CASES,
    limits::CASES,
    sessions::CASES,
    protocols::CASES,
    parents::CASES,
];
