//! Configuration: raw options, as clap reads them from flags, environment and file, and the checked form.
//!
//! Every option is checked as it is read, so that an error names the option, the value and the rule.
//!
//! Deliberately absent: what the options do.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, builder::PossibleValuesParser, builder::TypedValueParser};
use waypost_proto::{
    DEFAULT_GRPC_LISTEN, DEFAULT_PROXY_ADMIN_LISTEN, DEFAULT_PROXY_LISTEN, name::ServiceKey,
};
use waypost_sdk::{control_planes, launch::LaunchArgs};

use crate::{
    balance::PolicyName,
    serve::{Limits, OverloadLimits, ServeConfig, Timeouts},
    trusted::Network,
};

const MOST_THREADS: i64 = 1024;

/// Waypost's proxy: routes HTTP to registered instances, and swaps its table while requests are in flight.
#[derive(Clone, Debug, Parser)]
#[command(name = "waypost-proxy", version)]
pub struct Args {
    /// Options of every program.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// A control plane's gRPC address; several are tried in turn
    #[arg(long, env = "WAYPOST_CONTROL_PLANE", value_name = "URL", value_delimiter = ',', default_value = DEFAULT_GRPC_LISTEN, value_parser = control_plane)]
    pub control_plane: Vec<String>,
    /// Where to listen for traffic; port 0 picks a free port
    #[arg(long, env = "WAYPOST_LISTEN", value_name = "ADDR", default_value = DEFAULT_PROXY_LISTEN, value_parser = socket_address)]
    pub listen: SocketAddr,
    /// Where to answer health checks, metrics and questions about the table
    #[arg(long, env = "WAYPOST_ADMIN_LISTEN", value_name = "ADDR", default_value = DEFAULT_PROXY_ADMIN_LISTEN, value_parser = socket_address)]
    pub admin_listen: SocketAddr,
    /// How many threads serve [default: one for each core]
    #[arg(long, env = "WAYPOST_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS))]
    pub threads: Option<u16>,
    /// Keep what is served by in this directory, and start from it where no control plane is reached
    #[arg(long, env = "WAYPOST_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How old what is kept may be; 0 means any age
    #[arg(long, env = "WAYPOST_STATE_MAX_AGE", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub state_max_age: Duration,
    /// This proxy's id, unique among proxies [default: the one in the state directory, or a fresh one]
    #[arg(long, env = "WAYPOST_PROXY_ID", value_name = "ID", value_parser = label)]
    pub proxy_id: Option<String>,
    /// This proxy's failure domain
    #[arg(long, env = "WAYPOST_ZONE", value_name = "ZONE", value_parser = label)]
    pub zone: Option<String>,
    /// Serve only services of this namespace; may be given several times [default: all]
    #[arg(long, env = "WAYPOST_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',', value_parser = namespace)]
    pub namespace: Vec<String>,
    /// How an instance is chosen
    #[arg(long, env = "WAYPOST_BALANCER", value_name = "POLICY", default_value_t = PolicyName::default(), value_parser = balancer())]
    pub balancer: PolicyName,
    /// How long a connection to an instance may take
    #[arg(long, env = "WAYPOST_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "1s", value_parser = positive_duration)]
    pub connect_timeout: Duration,
    /// How long an instance may take to begin its answer; 0 means forever
    #[arg(long, env = "WAYPOST_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub request_timeout: Duration,
    /// How long an answer's head waits for its body where the request can still be sent again; 0 means not at all
    #[arg(long, env = "WAYPOST_HEAD_HOLD", value_name = "DURATION", default_value = "200ms", value_parser = duration)]
    pub head_hold: Duration,
    /// How long a body may stand still, in either direction; 0 means forever
    #[arg(long, env = "WAYPOST_STREAM_IDLE_TIMEOUT", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub stream_idle_timeout: Duration,
    /// How long a client's connection is kept between requests
    #[arg(long, env = "WAYPOST_IDLE_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = positive_duration)]
    pub idle_timeout: Duration,
    /// How long a client may take to send a request's head
    #[arg(long, env = "WAYPOST_HEADER_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    pub header_timeout: Duration,
    /// The largest head of a request, 8KiB to 16MiB
    #[arg(long, env = "WAYPOST_MAX_HEADER_BYTES", value_name = "SIZE", default_value = "64KiB", value_parser = header_bytes)]
    pub max_header_bytes: usize,
    /// The most fields in a request's head
    #[arg(long, env = "WAYPOST_MAX_HEADERS", value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub max_headers: u16,
    /// The most requests that may be under way in this proxy; 0 means any number
    #[arg(long, env = "WAYPOST_MAX_REQUESTS", value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub max_requests: u64,
    /// How far behind a thread may be with its work before it refuses requests of low priority, and at five times that of
    /// normal priority; 0 means as far as it likes
    #[arg(long, env = "WAYPOST_MAX_DELAY", value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub max_delay: Duration,
    /// How many further instances a request may try where that is safe
    #[arg(long, env = "WAYPOST_RETRIES", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub retries: u8,
    /// Believe the forwarding headers of peers in this network; may be given several times [default: of none]
    #[arg(long, env = "WAYPOST_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxy: Vec<Network>,
    /// How long to wait for what is in flight when asked to end
    #[arg(long, env = "WAYPOST_DRAIN_DEADLINE", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain_deadline: Duration,
}

