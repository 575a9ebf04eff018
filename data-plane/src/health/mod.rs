//! Which endpoints of a service are passed over: by how they answer, and by what checks say.
//!
//! ```text
//! answers ──▶ conduct ──▶ ejection ◀── outliers ◀── tally      EndpointSet::pick looks at one word of each
//! checks ───▶ illness ──────▲                                  endpoint, and at panic where it says no
//! ```
//!
//! All of it is declared for a service (`BackendTrafficPolicy`); endpoints of services without a policy are never
//! passed over for any of it, and nothing of them is counted. `HEALTH.md` beside this file says what is done and when.
//!
//! Deliberately absent: failures to connect, which have a cooldown of their own whatever is declared
//! ([`crate::table`]), and health as the control plane sees it, which decides who is in a set.

mod alarm;
mod census;
mod check;
mod conduct;
mod ejection;
mod illness;
mod keeper;
mod outliers;
mod pace;
mod panic;
mod patients;
mod report;
mod rules;
mod tally;

pub use self::keeper::run;
pub(crate) use self::{
    census::Census,
    conduct::Conduct,
    ejection::{Cause, Heed, Standing},
    panic::{DEFAULT_PERCENT as DEFAULT_PANIC_PERCENT, Panic},
    report::{Condition, described},
    rules::{HealthRules, OutlierRules},
};
