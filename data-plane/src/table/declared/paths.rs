//! The rules at one hostname, by path.
//!
//! An exact path beats a regular expression, which beats a prefix, of which the longest wins; a gRPC method of any
//! service beats only the prefix that takes every path. Where nothing fits among those of one path, the next one is
//! looked at. Changed by copying the way to what changes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Observer, RequestView,
    candidate::{Failed, PathMatch, Placed, grpc_method},
    hosts::Keep,
};
use crate::table::text_map::{Text, TextMap};

/// A rule that takes a request, and how many bytes of the path its prefix has taken.
pub(super) type Hit<'a> = (&'a Placed, usize);

/// Those of one path, in the order in which they are looked at. There is one as a rule, which then lies in the map.
type Sorted = SmallVec<[Placed; 1]>;

/// The rules at one hostname. A clone shares all but the list of those that take every path.
///
/// Most hostnames have a rule for every path only, which therefore lies beside the hostname.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    some: Option<Arc<SomePaths>>,
    /// Those that take every path: of the prefix without a segment.
    all: Sorted,
}

/// The rules that take some paths.
#[derive(Clone, Debug, Default)]
struct SomePaths {
    exact: TextMap<Sorted>,
    regexes: Sorted,
    prefixes: Prefixes,
    /// By the name of a gRPC method, of any service.
    grpc_methods: TextMap<Sorted>,
}

impl Paths {
    /// The rule that takes a request.
    pub(super) fn find<'a>(
        &'a self,
        request: &RequestView<'_>,
        observer: &mut impl Observer,
    ) -> Option<Hit<'a>> {
        let some = self.some.as_ref().and_then(|some| some.find(request, observer));
        some.or_else(|| first(&self.all, request, observer).map(|placed| (placed, 0)))
    }

    /// Puts a match of a rule.
    pub(super) fn put(&mut self, placed: Placed) {
        let sorted = match &placed.candidate.path {
            PathMatch::Prefix(path) if path.is_empty() => &mut self.all,
            path => Arc::make_mut(self.some.get_or_insert_default()).at(path),
        };
        let at =
            sorted.partition_point(|before| before.candidate.precedence() <= placed.candidate.precedence());
        sorted.insert(at, placed);
    }

    /// Removes a match of a rule. What is empty then need not be kept.
    pub(super) fn remove(&mut self, placed: &Placed) -> Keep {
        let path = &placed.candidate.path;
        if matches!(path, PathMatch::Prefix(path) if path.is_empty()) {
            remove(&mut self.all, placed);
        } else if let Some(some) = &mut self.some
            && Arc::make_mut(some).remove(placed) == Keep::No
        {
            self.some = None;
        }
        Keep::unless(self.some.is_none() && self.all.is_empty())
    }
}

impl SomePaths {
    fn find<'a>(&'a self, request: &RequestView<'_>, observer: &mut impl Observer) -> Option<Hit<'a>> {
        if !self.exact.is_empty()
            && let Some(sorted) = self.exact.get(request.path)
            && let Some(placed) = first(sorted, request, observer)
        {
            return Some((placed, 0));
        }
        for placed in &self.regexes {
            let PathMatch::Regex(_, regex) = &placed.candidate.path else { continue };
            let failed = if regex.is_match(request.path.as_bytes()) {
                placed.failed_by(request)
            } else {
                Some(Failed::Path)
            };
            observer.considered(placed, failed);
            if failed.is_none() {
                return Some((placed, 0));
            }
        }
        self.prefixes.find(request, observer).or_else(|| {
            if self.grpc_methods.is_empty() {
                return None;
            }
            let sorted = self.grpc_methods.get(grpc_method(request.path)?)?;
            first(sorted, request, observer).map(|placed| (placed, 0))
        })
    }