/// What a proxy is made from; nothing in it can be wrong.
#[derive(Clone, Debug)]
pub struct Config {
    /// The control planes, each once, as URLs. At least one.
    pub control_planes: Vec<String>,
    /// How to serve.
    pub serve: ServeConfig,
    /// Where the admin port is.
    pub admin_listen: SocketAddr,
    /// Where to keep what is served by.
    pub state_dir: Option<PathBuf>,
    /// How old that may be; zero means any age.
    pub state_max_age: Duration,
    /// The proxy's id, where it is given.
    pub proxy_id: Option<String>,
    /// The proxy's failure domain; empty means none.
    pub zone: String,
    /// The namespaces to serve, sorted, each once; none means all.
    pub namespaces: Vec<String>,
    /// How an instance is chosen.
    pub balancer: PolicyName,
    /// How long to wait for what is in flight at the end.
    pub drain_deadline: Duration,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let defaults = ServeConfig::default();
        let mut namespaces = args.namespace;
        namespaces.sort();
        namespaces.dedup();
        Self {
            control_planes: args.control_plane,
            serve: ServeConfig {
                listen: args.listen,
                threads: args.threads.map_or(defaults.threads, usize::from),
                trusted_proxies: args.trusted_proxy,
                retries: args.retries.into(),
                limits: Limits {
                    header_bytes: args.max_header_bytes,
                    headers: args.max_headers.into(),
                    ..defaults.limits
                },
                timeouts: Timeouts {
                    client_header: args.header_timeout,
                    client_idle: args.idle_timeout,
                    connect: args.connect_timeout,
                    response: or_forever(args.request_timeout),
                    head_hold: args.head_hold,
                    stream_idle: or_forever(args.stream_idle_timeout),
                },
                overload: OverloadLimits { requests: args.max_requests, delay: args.max_delay },
                ..defaults
            },
            admin_listen: args.admin_listen,
            state_dir: args.state_dir,
            state_max_age: args.state_max_age,
            proxy_id: args.proxy_id,
            zone: args.zone.unwrap_or_default(),
            namespaces,
            balancer: args.balancer,
            drain_deadline: args.drain_deadline,
        }
    }
}

/// Longer than any process lives, and short enough to be added to a time.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn or_forever(duration: Duration) -> Duration {
    if duration.is_zero() { FOREVER } else { duration }
}

