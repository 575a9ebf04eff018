//! What the commands for declared resources take.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use waypost_proto::resource::{Kind, ResourceKey};

use super::value::{self, Pair};

/// Where manifests come from.
#[derive(Args, Debug)]
pub(crate) struct Sources {
    /// A file, a folder (its .yaml, .yml and .json files), or - for standard input; may be repeated
    #[arg(short, long = "filename", required = true, value_name = "FILE|FOLDER|-", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) filenames: Vec<PathBuf>,
    /// Also what lies in folders within the folders
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

/// Whether and how a change is made.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Change {
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until every live proxy has applied it, so long at most
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_name = "TIME",
          value_parser = value::deadline, conflicts_with = "dry_run")]
    pub(crate) wait: Option<Duration>,
}

/// What is declared.
#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// What is shown.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// A kind, also in the plural or by its short name (httproutes, hr), or `all`; KIND/NAME for one resource
    #[arg(value_name = "KIND[/NAME]", value_parser = target)]
    pub(crate) target: Target,
    /// Only these
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// What is described.
#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) one: One,
}

/// One resource.
#[derive(Args, Debug)]
pub(crate) struct One {
    /// Its kind, or KIND/NAME
    #[arg(value_name = "KIND[/NAME]", value_parser = target)]
    target: Target,
    /// Its name
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// What is compared.
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// What is removed.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// A kind, or KIND/NAME
    #[arg(value_name = "KIND[/NAME]", value_parser = target, required_unless_present = "filenames",
          conflicts_with = "filenames")]
    pub(crate) target: Option<Target>,
    /// The resources' names
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// What the manifests in a file, a folder or - (standard input) name; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|FOLDER|-", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) filenames: Vec<PathBuf>,
    /// Also what lies in folders within the folders
    #[arg(short = 'R', long, requires = "filenames")]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// Whose past.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) one: One,
}

/// What goes back to where.
#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) one: One,
    /// The generation to go back to [default: the one before the one in force]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// What is checked.
#[derive(Args, Debug)]
pub(crate) struct LintArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Ask the control plane as well, which knows what is declared already
    #[arg(long)]
    pub(crate) server: bool,
}

/// Which request.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Its method
    #[arg(value_name = "METHOD", value_parser = method)]
    pub(crate) method: http::Method,
    /// Where it goes: http://HOST[:PORT]/PATH[?QUERY], or a path alone
    #[arg(value_name = "URL", value_parser = url)]
    pub(crate) url: http::Uri,
    /// A header field; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<Pair>,
    /// As if the manifests in a file, a folder or - (standard input) were applied; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|FOLDER|-", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) filenames: Vec<PathBuf>,
    /// Also what lies in folders within the folders
    #[arg(short = 'R', long, requires = "filenames")]
    pub(crate) recursive: bool,
    /// By the routing of this revision, as long as a proxy remembers it [default: the current one]
    #[arg(long, value_name = "N", conflicts_with = "filenames")]
    pub(crate) revision: Option<u64>,
    /// The proxy's admin port [default: the first that the control plane knows]
    #[arg(long, value_name = "HOST:PORT", value_parser = value::address)]
    pub(crate) proxy: Option<String>,
}

/// A kind, and perhaps a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Absent where all kinds are meant.
    pub(crate) kind: Option<Kind>,
    /// The name, where it was given behind a slash.
    pub(crate) name: Option<String>,
}

impl Target {
    /// The names that are meant: that behind the slash and those that follow; none means all.
    ///
    /// # Errors
    /// A name was given both ways, or without a kind.
    pub(crate) fn names(&self, more: &[String]) -> Result<Vec<String>, String> {
        match (&self.kind, &self.name, more) {
            (None, _, [_, ..]) => Err("`all` takes no name; name the kind as well".to_owned()),
            (_, Some(name), [_, ..]) => {
                Err(format!("a name stands behind the kind already: {name}; give names in one way"))
            }
            (_, Some(name), []) => Ok(vec![name.clone()]),
            (_, None, more) => Ok(more.to_vec()),
        }
    }
}

impl One {
    /// Its key.
    ///
    /// # Errors
    /// Kind or name is missing, or breaks its rule.
    pub(crate) fn key(&self, namespace: &str) -> Result<ResourceKey, String> {
        let kind = self.target.kind.ok_or("one resource must be named: KIND NAME")?;
        let names = self.target.names(self.name.as_slice())?;
        let name = names.first().ok_or_else(|| format!("which {kind}? its name must follow"))?;
        ResourceKey::new(kind, namespace, name)
            .map_err(|violation| format!("the {} {:?} {}", violation.field, violation.value, violation.rule))
    }
}

/// Reads KIND, KIND/NAME or `all`.
fn target(text: &str) -> Result<Target, String> {
    let (kind, name) = match text.split_once('/') {
        Some((kind, name)) => (kind, Some(name.to_owned())),
        None => (text, None),
    };
    if kind.eq_ignore_ascii_case("all") {
        return match name {
            None => Ok(Target { kind: None, name: None }),
            Some(_) => Err("`all` takes no name".to_owned()),
        };
    }
    if name.as_deref() == Some("") {
        return Err("the part after '/' is the resource's name and must not be empty".to_owned());
    }
    let kind = kind.parse().map_err(|violation: waypost_proto::error::Violation| violation.rule)?;
    Ok(Target { kind: Some(kind), name })
}

fn method(text: &str) -> Result<http::Method, String> {
    text.to_ascii_uppercase().parse().map_err(|_| "must be an HTTP method, such as GET".to_owned())
}

fn url(text: &str) -> Result<http::Uri, String> {
    let rule = || "must be http://HOST/PATH, https://HOST/PATH or /PATH".to_owned();
    let read: http::Uri = text.parse().map_err(|_| rule())?;
    let good = match read.scheme_str() {
        Some("http" | "https") => read.host().is_some(),
        None => text.starts_with('/'),
        Some(_) => false,
    };
    if good { Ok(read) } else { Err(rule()) }
}

fn header(text: &str) -> Result<Pair, String> {
    let rule = "must be 'NAME: VALUE'";
    let (name, value) = text.split_once(':').ok_or(rule)?;
    http::HeaderName::try_from(name.trim()).map_err(|_| rule)?;
    http::HeaderValue::try_from(value.trim()).map_err(|_| rule)?;
    Ok(Pair(name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_people_do() {
        for text in ["httproute", "HTTPRoutes", "hr"] {
            assert_eq!(target(text), Ok(Target { kind: Some(Kind::HttpRoute), name: None }));
        }
        let named = target("gw/edge").expect("a kind with a name");
        assert_eq!(named.names(&[]), Ok(vec!["edge".to_owned()]));
        named.names(&["other".to_owned()]).expect_err("two ways at once");
        target("all").expect("all kinds").names(&["a".to_owned()]).expect_err("all has no name");
        for text in ["all/a", "gw/", "httpruote/x", ""] {
            target(text).expect_err(text);
        }
        assert!(target("httproot").expect_err("no kind").contains("HTTPRoute"));
    }

    #[test]
    fn a_request_is_a_method_and_a_url_or_path() {
        for text in ["/", "/a?b=c", "http://a.example", "https://a.example:8443/x"] {
            url(text).expect(text);
        }
        for text in ["a.example", "ftp://a/b", "", "http:///x"] {
            url(text).expect_err(text);
        }
        assert_eq!(header("X-A: 1:2"), Ok(Pair("X-A".into(), "1:2".into())));
        header("X-A").expect_err("no value");
        header("a b: c").expect_err("no name");
    }
}
