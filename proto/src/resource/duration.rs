//! Lengths of time as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`.
//!
//! Deliberately absent: fractions, signs, and units below a millisecond, which GEP-2257 leaves out.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

const RULE: &str = "must be one to four numbers of at most five digits, each with the unit h, m, s or ms, for example \
                    \"10s\" or \"1m30s\" (GEP-2257)";

/// A length of time, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayDuration {
    text: String,
    length: Duration,
}

impl GatewayDuration {
    /// How long it is.
    pub fn get(&self) -> Duration {
        self.length
    }

    /// Whether it is no time at all, which turns a timeout off.
    pub fn is_zero(&self) -> bool {
        self.length.is_zero()
    }
}

impl fmt::Display for GatewayDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for GatewayDuration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mut rest = text;
        let mut length = Duration::ZERO;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let units = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(units);
            parts += 1;
            if !(1..=5).contains(&digits) || parts > 4 {
                return Err(RULE);
            }
            let number: u64 = number.parse().map_err(|_| RULE)?;
            length += match unit {
                "h" => Duration::from_secs(number * 3600),
                "m" => Duration::from_secs(number * 60),
                "s" => Duration::from_secs(number),
                "ms" => Duration::from_millis(number),
                _ => return Err(RULE),
            };
            rest = after;
        }
        if parts == 0 { Err(RULE) } else { Ok(Self { text: text.to_owned(), length }) }
    }
}

impl TryFrom<String> for GatewayDuration {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl From<GatewayDuration> for String {
    fn from(duration: GatewayDuration) -> Self {
        duration.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_gep_2257_are_read() {
        let read = |text: &str| text.parse::<GatewayDuration>().expect(text).get();
        assert_eq!(read("0s"), Duration::ZERO);
        assert_eq!(read("1h30m"), Duration::from_secs(5400));
        assert_eq!(read("2m30s500ms"), Duration::from_millis(150_500));
        assert_eq!(read("99999h99999h99999h99999h"), Duration::from_secs(4 * 99_999 * 3600));
    }

    #[test]
    fn all_else_is_refused() {
        for text in ["", "1", "s", "-1s", "1.5s", "1us", "1d", "100000s", "1s1s1s1s1s", "1 s", "１s", "1S"] {
            assert!(text.parse::<GatewayDuration>().is_err(), "{text:?}");
        }
    }
}
