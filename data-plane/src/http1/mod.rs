//! HTTP/1.1 towards instances (RFC 9112): what goes over the wire, and one connection that carries it.
//!
//! ```text
//! request ──▶ upload ──▶ socket ──▶ response ──▶ body
//!  writes     sends                 reads a      reads what follows it,
//!  a head     it all                head         and knows where it ends
//! ```
//!
//! Clients that speak HTTP/1.1 are served by hyper. HTTP/1.1 to instances is done here because
//! it is what nearly every request is: hyper's client is made for a connection that is a task of its own, passes
//! heads and bodies through channels, and took 40 % of a request's instructions. Here the task of the request
//! reads and writes the socket itself.
//!
//! What is not certain is refused: an answer whose end two readers could see in different places is none, and a
//! connection on which anything is left over carries no further request. Deliberately absent: pipelining, obsolete
//! line folding, HTTP/0.9, transfer codings other than `chunked`.

mod alarm;
mod body;
mod connection;
mod halves;
mod request;
mod response;
mod upload;

pub(crate) use self::{
    body::Step,
    connection::{Connection, ExchangeError, ExchangeLimits, MOST_INTERIM, UploadTask},
    request::{Head, Length},
    response::{Answer, Room},
    upload::Upload,
};
