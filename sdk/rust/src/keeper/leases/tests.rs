//! When a lease is beaten for, registered again or given up, by a clock that the tests hold.

use super::*;
use proptest::prelude::*;

const INTERVAL: Duration = Duration::from_secs(3);

fn grant(id: LeaseId, epoch: u64) -> Grant {
    let key = format!("users/{id}").parse().expect("a key");
    Grant { key, epoch, ttl: 3 * INTERVAL, interval: INTERVAL }
}

fn result(beat: &v1::Beat, outcome: BeatOutcome) -> v1::BeatResult {
    v1::BeatResult { key: beat.key.clone(), epoch: beat.epoch, outcome: outcome.into() }
}

fn one_lease(now: Instant) -> Leases {
    let mut leases = Leases::default();
    leases.insert(1, grant(1, 7), now);
    leases
}

#[test]
fn a_lease_beats_every_interval_and_at_once_on_a_new_stream() {
    let start = Instant::now();
    let mut leases = one_lease(start);
    assert!(leases.beats(start).is_empty(), "the registration counts as a beat");
    assert_eq!(leases.next_beat(), Some(start + INTERVAL));
    assert_eq!(leases.beats(start + INTERVAL).len(), 1);
    assert!(leases.beats(start + INTERVAL).is_empty());
    leases.start_over(start + INTERVAL);
    assert_eq!(leases.beats(start + INTERVAL).len(), 1);
}

#[test]
fn leases_that_are_nearly_due_go_along() {
    let start = Instant::now();
    let mut leases = one_lease(start);
    leases.insert(2, grant(2, 1), start + INTERVAL / 10);
    leases.insert(3, grant(3, 1), start + INTERVAL / 2);
    assert!(leases.beats(start + INTERVAL - Duration::from_millis(1)).is_empty(), "none is due");
    assert_eq!(leases.beats(start + INTERVAL).len(), 2);
}

#[test]
fn health_is_sent_at_once_and_stays() {
    let start = Instant::now();
    let mut leases = one_lease(start);
    let report = v1::HealthReport { healthy: false, reason: "GET /health answered 500".into() };
    leases.report(1, report.clone(), start);
    for now in [start, start + INTERVAL] {
        assert_eq!(leases.beats(now)[0].health, Some(report.clone()));
    }
}

#[test]
fn a_beat_without_a_result_is_missed_after_its_interval_or_the_patience() {
    let start = Instant::now();
    let mut leases = one_lease(start);
    leases.start_over(start);
    let beats = leases.beats(start);
    assert_eq!(leases.answer_by(Duration::from_secs(1)), Some(start + Duration::from_secs(1)));
    assert_eq!(leases.answer_by(Duration::from_secs(60)), Some(start + INTERVAL));
    leases.beats(start + INTERVAL);
    assert_eq!(leases.answer_by(Duration::from_secs(60)), Some(start + INTERVAL), "the oldest one counts");
    leases.result(&result(&beats[0], BeatOutcome::Renewed), start + INTERVAL);
    assert_eq!(leases.answer_by(Duration::from_secs(60)), None);
}

#[test]
fn an_unknown_lease_is_registered_again_under_a_new_epoch() {
    let now = Instant::now();
    let mut leases = one_lease(now);
    leases.start_over(now);
    let beat = leases.beats(now).remove(0);
    assert_eq!(leases.result(&result(&beat, BeatOutcome::Unknown), now), Some((1, Verdict::Lost)));
    assert_eq!(leases.registrations(now), [1]);
    assert!(leases.registrations(now).is_empty(), "it is handed out once");
    leases.refused(1, now + INTERVAL);
    assert!(leases.registrations(now).is_empty());
    assert_eq!(leases.registrations(now + INTERVAL), [1]);
    assert!(leases.granted(1, grant(1, 8), now));
    assert_eq!(leases.result(&result(&beat, BeatOutcome::Stale), now), None, "that was the old epoch");
    leases.start_over(now);
    assert_eq!(leases.beats(now)[0].epoch, 8);
}

