//! What the programs log: shown with a prefix, and the last lines kept for when one fails.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::output::{
    Output,
    table::{Colour, paint},
};

/// What begins the supervisor's own lines about a program.
pub(super) const SUPERVISOR: &str = "-- ";
const KEPT: usize = 40;

/// The log of everything that runs. A clone is the same log.
#[derive(Clone)]
pub(super) struct Log {
    output: Output,
    shown: bool,
    kept: Arc<Mutex<BTreeMap<String, VecDeque<String>>>>,
}

impl Log {
    /// A log that is shown, or only kept.
    pub(super) fn new(output: &Output, shown: bool) -> Self {
        Self { output: output.clone(), shown, kept: Arc::default() }
    }

    /// A line from a program.
    pub(super) fn line(&self, name: &str, line: &str) {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = kept.entry(name.to_owned()).or_default();
            lines.push_back(line.to_owned());
            if lines.len() > KEPT {
                lines.pop_front();
            }
        }
        if self.shown {
            self.show(name, line);
        }
    }

    /// A line from the supervisor itself about a program.
    pub(super) fn say(&self, name: &str, words: &str) {
        self.line(name, &format!("{SUPERVISOR}{words}"));
    }

    /// The last lines of a program, for an error message.
    pub(super) fn tail(&self, name: &str, count: usize) -> Vec<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = kept.get(name).map(|lines| lines.iter().rev().take(count).cloned().collect::<Vec<_>>());
        lines.unwrap_or_default().into_iter().rev().collect()
    }

    /// Shows the last lines of every program, where they were not shown as they came.
    pub(super) fn show_tails(&self, count: usize) {
        if self.shown {
            return;
        }
        let names: Vec<String> =
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for name in names {
            self.tail(&name, count).iter().for_each(|line| self.show(&name, line));
        }
    }

    fn show(&self, name: &str, line: &str) {
        let prefix = paint(&format!("{name:<14}|"), Some(Colour::Grey), self.output.colour_notes());
        self.output.note(format!("{prefix} {line}"));
    }
}
