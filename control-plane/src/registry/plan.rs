//! Plans: from what the registry holds and what is asked for, to the one mutation that does it.
//!
//! A plan is a plain function of a view and the time. The store commits its mutation only if the record is
//! still the one that the plan has seen; otherwise the plan is made again from a newer view.
//!
//! Deliberately absent: I/O; and the wish itself is checked where it comes in.

use std::{sync::Arc, time::Duration};

use waypost_proto::{
    error::{Error, ErrorCode},
    instance::InstanceSpec,
    name::InstanceKey,
    v1::{EventKind, InstanceState},
};

use super::{Beat, Failing, Seen, busy, missing, view::View};
use crate::store::{
    Claim, EmptyService, Event, LeaseChange, Mutation, Now, Override, Record, Renewed, micros,
};

/// Who acts where nobody asked.
pub(super) const CONTROL_PLANE: &str = "control-plane";

/// What to do.
#[derive(Debug)]
pub(super) enum Plan {
    /// Commit this.
    Commit(Box<Mutation>),
    /// It is so already; this revision shows it.
    Done(u64),
}

/// Why a lease is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// Remove the instance.
    Expire,
    /// Hold it as suspect, for this long: it is one of many.
    Hold(Duration),
    /// The same, as proxies see it answer.
    Answering(Duration, Seen),
    /// Remove an instance that was held because it answered, and has not been seen to for so long.
    Quiet(Duration),
}

/// Registers an instance under `epoch`, or a higher one if the instance that it replaces has that.
pub(super) fn register(
    view: &View,
    mut spec: InstanceSpec,
    ttl: Duration,
    client: &str,
    epoch: u64,
    now: Now,
) -> Plan {
    let before = view.record(&spec.key).cloned();
    share(view, &mut spec);
    let claimed_at = |route: &str| view.claimed_at(spec.key.service(), route).unwrap_or(now.wall);
    let claims = Claim::all(&spec, claimed_at);
    let sibling = view.records_of(spec.key.service()).next();
    let claims = match sibling {
        Some(sibling) if *sibling.claims == *claims => sibling.claims.clone(),
        _ => claims.into(),
    };
    let summary = view.services.get(spec.key.service());
    let client: Arc<str> = match sibling {
        Some(sibling) if *sibling.client == *client => sibling.client.clone(),
        _ => Arc::from(client),
    };
    let record = Record {
        epoch: before.as_ref().map_or(epoch, |before| epoch.max(before.epoch + 1)),
        ttl,
        client: client.clone(),
        registered_at: now.wall,
        renewed: Renewed::at(now.wall),
        service_since: summary.map_or(now.wall, |summary| summary.since),
        claims,
        health: None,
        draining: None,
        overridden: before.as_ref().and_then(|before| before.overridden.clone()),
        suspect: None,
        busy: None,
        failing: None,
        found_in: None,
        revision: 0,
        spec: Arc::new(spec),
    };
    let (kind, reason) = match &before {
        None => (EventKind::Registered, format!("new, with a lease of {}", seconds(ttl))),
        Some(before) if before.spec.address == record.spec.address => {
            (EventKind::Replaced, format!("registered again, in place of epoch {}", before.epoch))
        }
        Some(before) => (
            EventKind::Replaced,
            format!("registered again, in place of epoch {} at {}", before.epoch, before.spec.address),
        ),
    };
    let event = event(&record, kind, reason, &client);
    put(record, before.map(|before| before.revision), LeaseChange::Grant, Some(event))
}

/// Takes in what a beat says, beyond that the lease lives. `Done` if that is nothing new.
pub(super) fn beat(view: &View, beat: &Beat) -> Plan {
    let Some(before) = view.record(&beat.key).filter(|record| record.epoch == beat.epoch) else {
        return Plan::Done(view.revision());
    };
    let mut after = Record::clone(before);
    after.suspect = None;
    if let Some(health) = &beat.health {
        after.health = Some(health.clone());
    }
    after.busy = busy::heed(before.busy.as_ref(), beat.load.as_ref());
    let turned = before.healthy() != after.healthy();
    let says_more = !after.healthy() && before.health != after.health;
    let reason = beat.health.as_ref().map(|health| health.reason.clone()).unwrap_or_default();
    let (kind, reason) = match &before.suspect {
        Some(_) => (EventKind::Suspect, "its lease is renewed again".to_owned()),
        None if turned && after.healthy() => (EventKind::Health, labelled("its own check passes", &reason)),
        None if turned => (EventKind::Health, labelled("its own check fails", &reason)),
        None if before.busy != after.busy => (EventKind::Share, after.share_in_words()),
        // The same state for another reason: people see it, the history need not grow by it.
        None if says_more => return put(after, Some(before.revision), LeaseChange::Keep, None),
        None => return Plan::Done(view.revision()),
    };
    let event = event(before, kind, reason, &before.client.clone());
    put(after, Some(before.revision), LeaseChange::Keep, Some(event))
}

