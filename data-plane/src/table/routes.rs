//! Routes as a tree of path segments, found without allocating and changed by copying one path.
//!
//! Each node stands for the segments on the way to it: literals, or "any one segment". A search goes down the
//! literal first, then the parameter, and on the way back takes what matches all that follows; so the first
//! match is the most specific one.
//!
//! Deliberately absent: hosts and headers, and what a route leads to beyond the slot of its service.

use std::sync::Arc;

use imbl::HashMap;
use waypost_proto::route::{EndpointTemplate, Route, RouteMatch, Segment};

use super::{
    declared::Subset,
    text_map::{Text, TextMap},
};

/// What a route leads to.
#[derive(Clone, Debug)]
pub(super) struct RouteTarget {
    pub(super) id: Arc<str>,
    /// The service's slot in the table.
    pub(super) slot: u32,
    /// The versions that answer.
    pub(super) subset: Subset,
    /// How many bytes of the path to cut.
    pub(super) strip: usize,
}

/// What a search ends with.
#[derive(Debug)]
pub(super) enum Match<'a> {
    Route(&'a RouteTarget),
    OtherMethods,
    Nothing,
}

/// The routes of a table. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    root: Arc<Node>,
    by_id: HashMap<Arc<str>, (Arc<Route>, u32)>,
}

impl Routes {
    /// The most specific route for a method and a raw path.
    pub(super) fn find<'a>(&'a self, method: &str, path: &str) -> Match<'a> {
        let mut other_methods = false;
        let mut take = |methods: &'a Methods| {
            let found = methods.find(method);
            other_methods |= found.is_none() && !methods.is_empty();
            found
        };
        match enter(path).and_then(|rest| self.root.search(rest, &mut take)) {
            Some(found) => Match::Route(found),
            None if other_methods => Match::OtherMethods,
            None => Match::Nothing,
        }
    }

    /// The methods of all templates that match a path; sorted, each once.
    pub(super) fn methods<'a>(&'a self, path: &str) -> Vec<&'a str> {
        let mut names = Vec::new();
        let mut collect = |methods: &'a Methods| {
            names.extend(methods.named.iter().map(|(name, _)| &**name));
            None
        };
        // No route without a method is on the way: `find` would have found that.
        let _ = enter(path).and_then(|rest| self.root.search(rest, &mut collect));
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// All routes with the slots of their services, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_id.values().map(|(route, _)| route)
    }

    /// Whether nothing was put or removed since one was a clone of the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.by_id.ptr_eq(&other.by_id)
    }

    /// Puts a route where there is none with its id.
    pub(super) fn put(&mut self, route: &Arc<Route>, slot: u32) {
        let strip = match &route.matches {
            RouteMatch::Prefix { path, strip: true } if path.as_str() != "/" => path.as_str().len(),
            _ => 0,
        };
        let subset = Subset { versions: route.versions.as_slice().into(), ..Subset::default() };
        let target = Arc::new(RouteTarget { id: Arc::clone(&route.id), slot, subset, strip });
        let place = Place::of(&route.matches);
        Arc::make_mut(&mut self.root).put(&place.segments, &place, target);
        self.by_id.insert(Arc::clone(&route.id), (Arc::clone(route), slot));
    }

    /// Removes a route, and returns it with the slot of its service.
    pub(super) fn remove(&mut self, id: &str) -> Option<(Arc<Route>, u32)> {
        let (route, slot) = self.by_id.remove(id)?;
        let place = Place::of(&route.matches);
        Arc::make_mut(&mut self.root).remove(&place.segments, &place);
        Some((route, slot))
    }
}

/// What follows the first slash. `Some(None)` where nothing does; `None` where there is no slash.
fn enter(path: &str) -> Option<Option<&str>> {
    let rest = path.strip_prefix('/')?;
    Some((!rest.is_empty()).then_some(rest))
}

/// Where in the tree a route belongs.
struct Place<'a> {
    segments: Vec<Step>,
    end: End<'a>,
}

enum Step {
    Literal(Text),
    Parameter,
}

