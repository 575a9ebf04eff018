//! Between Tapper's models and the contract's: a registration becomes an instance, instances become services.
//!
//! Tapper keeps a service with its instances; here each instance says what it is. What a client has sent stands in the
//! instance's metadata word for word, because a path like `/users/{user_id:int}` is more than a route needs of it.

use std::collections::BTreeMap;

use http::Uri;
use serde::{Deserialize, Serialize};
use waypost_proto::{
    error::{Error, Violation},
    instance::Protocol,
    route::EndpointTemplate,
    time,
    v1::{self, InstanceState},
};

/// The metadata that holds what a client sent; what is longer than a value may be goes on in `tapper.1` and so on.
const METADATA: &str = "tapper";
/// The longest value of metadata, in bytes.
const LONGEST_VALUE: usize = 4096;
/// The most tags, and the longest.
const MOST_TAGS: usize = 64;
const LONGEST_TAG: usize = 128;
/// A tag that says that the service's own paths begin with its prefix.
const KEEP_PREFIX: &str = "waypost.strip-prefix=false";
/// What `*` stands for.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const URL_RULE: &str = "must be http://HOST or http://HOST:PORT: an instance has no path of its own, and what speaks TLS \
                        is declared (BackendTLSPolicy)";

/// What a client registers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::http) struct Registration {
    /// The service.
    pub(in crate::http) service: Service,
    /// The instance of it.
    pub(in crate::http) instance: Instance,
}

/// A service, as every instance of it describes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::http) struct Service {
    /// Its name.
    pub(in crate::http) name: String,
    version: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    instances: Vec<Instance>,
    #[serde(default)]
    tags: Vec<String>,
}

/// A path and its methods.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Route {
    path: String,
    methods: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::http) struct Instance {
    url: String,
    #[serde(default = "health_endpoint")]
    health_endpoint: String,
    #[serde(default)]
    last_heartbeat: String,
    #[serde(default = "healthy")]
    healthy: bool,
}

fn health_endpoint() -> String {
    "/health".to_owned()
}

fn healthy() -> bool {
    true
}

impl Registration {
    /// The same in the contract's words.
    ///
    /// # Errors
    /// The URL is none that can be reached; what else is wrong is found where it is registered.
    pub(super) fn to_spec(&self) -> Result<v1::InstanceSpec, Error> {
        let Self { service, instance } = self;
        let address = address(&instance.url)
            .map_err(|rule| Error::from(Violation::new("instance.url", &instance.url, rule)))?;
        let prefix = service.prefix.as_deref().filter(|prefix| !prefix.trim_matches('/').is_empty());
        let outside =
            service.routes.iter().filter(|route| prefix.is_none_or(|prefix| !is_below(prefix, &route.path)));
        let mut endpoints = Vec::new();
        for route in outside {
            match route.template() {
                Some(path) => endpoints.extend(route.methods.iter().map(|method| format!("{method} {path}"))),
                None => {
                    tracing::warn!(
                        service = service.name,
                        path = route.path,
                        "no proxy can match this route: left out"
                    );
                }
            }
        }
        // Tapper reaches a service by its routes alone; one that has none is reached by its name, as ours are.
        let prefix = prefix
            .map_or_else(|| (!service.routes.is_empty()).then(String::new), |prefix| Some(prefix.to_owned()));
        let keep_prefix = service.tags.iter().any(|tag| tag == KEEP_PREFIX);
        Ok(v1::InstanceSpec {
            service: service.name.clone(),
            address,
            version: service.version.clone(),
            tags: service.tags.iter().filter(|tag| is_label(tag)).take(MOST_TAGS).cloned().collect(),
            prefix,
            strip_prefix: Some(!keep_prefix),
            endpoints,
            metadata: self.to_metadata(),
            description: service.description.clone().unwrap_or_default(),
            ..Default::default()
        })
    }

    /// What was sent, in pieces that fit.
    fn to_metadata(&self) -> BTreeMap<String, String> {
        let mut sent = self.clone();
        sent.service.instances.clear();
        let text = serde_json::to_string(&sent).unwrap_or_default();
        let (mut pieces, mut rest) = (BTreeMap::new(), text.as_str());
        while !rest.is_empty() {
            let (piece, next) = rest.split_at(rest.floor_char_boundary(LONGEST_VALUE));
            pieces.insert(piece_name(pieces.len()), piece.to_owned());
            rest = next;
        }
        pieces
    }

    fn from_metadata(metadata: &BTreeMap<String, String>) -> Option<Self> {
        let pieces = (0..).map_while(|at| metadata.get(&piece_name(at)).map(String::as_str));
        serde_json::from_str(&pieces.collect::<String>()).ok()
    }