#[test]
fn a_superseded_lease_never_beats_or_registers_again() {
    let now = Instant::now();
    let mut leases = one_lease(now);
    leases.start_over(now);
    let beat = leases.beats(now).remove(0);
    assert_eq!(leases.result(&result(&beat, BeatOutcome::Stale), now), Some((1, Verdict::Superseded)));
    leases.start_over(now);
    assert!(leases.beats(now + INTERVAL).is_empty());
    assert_eq!((leases.next_beat(), leases.next_registration()), (None, None));
    assert_eq!(leases.held().count(), 0);
}

#[test]
fn a_leaving_lease_beats_on_but_is_not_registered_again() {
    let now = Instant::now();
    let mut leases = one_lease(now);
    assert_eq!(leases.leave(1), Leaving::Ready(7));
    leases.start_over(now);
    let beat = leases.beats(now).remove(0);
    assert_eq!(leases.result(&result(&beat, BeatOutcome::Unknown), now), None);
    assert!(leases.registrations(now + INTERVAL).is_empty());
}

#[test]
fn a_lease_that_leaves_while_it_registers_waits_for_the_epoch() {
    let now = Instant::now();
    let mut leases = one_lease(now);
    leases.start_over(now);
    let beat = leases.beats(now).remove(0);
    leases.result(&result(&beat, BeatOutcome::Unknown), now);
    leases.registrations(now);
    assert_eq!(leases.leave(1), Leaving::Later);
    assert!(leases.granted(1, grant(1, 9), now));
    assert_eq!(leases.leave(1), Leaving::Ready(9));
}

#[test]
fn a_grant_that_nobody_wants_is_given_back() {
    let now = Instant::now();
    let mut leases = one_lease(now);
    assert_eq!(leases.remove(1), Some(grant(1, 7)));
    assert!(!leases.granted(1, grant(1, 8), now));
    assert!(leases.is_empty() && leases.by_epoch.is_empty());
}

/// A control plane that forgets leases and refuses registrations, as a script says.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Answer(bool),
    Report,
    NewStream,
    Register(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..4000).prop_map(Step::Wait),
        4 => any::<bool>().prop_map(Step::Answer),
        1 => Just(Step::Report),
        1 => Just(Step::NewStream),
        3 => any::<bool>().prop_map(Step::Register),
    ]
}

proptest! {
    /// Whatever happens, each lease is at any time either due to beat within its interval, or due to be
    /// registered, or in registration; and no beat carries an epoch that is not the newest one granted.
    #[test]
    fn no_lease_is_ever_left_alone(steps in prop::collection::vec(step(), 1..200), count in 1_u64..5) {
        let mut now = Instant::now();
        let mut leases = Leases::default();
        let mut epochs: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for id in 1..=count {
            leases.insert(id, grant(id, 1), now);
            epochs.insert(id, 1);
        }
        let mut unanswered = Vec::new();
        let mut registering = Vec::new();
        for step in steps {
            match step {
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Answer(known) => for beat in unanswered.drain(..) {
                    let outcome = if known { BeatOutcome::Renewed } else { BeatOutcome::Unknown };
                    leases.result(&result(&beat, outcome), now);
                },
                Step::Report => leases.report(1, v1::HealthReport::default(), now),
                Step::NewStream => { leases.start_over(now); unanswered.clear(); }
                Step::Register(works) => for id in registering.drain(..) {
                    if works {
                        let epoch = epochs.get_mut(&id).expect("it is known");
                        *epoch += 1;
                        prop_assert!(leases.granted(id, grant(id, *epoch), now));
                    } else {
                        leases.refused(id, now + INTERVAL);
                    }
                },
            }
            registering.extend(leases.registrations(now));
            for beat in leases.beats(now) {
                let key = beat.key.clone().expect("a key");
                prop_assert_eq!(beat.epoch, epochs[&key.id.parse::<LeaseId>().expect("an id")]);
                unanswered.push(beat);
            }
            for (id, lease) in &leases.leases {
                let cared_for = match lease.phase {
                    Phase::Held { due, .. } => due > now && due <= now + INTERVAL,
                    Phase::Wanted { at } => at > now && at <= now + INTERVAL,
                    Phase::Registering => registering.contains(id),
                    Phase::Over => false,
                };
                prop_assert!(cared_for, "lease {} is in {:?}", id, lease.phase);
            }
            prop_assert_eq!(leases.by_epoch.len(), leases.leases.len());
        }
    }
}