    /// Those of a path that is not every path.
    fn at(&mut self, path: &PathMatch) -> &mut Sorted {
        match path {
            PathMatch::Exact(path) => self.exact.entry(Text::from(&**path)).or_default(),
            PathMatch::Regex(..) => &mut self.regexes,
            PathMatch::Prefix(path) => self.prefixes.at(path),
            PathMatch::GrpcMethod(method) => self.grpc_methods.entry(Text::from(&**method)).or_default(),
        }
    }

    fn remove(&mut self, placed: &Placed) -> Keep {
        match &placed.candidate.path {
            PathMatch::Exact(path) => remove_from(&mut self.exact, path, placed),
            PathMatch::Regex(..) => {
                remove(&mut self.regexes, placed);
            }
            PathMatch::Prefix(path) => self.prefixes.remove(path, placed),
            PathMatch::GrpcMethod(method) => remove_from(&mut self.grpc_methods, method, placed),
        }
        let none_by_text =
            self.exact.is_empty() && self.prefixes.map.is_empty() && self.grpc_methods.is_empty();
        Keep::unless(none_by_text && self.regexes.is_empty())
    }
}

/// The first that a request fits.
fn first<'a>(
    sorted: &'a [Placed],
    request: &RequestView<'_>,
    observer: &mut impl Observer,
) -> Option<&'a Placed> {
    sorted.iter().find(|placed| {
        let failed = placed.failed_by(request);
        observer.considered(placed, failed);
        failed.is_none()
    })
}

/// Removes it from those of a text, and the text with the last of them.
fn remove_from(map: &mut TextMap<Sorted>, text: &str, placed: &Placed) {
    if map.get_mut(text).is_some_and(|sorted| remove(sorted, placed)) {
        map.remove(text);
    }
}

/// Removes it, and says whether nothing is left.
fn remove(sorted: &mut Sorted, placed: &Placed) -> bool {
    let from = sorted.partition_point(|before| before.candidate.precedence() < placed.candidate.precedence());
    let same = |other: &Placed| other.is_of(placed) && other.candidate.place == placed.candidate.place;
    if let Some(at) = sorted[from..].iter().position(same) {
        sorted.remove(from + at);
    }
    sorted.is_empty()
}

/// Rules by prefixes of one segment or more. A request is looked up once for each number of segments that there is.
#[derive(Clone, Debug, Default)]
struct Prefixes {
    map: TextMap<Sorted>,
    /// How many prefixes have one segment, two, and so on. The last is not 0.
    counts: SmallVec<[u32; 4]>,
}

impl Prefixes {
    fn find<'a>(&'a self, request: &RequestView<'_>, observer: &mut impl Observer) -> Option<Hit<'a>> {
        // As many segments as the longest prefix has, if there are so many; and where the last of them ends.
        let (mut segments, mut end) = (0, 0);
        let path = request.path.as_bytes();
        while segments < self.counts.len() && end < path.len() {
            let rest = &path[end + 1..];
            end += 1 + rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            segments += 1;
        }
        while segments > 0 {
            if self.counts[segments - 1] > 0
                && let Some(sorted) = self.map.get(&request.path[..end])
                && let Some(placed) = first(sorted, request, observer)
            {
                return Some((placed, end));
            }
            segments -= 1;
            end = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or_default();
        }
        None
    }

    /// Those of a prefix.
    fn at(&mut self, prefix: &str) -> &mut Sorted {
        self.map.entry(Text::from(prefix)).or_insert_with(|| {
            let index = index(prefix);
            if self.counts.len() <= index {
                self.counts.resize(index + 1, 0);
            }
            self.counts[index] += 1;
            Sorted::new()
        })
    }

    fn remove(&mut self, prefix: &str, placed: &Placed) {
        if !self.map.get_mut(prefix).is_some_and(|sorted| remove(sorted, placed)) {
            return;
        }
        self.map.remove(prefix);
        self.counts[index(prefix)] -= 1;
        while self.counts.last() == Some(&0) {
            self.counts.pop();
        }
    }
}

/// Where a prefix is counted. It has a slash for each of its segments.
fn index(prefix: &str) -> usize {
    prefix.bytes().filter(|byte| *byte == b'/').count() - 1
}