/// Has an instance that beats get little while proxies see it fail, or its share again. `Done` if that is so already.
pub(super) fn fail(view: &View, key: &InstanceKey, epoch: u64, failing: Option<&Failing>) -> Plan {
    let concerns =
        |record: &&Arc<Record>| record.epoch == epoch && record.failing.is_some() != failing.is_some();
    let Some(before) = view.record(key).filter(concerns) else { return Plan::Done(view.revision()) };
    let mut after = Record::clone(before);
    after.failing = failing.map(|failing| Arc::from(failing.to_string()));
    let reason = match failing {
        Some(_) => after.share_in_words(),
        None => format!("proxies see it answer again: {}", after.share_in_words()),
    };
    let event = event(before, EventKind::Share, reason, &Arc::from(CONTROL_PLANE));
    put(after, Some(before.revision), LeaseChange::Keep, Some(event))
}

/// Takes an instance out of rotation, or puts it back. An instance that is in that state already stays.
pub(super) fn drain(
    view: &View,
    key: &InstanceKey,
    epoch: u64,
    draining: bool,
    reason: &str,
    actor: &str,
) -> Result<Plan, Error> {
    let before = find(view, key, epoch)?;
    if before.draining.is_some() == draining {
        return Ok(Plan::Done(view.head()));
    }
    let mut after = Record::clone(before);
    after.draining = draining.then(|| Arc::from(reason));
    let what = if draining { "takes no new requests" } else { "is back in rotation" };
    let event = event(before, EventKind::Draining, labelled(what, reason), &Arc::from(actor));
    Ok(put(after, Some(before.revision), LeaseChange::Keep, Some(event)))
}

/// Removes an instance.
pub(super) fn deregister(
    view: &View,
    key: &InstanceKey,
    epoch: u64,
    reason: &str,
    actor: &str,
    now: Now,
) -> Result<Plan, Error> {
    let before = find(view, key, epoch)?;
    let event = event(before, EventKind::Deregistered, labelled("deregistered", reason), &Arc::from(actor));
    Ok(remove(view, before, false, event, now))
}

/// Overrides an instance's state, or ends the override.
pub(super) fn set_override(
    view: &View,
    key: &InstanceKey,
    word: Option<&Override>,
    actor: &str,
) -> Result<Plan, Error> {
    let before = find(view, key, 0)?;
    if before.overridden.as_ref() == word {
        return Ok(Plan::Done(view.head()));
    }
    let mut after = Record::clone(before);
    after.overridden = word.cloned();
    let reason = match word {
        Some(word) => labelled(&format!("overridden to {}", state_name(word.state)), &word.reason),
        None => "the override is ended".to_owned(),
    };
    let event = event(before, EventKind::Override, reason, &Arc::from(actor));
    Ok(put(after, Some(before.revision), LeaseChange::Keep, Some(event)))
}

/// Ends an override whose time is over. `Done` if another one is in force by now.
pub(super) fn end_override(view: &View, key: &InstanceKey, ended: &Override) -> Plan {
    let over = |record: &&Arc<Record>| record.overridden.as_ref() == Some(ended);
    let Some(before) = view.record(key).filter(over) else { return Plan::Done(view.revision()) };
    let mut after = Record::clone(before);
    after.overridden = None;
    let reason = "the override's time is over".to_owned();
    let event = event(before, EventKind::Override, reason, &Arc::from(CONTROL_PLANE));
    put(after, Some(before.revision), LeaseChange::Keep, Some(event))
}