enum End<'a> {
    Prefix,
    Rest(Option<&'a str>),
    Exact(Option<&'a str>),
    ExactSlash(Option<&'a str>),
}

impl<'a> Place<'a> {
    fn of(matches: &'a RouteMatch) -> Self {
        match matches {
            RouteMatch::Prefix { path, .. } => Self {
                segments: path.segments().map(|text| Step::Literal(Text::from(text))).collect(),
                end: End::Prefix,
            },
            RouteMatch::Template(template) => Self::of_template(template),
        }
    }

    fn of_template(template: &'a EndpointTemplate) -> Self {
        let method = template.method();
        let mut end = if template.trailing_slash() { End::ExactSlash(method) } else { End::Exact(method) };
        let mut segments = Vec::with_capacity(template.segments().len());
        for segment in template.segments() {
            match segment {
                Segment::Literal(text) => segments.push(Step::Literal(Text::from(&**text))),
                Segment::Parameter => segments.push(Step::Parameter),
                Segment::Rest => end = End::Rest(method),
            }
        }
        Self { segments, end }
    }
}

/// The routes that end at one place, by method.
#[derive(Clone, Debug, Default)]
struct Methods {
    named: Vec<(Arc<str>, Arc<RouteTarget>)>,
    any: Option<Arc<RouteTarget>>,
}

impl Methods {
    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.any.is_none()
    }

    fn find(&self, method: &str) -> Option<&RouteTarget> {
        let named = |wanted: &str| self.named.iter().find(|(name, _)| **name == *wanted);
        let head_by_get = || if method == "HEAD" { named("GET") } else { None };
        let found = named(method).or_else(head_by_get).map(|(_, target)| target);
        found.or(self.any.as_ref()).map(Arc::as_ref)
    }

    fn set(&mut self, method: Option<&str>, target: Option<Arc<RouteTarget>>) {
        let Some(method) = method else {
            self.any = target;
            return;
        };
        self.named.retain(|(name, _)| **name != *method);
        self.named.extend(target.map(|target| (Arc::from(method), target)));
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    literals: TextMap<Arc<Node>>,
    parameter: Option<Arc<Node>>,
    exact: Methods,
    /// Templates that end here with a slash.
    exact_slash: Methods,
    /// Templates that match all that follows.
    rest: Methods,
    prefix: Option<Arc<RouteTarget>>,
}

impl Node {
    /// `rest` is what follows this node's segments and a slash; `None` where the path ends without one.
    /// `take` says which of the routes at one place fits.
    fn search<'a>(
        &'a self,
        rest: Option<&str>,
        take: &mut impl FnMut(&'a Methods) -> Option<&'a RouteTarget>,
    ) -> Option<&'a RouteTarget> {
        let closer = match rest {
            None => take(&self.exact),
            Some("") => take(&self.exact_slash),
            Some(rest) => {
                let (segment, below) =
                    rest.split_once('/').map_or((rest, None), |(segment, below)| (segment, Some(below)));
                let literal = self.literals.get(segment);
                let parameter = self.parameter.as_ref().filter(|_| !segment.is_empty());
                literal
                    .and_then(|node| node.search(below, take))
                    .or_else(|| parameter.and_then(|node| node.search(below, take)))
            }
        };
        closer.or_else(|| take(&self.rest)).or(self.prefix.as_deref())
    }

    fn is_empty(&self) -> bool {
        let Self { literals, parameter, exact, exact_slash, rest, prefix } = self;
        let ends = [exact, exact_slash, rest];
        literals.is_empty()
            && parameter.is_none()
            && prefix.is_none()
            && ends.into_iter().all(Methods::is_empty)
    }

    fn put(&mut self, way: &[Step], place: &Place<'_>, target: Arc<RouteTarget>) {
        match way {
            [] => self.end(&place.end, Some(target)),
            [Step::Parameter, below @ ..] => {
                Arc::make_mut(self.parameter.get_or_insert_default()).put(below, place, target);
            }
            [Step::Literal(text), below @ ..] => {
                let child = self.literals.entry(text.clone()).or_default();
                Arc::make_mut(child).put(below, place, target);
            }
        }
    }

    fn remove(&mut self, way: &[Step], place: &Place<'_>) {
        match way {
            [] => self.end(&place.end, None),
            [Step::Parameter, below @ ..] => {
                let Some(child) = &mut self.parameter else { return };
                let child = Arc::make_mut(child);
                child.remove(below, place);
                if child.is_empty() {
                    self.parameter = None;
                }
            }
            [Step::Literal(text), below @ ..] => {
                let Some(child) = self.literals.get_mut(text) else { return };
                let child = Arc::make_mut(child);
                child.remove(below, place);
                if child.is_empty() {
                    self.literals.remove(text);
                }
            }
        }
    }

    fn end(&mut self, end: &End<'_>, target: Option<Arc<RouteTarget>>) {
        match end {
            End::Prefix => self.prefix = target,
            End::Rest(method) => self.rest.set(*method, target),
            End::Exact(method) => self.exact.set(*method, target),
            End::ExactSlash(method) => self.exact_slash.set(*method, target),
        }
    }
}
