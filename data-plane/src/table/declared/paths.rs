//! The rules at one hostname, by path.
//!
//! An exact path beats a regular expression, which beats a prefix, of which the longest wins. Where nothing fits
//! among those of one path, the next one is looked at. Changed by copying the way to what changes.

use std::sync::Arc;

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::{
    Observer, RequestView,
    candidate::{Failed, PathMatch, Placed},
    hosts::Keep,
};
use crate::table::text_map::TextMap;

/// A rule that takes a request, and how many bytes of the path its prefix has taken.
pub(super) type Hit<'a> = (&'a Placed, usize);

/// Those of one path, in the order in which they are looked at. There is one as a rule, which then lies in the map.
type Sorted = SmallVec<[Placed; 1]>;

/// The rules at one hostname. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    exact: TextMap<Sorted>,
    regexes: Sorted,
    prefixes: Prefixes,
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
        self.prefixes.find(0, request, observer)
    }

    /// Puts a match of a rule.
    pub(super) fn put(&mut self, placed: Placed) {
        let sorted = match &placed.candidate.path {
            PathMatch::Exact(path) => self.exact.entry(SmolStr::new(path)).or_default(),
            PathMatch::Regex(..) => &mut self.regexes,
            PathMatch::Prefix(path) => self.prefixes.at(path),
        };
        let at =
            sorted.partition_point(|before| before.candidate.precedence() <= placed.candidate.precedence());
        sorted.insert(at, placed);
    }

    /// Removes a match of a rule. What is empty then need not be kept.
    pub(super) fn remove(&mut self, placed: &Placed) -> Keep {
        match &placed.candidate.path {
            PathMatch::Exact(path) => {
                if self.exact.get_mut(&**path).is_some_and(|sorted| remove(sorted, placed)) {
                    self.exact.remove(&**path);
                }
            }
            PathMatch::Regex(..) => {
                remove(&mut self.regexes, placed);
            }
            PathMatch::Prefix(path) => self.prefixes.remove(path, placed),
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
        let failed = placed.failed_by(request);
        observer.considered(placed, failed);
        failed.is_none()
    })
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

/// Prefixes as a tree of segments.
#[derive(Clone, Debug, Default)]
struct Prefixes {
    below: Below,
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
            node = node.below.at(segment);
        }
        &mut node.here
    }

    fn remove(&mut self, prefix: &str, placed: &Placed) {
        let Some(rest) = prefix.strip_prefix('/') else {
            remove(&mut self.here, placed);
            return;
        };
        let length = rest.find('/').unwrap_or(rest.len());
        let Some(node) = self.below.get_mut(&rest[..length]) else { return };
        node.remove(&rest[length..], placed);
        if node.is_empty() {
            self.below.remove(&rest[..length]);
        }
    }

    fn is_empty(&self) -> bool {
        self.below.is_empty() && self.here.is_empty()
    }
}

/// What follows a segment. A map has room for sixteen at least, and mostly it is one.
#[derive(Clone, Debug, Default)]
enum Below {
    #[default]
    Nothing,
    One(Arc<(SmolStr, Prefixes)>),
    Many(TextMap<Prefixes>),
}

impl Below {
    fn get(&self, segment: &str) -> Option<&Prefixes> {
        match self {
            Self::One(one) if one.0 == segment => Some(&one.1),
            Self::Many(many) => many.get(segment),
            Self::Nothing | Self::One(_) => None,
        }
    }

    fn get_mut(&mut self, segment: &str) -> Option<&mut Prefixes> {
        match self {
            Self::One(one) if one.0 == segment => Some(&mut Arc::make_mut(one).1),
            Self::Many(many) => many.get_mut(segment),
            Self::Nothing | Self::One(_) => None,
        }
    }

    /// What is below a segment, made where there is nothing.
    fn at(&mut self, segment: &str) -> &mut Prefixes {
        if let Self::One(one) = self
            && one.0 != segment
        {
            *self = Self::Many([Arc::unwrap_or_clone(std::mem::take(one))].into_iter().collect());
        }
        if self.is_empty() {
            *self = Self::One(Arc::new((SmolStr::new(segment), Prefixes::default())));
        }
        match self {
            Self::One(one) => &mut Arc::make_mut(one).1,
            Self::Many(many) => many.entry(SmolStr::new(segment)).or_default(),
            Self::Nothing => unreachable!("there is one now"),
        }
    }

    fn remove(&mut self, segment: &str) {
        match self {
            Self::One(one) if one.0 == segment => *self = Self::Nothing,
            Self::Many(many) => drop(many.remove(segment)),
            Self::Nothing | Self::One(_) => {}
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::One(_) => false,
            Self::Many(many) => many.is_empty(),
        }
    }
}
