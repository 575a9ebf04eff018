//! The agent's file: the agent's own options, and a list of services.
//!
//! All of it is checked before anything of it is used.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_saphyr::{Error as YamlError, Spanned};
use waypost_sdk::contract::{error::Error as ContractError, name::InstanceKey};

use crate::{config::ServiceConfig, options::ServiceOptions};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: the file cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not YAML, or a value has the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// A key is none of the agent's.
    #[error("{}:{line}: unknown key '{key}'; {way_out}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The key.
        key: String,
        /// What to do.
        way_out: String,
    },
    /// A service's options break rules.
    #[error("{}:{line}: service '{service}': {source}", path.display())]
    Service {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The service's name, as it is given.
        service: String,
        /// Which, and which rules.
        source: ContractError,
    },
    /// Two entries name the same instance.
    #[error("{}:{line}: {key} is listed twice, first in line {first}; give one of them another id", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The line of the second, from 1.
        line: u64,
        /// The line of the first, from 1.
        first: u64,
        /// The instance.
        key: InstanceKey,
    },
}

/// The file, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentFile {
    /// The control planes.
    pub control_plane: Vec<String>,
    /// What the agent calls itself.
    pub client: Option<String>,
    /// Where its admin port listens.
    pub admin_listen: Option<String>,
    /// What to log.
    pub log: Option<String>,
    /// How to log.
    pub log_format: Option<String>,
    /// The services. `None`: there is no such list, as in a file that is still being written.
    pub services: Option<Vec<ServiceConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Raw {
    #[serde(alias = "control_plane")]
    control_plane: OneOrMore,
    client: Option<String>,
    #[serde(alias = "admin_listen")]
    admin_listen: Option<String>,
    log: Option<String>,
    #[serde(alias = "log_format")]
    log_format: Option<String>,
    services: Option<Vec<Spanned<ServiceOptions>>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl AgentFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, or has a mistake, which is named with its line.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text =
            fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let raw: Raw = match serde_saphyr::from_str(text) {
            Ok(raw) => raw,
            Err(_) if text.trim().is_empty() => Raw::default(),
            Err(error) => return Err(mistake(path, &error)),
        };
        let mut lines: BTreeMap<InstanceKey, u64> = BTreeMap::new();
        let mut services = raw.services.is_some().then(Vec::new);
        for options in raw.services.into_iter().flatten() {
            let line = options.referenced.line();
            let path = path.to_owned();
            let service = options.value.service.clone();
            let config = ServiceConfig::check(&options.value).map_err(|source| FileError::Service {
                path: path.clone(),
                line,
                service,
                source,
            })?;
            let key = config.spec.key.clone();
            if let Some(first) = lines.insert(key.clone(), line) {
                return Err(FileError::Twice { path, line, first, key });
            }
            services.get_or_insert_default().push(config);
        }
        let control_plane = match raw.control_plane {
            OneOrMore::One(address) => vec![address],
            OneOrMore::More(addresses) => addresses,
        };
        let Raw { client, admin_listen, log, log_format, .. } = raw;
        Ok(Self { control_plane, client, admin_listen, log, log_format, services })
    }

    /// Whether all but the services is the same.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let without = |file: &Self| Self { services: None, ..file.clone() };
        without(self) == without(other)
    }
}

fn mistake(path: &Path, error: &YamlError) -> FileError {
    let path = path.to_owned();
    let error = error.without_snippet();
    let line = error.location().map_or(1, |location| location.line());
    let YamlError::SerdeUnknownField { field, expected, .. } = error else {
        return FileError::Syntax { path, line, message: error.to_string() };
    };
    let key = field.clone();
    let wanted = key.replace('_', "-");
    let likeness = |known: &&str| strsim::jaro_winkler(&wanted, known);
    let known = expected.iter().copied().filter(|known| !known.contains('_'));
    let nearest = known.clone().max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
    let way_out = match nearest {
        Some(nearest) if likeness(&nearest) > 0.8 => format!("did you mean '{nearest}'?"),
        _ => format!("the keys here are {}", known.collect::<Vec<_>>().join(", ")),
    };
    FileError::UnknownKey { path, line, key, way_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentFile, String> {
        AgentFile::parse(Path::new("agent.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_lists_services_and_the_agents_own_options() {
        let text = "control-plane: http://a:1\nadmin_listen: none\nservices:\n  - service: users\n    port: 9001\n    \
                    check_interval: 500ms\n    tags: [a, b]\n    metadata: { team: core }\n  - service: orders\n    \
                    address: 10.0.0.7:80\n    health: http:/health\n";
        let file = parse(text).expect("a good file");
        assert_eq!(file.control_plane, ["http://a:1"]);
        assert_eq!(file.admin_listen.as_deref(), Some("none"));
        let services = file.services.expect("a list");
        let names: Vec<String> = services.iter().map(|config| config.spec.key.to_string()).collect();
        assert_eq!(names, ["users/127.0.0.1:9001", "orders/10.0.0.7:80"]);
        assert_eq!(services[0].spec.metadata["team"], "core");
        assert_eq!(parse("").expect("an empty file"), AgentFile::default());
        for (text, count) in [("log: info", None), ("services:", None), ("services: []", Some(0))] {
            let services = parse(text).expect("a good file").services;
            assert_eq!(services.map(|services| services.len()), count, "{text}");
        }
    }

    #[test]
    fn the_example_of_the_page_is_a_good_file() {
        let page = include_str!("../README.md");
        let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
        let file = parse(example.expect("the page has one")).expect("a good file");
        assert_eq!(file.services.map(|services| services.len()), Some(2));
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_the_way_out() {
        let service = "services:\n  - service: users\n    port: 9001\n";
        for (text, line, words) in [
            (format!("{service}    helth: tcp\n"), 4, "unknown key 'helth'; did you mean 'health'?"),
            (format!("{service}    drain_dedline: 1s\n"), 4, "did you mean 'drain-deadline'?"),
            ("control_plain: a\n".to_owned(), 1, "did you mean 'control-plane'?"),
            ("xyz: a\n".to_owned(), 1, "the keys here are control-plane, "),
            (format!("{service}    check-interval: soon\n"), 4, "500ms, 10s or 2m"),
            (format!("{service}    weight: heavy\n"), 4, ""),
            (format!("{service}  - service: a b\n    port: 1\n"), 4, "service = \"a b\": must be 1 to 63"),
            (format!("{service}  - service: users\n    port: 9001\n"), 4, "listed twice, first in line 2"),
            (format!("{service}  port: 9001\n"), 4, ""),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.starts_with(&format!("agent.yaml:{line}: ")), "{text}: {error}");
            assert!(error.contains(words), "{error}");
        }
    }
}
