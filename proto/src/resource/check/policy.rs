//! Policies that are attached to services (GEP-713): whether what they are for is there, and which of several counts.

use super::{
    Member, Resources,
    problem::{Cause, Problem},
    reference::{self, Named},
};
use crate::resource::{FieldPath, Finding, backend::BackendKind, policy::PolicyTarget};

/// The targets of a policy. Of two policies of one kind for a service the older one counts.
pub(super) fn targets<'a>(
    set: &Resources<'a>,
    member: Member<'a>,
    targets: &'a [PolicyTarget],
    found: &mut Vec<Problem<'a>>,
) {
    let subject = member.manifest.key();
    let path = FieldPath::spec();
    for (index, target) in targets.iter().enumerate() {
        let at = || path.item("targetRefs", index);
        if target.backend_kind() == Some(BackendKind::ExternalService) {
            let to = Named { group: &target.group, kind: &target.kind, namespace: None, name: &target.name };
            reference::external(set, subject, &to, &at, found);
        }
        let rivals = set.policies(subject.kind(), member.namespace(), &target.name);
        let first = rivals.iter().min_by_key(|rival| rival.precedence());
        if let Some(first) = first.map(|first| first.manifest.key()).filter(|first| *first != subject) {
            let reason =
                format!("is the target of {first} as well, which is older or first by name: that one counts");
            let finding = Finding::warning(at(), reason).value(&target.name);
            found.push(Problem::with(subject, finding, Cause::of(first)));
        }
    }
}
