//! What speaks for instances whose lease has lapsed: that proxies of this control plane, or of another one, see them
//! answer.

use std::time::Duration;

use waypost_proto::{time, v1};

use super::Replicas;
use crate::registry::{Evidence, Failing, InQuestion, Seen};

#[tonic::async_trait]
impl Evidence for Replicas {
    fn failing(&self) -> Vec<Failing> {
        self.hub.failing()
    }

    /// Others are asked only about those that our own proxies see no answers of.
    async fn of(&self, asked: &[InQuestion]) -> Vec<Option<Seen>> {
        let own = self.hub.sightings(asked);
        let open = |(_, seen): &(&InQuestion, &v1::Sightings)| seen.answering == 0;
        let rest: Vec<InQuestion> = asked.iter().zip(&own).filter(open).map(|(one, _)| one.clone()).collect();
        let nothing = vec![v1::Sightings::default(); rest.len()];
        let mut others = self.with_those_of_others(&rest, nothing).await.into_iter();
        let all = own.into_iter().map(|own| match own.answering {
            0 => others.next().unwrap_or_default(),
            _ => own,
        });
        all.map(|sightings| seen(&sightings)).collect()
    }
}

/// What speaks for an instance, if anything does.
fn seen(sightings: &v1::Sightings) -> Option<Seen> {
    let ago = sightings.answered_ago.as_ref().and_then(time::duration);
    (sightings.answering > 0)
        .then(|| Seen { proxies: sightings.answering, ago: ago.unwrap_or(Duration::ZERO) })
}
