//! How busy an instance says it is, and how much of its share of traffic it gets.
//!
//! Deliberately absent: which load makes which share, which the control plane's registry decides.

use std::fmt;

use crate::{error::Violation, v1};

/// How much of the share that its weight gives it an instance gets, 1 to 100 percent. It is relative: where all
/// instances of a service have the same, each gets what it would anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    /// All of it.
    pub const FULL: Self = Self(100);

    /// So many percent; what is out of range is brought into it.
    pub const fn percent(percent: u8) -> Self {
        match percent {
            0 => Self(1),
            1..=100 => Self(percent),
            _ => Self::FULL,
        }
    }

    /// Checks the wire form, in which absent means all of it.
    ///
    /// # Errors
    /// It is not from 1 to 100.
    pub fn from_wire(percent: Option<u32>) -> Result<Self, Violation> {
        let Some(percent) = percent else { return Ok(Self::FULL) };
        match u8::try_from(percent) {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(Violation::new("share_percent", percent, "must be from 1 to 100")),
        }
    }

    /// The wire form.
    pub fn to_wire(self) -> Option<u32> {
        (self != Self::FULL).then_some(self.0.into())
    }

    /// In percent, 1 to 100.
    pub fn as_percent(self) -> u8 {
        self.0
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::FULL
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} %", self.0)
    }
}

/// How busy an instance says it is, in the words of ORCA (gRFC A51). Utilizations are 0 where it is idle and 1 where it
/// does as much as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// By the application's own measure.
    pub application: Option<f64>,
    /// Of its processors.
    pub cpu: Option<f64>,
    /// Of its memory.
    pub memory: Option<f64>,
    /// Requests under way.
    pub in_flight: Option<u64>,
}

impl Load {
    /// Checks the wire form.
    ///
    /// # Errors
    /// Names a number that is negative or not finite.
    pub fn from_wire(wire: &v1::LoadReport) -> Result<Self, Violation> {
        let check = |field: &str, number: Option<f64>| match number {
            Some(number) if !number.is_finite() || number < 0.0 => {
                Err(Violation::new(field, number, "must be a finite number, 0 (idle) or more"))
            }
            number => Ok(number),
        };
        Ok(Self {
            application: check("application_utilization", wire.application_utilization)?,
            cpu: check("cpu_utilization", wire.cpu_utilization)?,
            memory: check("memory_utilization", wire.memory_utilization)?,
            in_flight: wire.in_flight,
        })
    }

    /// The wire form.
    pub fn to_wire(self) -> v1::LoadReport {
        v1::LoadReport {
            application_utilization: self.application,
            cpu_utilization: self.cpu,
            memory_utilization: self.memory,
            in_flight: self.in_flight,
        }
    }

    /// The utilization that counts: the application's own, else that of the processors (as gRFC A58 has it).
    pub fn utilization(&self) -> Option<f64> {
        self.application.or(self.cpu)
    }
}

/// In words: `processors at 93 %, memory at 41 %, 12 under way`.
impl fmt::Display for Load {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |what: &str, number: Option<f64>| {
            number.map(|number| format!("{what} at {:.0} %", number * 100.0))
        };
        let under_way = self.in_flight.map(|count| format!("{count} under way"));
        let parts = [
            at("application", self.application),
            at("processors", self.cpu),
            at("memory", self.memory),
            under_way,
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        formatter.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_refused_by_name() {
        for bad in [f64::NAN, f64::INFINITY, -0.1] {
            let wire = v1::LoadReport { cpu_utilization: Some(bad), ..v1::LoadReport::default() };
            let violation = Load::from_wire(&wire).expect_err("it is no utilization");
            assert!(violation.to_string().contains("cpu_utilization"), "{violation}");
        }
        for bad in [0, 101, 1000] {
            Share::from_wire(Some(bad)).expect_err("it is no share");
        }
    }

    #[test]
    fn shares_and_loads_go_over_the_wire_and_back() {
        for percent in 1..=100 {
            let share = Share::percent(percent);
            assert_eq!(Share::from_wire(share.to_wire()).expect("a good share"), share);
        }
        let load = Load { application: Some(0.5), cpu: Some(1.5), memory: Some(0.25), in_flight: Some(7) };
        assert_eq!(Load::from_wire(&load.to_wire()).expect("a good load"), load);
        assert_eq!(load.to_string(), "application at 50 %, processors at 150 %, memory at 25 %, 7 under way");
    }

    #[test]
    fn the_applications_own_word_counts_before_its_processors_and_memory_never_does() {
        let load = Load { cpu: Some(0.9), memory: Some(1.0), ..Load::default() };
        assert_eq!(load.utilization(), Some(0.9));
        assert_eq!(Load { application: Some(0.1), ..load }.utilization(), Some(0.1));
        assert_eq!(Load { cpu: None, ..load }.utilization(), None);
    }
}
