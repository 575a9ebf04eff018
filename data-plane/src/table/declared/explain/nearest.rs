//! The nearest misses: what comes closest to a request that nothing takes.

use super::{super::Candidate, Declared, Failed, Host, Hostname, Listener, Miss, RequestView};

/// How many are reported.
const MOST: usize = 5;

/// Those that fail the fewest checks; of these, those whose paths have most in common with the request's.
pub(super) fn misses(declared: &Declared, request: &RequestView<'_>, host: &Host) -> Vec<Miss> {
    let mut misses: Vec<((usize, std::cmp::Reverse<usize>), Miss)> = Vec::new();
    for route in declared.routes.values() {
        for (id, names) in &route.attachments {
            let listener = declared.listeners.get(id);
            for candidate in &route.candidates {
                let missed =
                    missed(declared, listener.map(|listener| &**listener), names, candidate, request, host);
                let common = common(candidate.path.text(), request.path);
                let rank = (missed.len(), std::cmp::Reverse(common));
                // A long list of routes leaves few behind.
                let worst = misses.last().map(|(rank, _)| *rank);
                if misses.len() == MOST && worst.is_some_and(|worst| rank >= worst) {
                    continue;
                }
                let at = misses.partition_point(|(before, _)| *before <= rank);
                misses.insert(at, (rank, Miss::of(candidate, id, missed)));
                misses.truncate(MOST);
            }
        }
    }
    misses.into_iter().map(|(_, miss)| miss).collect()
}

/// All that a request fails, in the order in which it is checked.
fn missed(
    declared: &Declared,
    listener: Option<&Listener>,
    names: &[Hostname],
    candidate: &Candidate,
    request: &RequestView<'_>,
    host: &Host,
) -> Vec<String> {
    let mut missed = Vec::new();
    match listener {
        None => missed.push("its listener is not there".to_owned()),
        Some(listener) if listener.port != declared.port(request.port) => {
            missed.push(format!("its listener is at port {}", listener.port));
        }
        Some(listener) if !listener.hostname.takes(host) => {
            missed.push(format!("its listener takes {} alone", listener.hostname));
        }
        Some(_) => {}
    }
    if !names.iter().any(|name| name.takes(host)) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        missed.push(format!("it takes {} alone", names.join(", ")));
    }
    if !candidate.path.fits(request.path) {
        missed.push(Failed::Path.describe(candidate, request));
    }
    missed.extend(candidate.failures(request).map(|failed| failed.describe(candidate, request)));
    missed
}

/// How many bytes two paths have in common at the begin.
fn common(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}
