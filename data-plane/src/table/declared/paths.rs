//! The rules at one hostname, by path.
//!
//! An exact path beats a regular expression, which beats a prefix, of which the longest wins. Where nothing fits
//! among those of one path, the next one is looked at. Changed by copying the way to what changes.

use std::sync::Arc;

use imbl::HashMap;

use super::{
    Observer, RequestView,
    candidate::{Failed, PathMatch, Placed},
    hosts::Keep,
};

/// A rule that takes a request, and how many bytes of the path its prefix has taken.
pub(super) type Hit<'a> = (&'a Placed, usize);

/// Those of one path, in the order in which they are looked at.
type Sorted = Arc<Vec<Placed>>;

/// The rules at one hostname. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    exact: HashMap<Arc<str>, Sorted>,
    regexes: Sorted,
    prefixes: Arc<Prefixes>,
}

impl Paths {
    /// The rule that takes a request.
    pub(super) fn find<'a>(
        &'a self,
        request: &RequestView<'_>,
        observer: &mut impl Observer,
    ) -> Option<Hit<'a>> {
        if !self.exact.is_empty()
            && let Some(sorted) = self.exact.get(request.path)
            && let Some(placed) = first(sorted, request, observer)
        {
            return Some((placed, 0));
        }
        for placed in &*self.regexes {
            let PathMatch::Regex(_, regex) = &placed.candidate.path else { continue };
            let failed = if regex.is_match(request.path.as_bytes()) {
                placed.candidate.failed_by(request)
            } else {
                Some(Failed::Path)
            };
            observer.considered(placed, failed);
            if failed.is_none() {
                return Some((placed, 0));
            }
        }
        self.prefixes.find(0, request, observer)
    }

    /// Puts a match of a rule.
    pub(super) fn put(&mut self, placed: Placed) {
        let candidate = Arc::clone(&placed.candidate);
        match &candidate.path {
            PathMatch::Exact(path) => insert(self.exact.entry(Arc::clone(path)).or_default(), placed),
            PathMatch::Regex(..) => insert(&mut self.regexes, placed),
            PathMatch::Prefix(path) => insert(Arc::make_mut(&mut self.prefixes).at(path), placed),
        }
    }

    /// Removes a match of a rule. What is empty then need not be kept.
    pub(super) fn remove(&mut self, placed: &Placed) -> Keep {
        match &placed.candidate.path {
            PathMatch::Exact(path) => {
                if self.exact.get_mut(path).is_some_and(|sorted| remove(sorted, placed)) {
                    self.exact.remove(path);
                }
            }
            PathMatch::Regex(..) => {
                remove(&mut self.regexes, placed);
            }
            PathMatch::Prefix(path) => Arc::make_mut(&mut self.prefixes).remove(path, placed),
        }
        Keep::unless(self.exact.is_empty() && self.regexes.is_empty() && self.prefixes.is_empty())
    }
}

/// The first that a request fits.
fn first<'a>(
    sorted: &'a [Placed],
    request: &RequestView<'_>,
    observer: &mut impl Observer,
) -> Option<&'a Placed> {
    sorted.iter().find(|placed| {
        let failed = placed.candidate.failed_by(request);
        observer.considered(placed, failed);
        failed.is_none()
    })
}

fn insert(sorted: &mut Sorted, placed: Placed) {
    let at = sorted.partition_point(|before| before.candidate.precedence() <= placed.candidate.precedence());
    Arc::make_mut(sorted).insert(at, placed);
}

/// Removes it, and says whether nothing is left.
fn remove(sorted: &mut Sorted, placed: &Placed) -> bool {
    let from = sorted.partition_point(|before| before.candidate.precedence() < placed.candidate.precedence());
    let same = |other: &Placed| other.is_of(placed) && other.candidate.place == placed.candidate.place;
    if let Some(at) = sorted[from..].iter().position(same) {
        Arc::make_mut(sorted).remove(from + at);
    }
    sorted.is_empty()
}

/// Prefixes as a tree of segments.
#[derive(Clone, Debug, Default)]
struct Prefixes {
    below: HashMap<Arc<str>, Arc<Prefixes>>,
    here: Sorted,
}

impl Prefixes {
    /// `end` bytes of the path have led here; what follows is empty or begins with a slash.
    fn find<'a>(
        &'a self,
        end: usize,
        request: &RequestView<'_>,
        observer: &mut impl Observer,
    ) -> Option<Hit<'a>> {
        if !self.below.is_empty()
            && let Some(rest) = request.path[end..].strip_prefix('/')
        {
            let length = rest.find('/').unwrap_or(rest.len());
            if let Some(below) = self.below.get(&rest[..length])
                && let Some(hit) = below.find(end + 1 + length, request, observer)
            {
                return Some(hit);
            }
        }
        first(&self.here, request, observer).map(|placed| (placed, end))
    }

    /// Those of a prefix.
    fn at(&mut self, prefix: &str) -> &mut Sorted {
        let mut node = self;
        for segment in prefix.split('/').skip(1) {
            node = Arc::make_mut(node.below.entry(Arc::from(segment)).or_default());
        }
        &mut node.here
    }

    fn remove(&mut self, prefix: &str, placed: &Placed) {
        let Some(rest) = prefix.strip_prefix('/') else {
            remove(&mut self.here, placed);
            return;
        };
        let length = rest.find('/').unwrap_or(rest.len());
        let Some(below) = self.below.get_mut(&rest[..length]) else { return };
        let node = Arc::make_mut(below);
        node.remove(&rest[length..], placed);
        if node.is_empty() {
            self.below.remove(&rest[..length]);
        }
    }

    fn is_empty(&self) -> bool {
        self.below.is_empty() && self.here.is_empty()
    }
}