    /// What a client of Tapper's would have sent for an instance that came another way.
    fn like(instance: &v1::Instance, spec: &v1::InstanceSpec) -> Self {
        let mut routes: Vec<Route> = spec.endpoints.iter().filter_map(|text| Route::of(text)).collect();
        let prefix = spec.prefix.as_deref().filter(|_| spec.strip_prefix == Some(false));
        if let Some(prefix) = prefix.map(|prefix| prefix.trim_end_matches('/')) {
            // A gateway that routes by this list forwards paths as they are, so a prefix that is removed is none of them.
            for path in [prefix.to_owned(), format!("{prefix}/{{rest:path}}")] {
                let methods = METHODS.map(str::to_owned).to_vec();
                routes.push(Route { path: if path.is_empty() { "/".to_owned() } else { path }, methods });
            }
        }
        let service = Service {
            name: instance.key.as_ref().map(|key| key.service.clone()).unwrap_or_default(),
            version: spec.version.clone(),
            description: Some(spec.description.clone()).filter(|text| !text.is_empty()),
            prefix: spec.prefix.clone().filter(|prefix| !prefix.is_empty()),
            routes,
            instances: Vec::new(),
            tags: spec.tags.clone(),
        };
        let url = format!("http://{}", spec.address);
        let instance = Instance {
            url,
            health_endpoint: health_endpoint(),
            last_heartbeat: String::new(),
            healthy: true,
        };
        Self { service, instance }
    }
}

impl Route {
    /// The template that proxies match by: a segment that none can express stands for any segment. None where no template
    /// can say the path, as where a parameter of several segments is not the end. What is no path at all is left to whoever
    /// checks it.
    fn template(&self) -> Option<String> {
        let is_template = |path: &str| format!("GET {path}").parse::<EndpointTemplate>().is_ok();
        let wider = self.path.split('/').map(|segment| {
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let mixed = segment.contains('{') && name.is_none_or(|name| name.contains(['{', '}']));
            if mixed && !segment.contains(":path}") { "{any}" } else { segment }
        });
        let path =
            if is_template(&self.path) { self.path.clone() } else { wider.collect::<Vec<_>>().join("/") };
        (is_template(&path) || !path.starts_with('/')).then_some(path)
    }

    /// Reads `METHOD /path/{}`; parameters get names, which clients need.
    fn of(endpoint: &str) -> Option<Self> {
        let (method, path) = endpoint.split_once(' ')?;
        let named = path.split('/').enumerate().map(|(at, segment)| match segment {
            "{}" => format!("{{p{at}}}"),
            "{:path}" => "{rest:path}".to_owned(),
            literal => literal.to_owned(),
        });
        let path = named.collect::<Vec<_>>().join("/");
        let methods =
            if method == "*" { METHODS.map(str::to_owned).to_vec() } else { vec![method.to_owned()] };
        Some(Self { path, methods })
    }
}

/// Whether an instance came by Tapper's API.
pub(super) fn is_tappers(instance: &v1::Instance) -> bool {
    instance.spec.as_ref().is_some_and(|spec| spec.metadata.contains_key(METADATA))
}

/// Instances, sorted by service, as services. What is said of a service is what its newest instance says, its routes
/// those of all.
pub(super) fn services(instances: Vec<v1::Instance>) -> Vec<Service> {
    let mut services: BTreeMap<String, Vec<(v1::Instance, Registration)>> = BTreeMap::new();
    for instance in instances {
        let Some(spec) = instance.spec.as_ref().filter(|spec| spec.protocol() == Protocol::Http1) else {
            continue;
        };
        let sent = Registration::from_metadata(&spec.metadata);
        let sent = sent.unwrap_or_else(|| Registration::like(&instance, spec));
        services.entry(sent.service.name.clone()).or_default().push((instance, sent));
    }
    services.into_values().filter_map(together).collect()
}

fn together(mut instances: Vec<(v1::Instance, Registration)>) -> Option<Service> {
    let registered = |instance: &v1::Instance| instance.registered_at.as_ref().map(time::system_time);
    instances.sort_by_key(|(instance, _)| std::cmp::Reverse(registered(instance)));
    let mut service = instances.first()?.1.service.clone();
    for (_, older) in &instances[1..] {
        let more = older.service.routes.iter().filter(|route| !service.routes.contains(route));
        let more: Vec<Route> = more.cloned().collect();
        service.routes.extend(more);
    }
    service.instances =
        instances.into_iter().map(|(instance, sent)| as_tapper_has_it(&instance, sent.instance)).collect();
    Some(service)
}

fn as_tapper_has_it(now: &v1::Instance, sent: Instance) -> Instance {
    let renewed = now.renewed_at.as_ref().map(|at| humantime::format_rfc3339_micros(time::system_time(at)));
    Instance {
        last_heartbeat: renewed.map(|at| at.to_string()).unwrap_or_default(),
        healthy: matches!(now.state(), InstanceState::Up | InstanceState::Suspect),
        ..sent
    }
}

/// `host:port` of a URL; the rule that it breaks otherwise.
pub(super) fn address(url: &str) -> Result<String, &'static str> {
    let uri: Uri = url.parse().map_err(|_| URL_RULE)?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(URL_RULE)?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    if !plain || authority.host().is_empty() {
        return Err(URL_RULE);
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

fn piece_name(at: usize) -> String {
    if at == 0 { METADATA.to_owned() } else { format!("{METADATA}.{at}") }
}

/// Whether a path is the prefix or below it, segment by segment.
fn is_below(prefix: &str, path: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a tag can be a label; the others are kept in what was sent.
fn is_label(tag: &str) -> bool {
    (1..=LONGEST_TAG).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
