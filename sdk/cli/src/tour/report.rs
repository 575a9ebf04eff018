//! What came of each act, for people as it happens and for programs at the end.

use std::time::Duration;

use serde::Serialize;
use waypost_proto::{time, v1};

use super::load::Tally;
use crate::{
    failure::{Exit, Failure},
    output::{
        Output,
        table::{Colour, paint},
        text,
    },
};

/// How long changes took from commit until a proxy served by them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct CommitToApplied {
    samples: u64,
    p50_ms: f64,
    max_ms: f64,
}

impl CommitToApplied {
    /// From the control plane's status; `None` where it has measured nothing.
    pub(super) fn of(status: &v1::GetStatusResponse) -> Option<Self> {
        let measured = status.propagation.as_ref().filter(|measured| measured.samples > 0)?;
        let milliseconds =
            |wire: Option<&_>| wire.and_then(time::duration).map(|span| span.as_secs_f64() * 1e3);
        Some(Self {
            samples: measured.samples,
            p50_ms: milliseconds(measured.p50.as_ref())?,
            max_ms: milliseconds(measured.max.as_ref())?,
        })
    }
}

/// One act.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Act {
    number: usize,
    name: &'static str,
    requests: u64,
    failed: u64,
    slowest_ms: f64,
    commit_to_applied: Option<CommitToApplied>,
    held: bool,
    complaints: Vec<String>,
}

/// The acts so far.
pub(super) struct Report<'a> {
    output: &'a Output,
    acts: Vec<Act>,
}

#[derive(Serialize)]
struct Summary<'a> {
    held: bool,
    took_seconds: f64,
    acts: &'a [Act],
}

impl<'a> Report<'a> {
    /// Nothing has happened yet.
    pub(super) fn new(output: &'a Output) -> Self {
        Self { output, acts: Vec::new() }
    }

    /// Opens an act.
    ///
    /// # Errors
    /// Nobody reads it.
    pub(super) fn open(&self, title: &str, what: &[&str]) -> Result<(), Failure> {
        let heading = format!("\nAct {}: {title}", self.acts.len() + 1);
        self.line(&paint(&heading, Some(Colour::Yellow), self.output.colour()))?;
        what.iter().try_for_each(|line| self.line(&format!("  {line}")))
    }

    /// Says what happens.
    ///
    /// # Errors
    /// Nobody reads it.
    pub(super) fn say(&self, words: &str) -> Result<(), Failure> {
        self.line(&format!("  {words}"))
    }

    /// Closes an act: failed requests are complaints like any other.
    ///
    /// # Errors
    /// Nobody reads it.
    pub(super) fn close(
        &mut self,
        name: &'static str,
        tally: &Tally,
        applied: Option<CommitToApplied>,
        mut complaints: Vec<String>,
    ) -> Result<(), Failure> {
        if tally.sent == 0 {
            complaints.push("no request was sent".to_owned());
        }
        if tally.failed > 0 {
            complaints.insert(0, format!("{} of {} requests failed", tally.failed, tally.sent));
            complaints.extend(tally.failures.iter().cloned());
        }
        let mut line = format!(
            "{} requests, {} failed, slowest {}",
            tally.sent,
            tally.failed,
            text::short(tally.slowest)
        );
        if let Some(applied) = applied {
            line.push_str(&format!(
                "; commit to applied, latest changes: p50 {:.1} ms, max {:.1} ms",
                applied.p50_ms, applied.max_ms
            ));
        }
        let held = complaints.is_empty();
        let (verdict, colour) = if held { ("held", Colour::Green) } else { ("DID NOT HOLD", Colour::Red) };
        self.line(&format!("  {}: {line}", paint(verdict, Some(colour), self.output.colour())))?;
        complaints.iter().try_for_each(|complaint| self.line(&format!("    - {complaint}")))?;
        self.acts.push(Act {
            number: self.acts.len() + 1,
            name,
            requests: tally.sent,
            failed: tally.failed,
            slowest_ms: tally.slowest.as_secs_f64() * 1e3,
            commit_to_applied: applied,
            held,
            complaints,
        });
        Ok(())
    }

    /// The end: what all acts came to.
    ///
    /// # Errors
    /// An act did not hold, or nobody reads it.
    pub(super) fn end(self, took: Duration) -> Result<(), Failure> {
        let (requests, failed) =
            self.acts.iter().fold((0, 0), |sum, act| (sum.0 + act.requests, sum.1 + act.failed));
        let broken: Vec<&Act> = self.acts.iter().filter(|act| !act.held).collect();
        if !self.output.format.is_table() {
            let summary =
                Summary { held: broken.is_empty(), took_seconds: took.as_secs_f64(), acts: &self.acts };
            self.output.document(&summary)?;
        }
        self.line(&format!(
            "\n{} of {} acts held: {requests} requests, {failed} failed, in {}.",
            self.acts.len() - broken.len(),
            self.acts.len(),
            text::span(took)
        ))?;
        if broken.is_empty() {
            return Ok(());
        }
        let why =
            broken.iter().map(|act| format!("act {} ({}): {}", act.number, act.name, act.complaints[0]));
        Err(Failure::new(
            Exit::Failed,
            format!("the tour did not hold: {}", why.collect::<Vec<_>>().join("; ")),
        ))
    }

    /// Words for people go to standard error where a program reads the result.
    fn line(&self, words: &str) -> Result<(), Failure> {
        if self.output.format.is_table() {
            return self.output.line(words);
        }
        self.output.note(words);
        Ok(())
    }
}