fn control_plane(text: &str) -> Result<String, String> {
    control_planes::normalized(text.trim()).map_err(|violation| violation.rule)
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let rule = "must be an IP address with a port, for example 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
    text.parse().map_err(|_| rule.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let rule = "must be a length of time such as 500ms, 10s, 2m or 24h, of 365 days at most";
    let parsed = humantime::parse_duration(text).ok();
    parsed.filter(|parsed| *parsed <= Duration::from_secs(365 * 24 * 3600)).ok_or_else(|| rule.to_owned())
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

fn label(text: &str) -> Result<String, String> {
    let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
        .ok_or_else(|| "must be 1 to 128 visible ASCII characters without blanks".to_owned())
}

fn namespace(text: &str) -> Result<String, String> {
    let checked = ServiceKey::new(text, "any").map_err(|violation| violation.rule)?;
    Ok(checked.namespace().to_owned())
}

fn balancer() -> impl TypedValueParser<Value = PolicyName> {
    let names = PossibleValuesParser::new(PolicyName::ALL.map(PolicyName::name));
    names.try_map(|name| name.parse::<PolicyName>())
}

fn header_bytes(text: &str) -> Result<usize, String> {
    let rule =
        || "must be a size from 8KiB to 16MiB, in bytes or with KiB or MiB, for example 64KiB".to_owned();
    let (digits, unit) = text.split_at(text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "k" | "K" => 1 << 10,
        "MiB" | "m" | "M" => 1 << 20,
        _ => return Err(rule()),
    };
    let bytes = digits.parse().ok().and_then(|number: usize| number.checked_mul(unit));
    bytes.filter(|bytes| (8 << 10..=16 << 20).contains(bytes)).ok_or_else(rule)
}

#[cfg(test)]
mod tests {
    use waypost_sdk::launch::parse_from;

    use super::*;

    fn read(flags: &[&str]) -> Result<Config, String> {
        let arguments = ["waypost-proxy"].iter().chain(flags);
        parse_from::<Args>(arguments).map(Config::from).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = read(&[]).expect("nothing is required");
        assert_eq!(config.control_planes, ["http://127.0.0.1:7400"]);
        assert_eq!(config.serve.listen.to_string(), DEFAULT_PROXY_LISTEN);
        assert_eq!(config.admin_listen.to_string(), DEFAULT_PROXY_ADMIN_LISTEN);
        assert_eq!(config.serve.timeouts.connect, Duration::from_secs(1));
        assert_eq!(config.serve.timeouts.client_header, Duration::from_secs(10));
        assert_eq!(config.serve.timeouts.head_hold, Duration::from_millis(200));
        assert_eq!((config.serve.limits.header_bytes, config.serve.limits.headers), (65_536, 100));
        assert_eq!(config.serve.overload, OverloadLimits::default());
        assert_eq!(config.balancer, PolicyName::LeastRequest);
        assert_eq!(config.state_max_age, Duration::from_secs(24 * 3600));
    }

    #[test]
    fn lists_may_be_repeated_or_separated_by_commas() {
        let flags = ["--control-plane", "a:1,b:2", "--control-plane", "http://c:3"];
        assert_eq!(read(&flags).expect("good").control_planes, ["http://a:1", "http://b:2", "http://c:3"]);
        let namespaces =
            read(&["--namespace", "shop", "--namespace", "default,shop"]).expect("good").namespaces;
        assert_eq!(namespaces, ["default", "shop"]);
    }

    #[test]
    fn zero_means_any_age_and_no_timeout() {
        let config =
            read(&["--state-max-age", "0", "--request-timeout", "0", "--drain-deadline", "0"]).expect("good");
        assert_eq!((config.state_max_age, config.drain_deadline), (Duration::ZERO, Duration::ZERO));
        assert_eq!(config.serve.timeouts.response, FOREVER);
        let config = read(&["--head-hold", "0"]).expect("good");
        assert_eq!(config.serve.timeouts.head_hold, Duration::ZERO, "no head is held back");
    }

    #[test]
    fn a_bad_value_is_named_with_its_option_and_rule() {
        for (flag, value, rule) in [
            ("--control-plane", "https://a:1", "must begin with http://"),
            ("--listen", "localhost", "must be an IP address with a port"),
            ("--admin-listen", "1.2.3.4", "must be an IP address with a port"),
            ("--threads", "0", "1..=1024"),
            ("--state-max-age", "old", "must be a length of time"),
            ("--proxy-id", "a b", "must be 1 to 128 visible"),
            ("--zone", "", "must be 1 to 128 visible"),
            ("--namespace", "a b", "must be 1 to 63"),
            ("--balancer", "fair", "round-robin, random, least-request"),
            ("--connect-timeout", "0", "must be longer than 0"),
            ("--request-timeout", "-1s", "must be a length of time"),
            ("--idle-timeout", "0s", "must be longer than 0"),
            ("--header-timeout", "99999 days", "365 days at most"),
            ("--max-header-bytes", "1KiB", "from 8KiB to 16MiB"),
            ("--max-header-bytes", "64 parsecs", "from 8KiB to 16MiB"),
            ("--max-headers", "0", "1..=4096"),
            ("--max-requests", "200000000", "0..=100000000"),
            ("--max-delay", "soon", "must be a length of time"),
            ("--retries", "17", "0..=16"),
            ("--trusted-proxy", "nobody", "CIDR"),
        ] {
            let error = read(&[&format!("{flag}={value}")]).expect_err(flag);
            assert!(error.contains(flag) && error.contains(value) && error.contains(rule), "{error}");
        }
    }
}