/// Removes or holds an instance whose lease has lapsed. `Done` if it has registered again by now.
pub(super) fn lapse(view: &View, key: &InstanceKey, epoch: u64, lapse: Lapse, now: Now) -> Plan {
    let Some(before) = view.record(key).filter(|record| record.epoch == epoch) else {
        return Plan::Done(view.revision());
    };
    // Another replica may have taken the last beat, which is not noted here.
    let silent = now.wall.duration_since(before.renewed.get()).unwrap_or_default().max(before.ttl);
    let silent = format!("no heartbeat for {}", seconds(silent));
    let actor = Arc::from(CONTROL_PLANE);
    match lapse {
        Lapse::Expire => {
            let ttl = seconds(before.ttl);
            let reason = match &before.suspect {
                Some(_) => format!("{silent}, suspect until the end"),
                None => format!("{silent}, the lease was {ttl}"),
            };
            remove(view, before, true, event(before, EventKind::Expired, reason, &actor), now)
        }
        Lapse::Hold(length) => {
            let why = "but a large share of its service's leases lapsed at the same time";
            hold(before, length, format!("{silent}, {why}: kept for up to {}", seconds(length)))
        }
        Lapse::Answering(length, Seen { proxies, ago }) => {
            let proxies = if proxies == 1 { "a proxy".to_owned() } else { format!("{proxies} proxies") };
            let why = format!("but {proxies} saw it answer {} ago", seconds(ago));
            let reason = format!("{silent}, {why}: kept while it answers, for up to {}", seconds(length));
            hold(before, length, reason)
        }
        Lapse::Quiet(length) => {
            let reason = format!("{silent}, and no proxy has seen an answer for {}", seconds(length));
            remove(view, before, false, event(before, EventKind::Expired, reason, &actor), now)
        }
    }
}

/// Lets an instance whose lease has lapsed stay for a while, as suspect.
fn hold(before: &Record, length: Duration, reason: String) -> Plan {
    let mut after = before.clone();
    after.suspect = Some(Arc::from(reason.as_str()));
    let event = event(before, EventKind::Suspect, reason, &Arc::from(CONTROL_PLANE));
    put(after, Some(before.revision), LeaseChange::Hold(length), Some(event))
}

fn find<'a>(view: &'a View, key: &InstanceKey, epoch: u64) -> Result<&'a Arc<Record>, Error> {
    let record = view.record(key).ok_or_else(|| missing::instance(view, key))?;
    if epoch == 0 || epoch == record.epoch {
        return Ok(record);
    }
    Err(Error::new(
        ErrorCode::StaleEpoch,
        format!(
            "instance {key} lives under epoch {}, registered by {:?}, and not under {epoch}: nothing was changed; \
             leave it to the newer registration, or name no epoch",
            record.epoch, &*record.client
        ),
    ))
}

fn put(record: Record, expected: Option<u64>, lease: LeaseChange, event: Option<Event>) -> Plan {
    Plan::Commit(Box::new(Mutation::Put { record, expected, lease, event }))
}

fn remove(view: &View, before: &Record, lapsed: bool, event: Event, now: Now) -> Plan {
    let service = before.key().service();
    let emptied = EmptyService {
        key: service.clone(),
        since: view.services.get(service).map_or(before.service_since, |summary| summary.since),
        emptied_at: now.wall,
        claims: before.claims.clone(),
        revision: 0,
    };
    let (key, expected) = (before.key().clone(), before.revision);
    Plan::Commit(Box::new(Mutation::Remove { key, expected, lapsed, emptied, event }))
}

fn event(record: &Record, kind: EventKind, reason: String, actor: &Arc<str>) -> Event {
    Event {
        kind,
        instance: record.key().clone(),
        address: Arc::from(record.spec.address.as_str()),
        reason,
        actor: actor.clone(),
        epoch: record.epoch,
    }
}

/// Lets a specification share the text that it has in common with another instance of its service: of ten
/// thousand instances, most differ in their address only.
fn share(view: &View, spec: &mut InstanceSpec) {
    let service = spec.key.service().clone();
    let Some(sibling) = view.records_of(&service).next() else { return };
    let sibling = &sibling.spec;
    if let Ok(key) = InstanceKey::new(sibling.key.service().clone(), spec.key.id()) {
        spec.key = key;
    }
    for (mine, theirs) in [(&mut spec.version, &sibling.version), (&mut spec.zone, &sibling.zone)] {
        if mine == theirs {
            *mine = theirs.clone();
        }
    }
    if spec.prefix == sibling.prefix {
        spec.prefix.clone_from(&sibling.prefix);
    }
    if spec.tags == sibling.tags {
        spec.tags.clone_from(&sibling.tags);
    }
    if spec.endpoints == sibling.endpoints {
        spec.endpoints.clone_from(&sibling.endpoints);
    }
}

fn labelled(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
}

fn seconds(length: Duration) -> String {
    format!("{:.1} s", length.as_secs_f64())
}

fn state_name(state: InstanceState) -> &'static str {
    if state == InstanceState::Up { "up" } else { "down" }
}

/// An epoch that no registration has had before, as far as `greatest` and the clock know.
pub(super) fn next_epoch(greatest: u64, now: Now) -> u64 {
    micros(now.wall).max(greatest + 1)
}
