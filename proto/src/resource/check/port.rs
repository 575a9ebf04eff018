//! Ports: all Gateways stand on the same proxies, so a port of one is that of all.
//!
//! Of two listeners that cannot have one port, the older Gateway's stays; the other one is not served.

use super::{
    Member, Resources,
    problem::{Cause, Problem},
};
use crate::resource::{FieldPath, Finding, gateway::Gateway};

/// Whether the listeners of a Gateway can be beside those of older ones.
pub(super) fn gateway<'a>(
    set: &Resources<'a>,
    member: Member<'a>,
    gateway: &'a Gateway,
    found: &mut Vec<Problem<'a>>,
) {
    let subject = member.manifest.key();
    for (index, listener) in gateway.listeners.iter().enumerate() {
        let older = set
            .at_port(listener.port)
            .iter()
            .filter(|(other, _)| other.manifest.key() != subject && other.precedence() < member.precedence());
        for (other, rival) in older {
            let at = FieldPath::spec().item("listeners", index);
            let whose = format!("listener {} of {}", rival.name, other.manifest.key());
            let finding = if rival.protocol != listener.protocol {
                let reason = format!(
                    "speaks {} at {whose}; all Gateways share the proxies' ports",
                    rival.protocol.name()
                );
                let how = format!("choose another port, or the protocol {}", rival.protocol.name());
                Finding::error(at.key("port"), reason).value(listener.port).suggest(how)
            } else if rival.hostname == listener.hostname {
                let reason = format!("is that of {whose}, at the same port");
                let finding = Finding::error(at.key("hostname"), reason);
                let shown = listener.hostname.as_deref().unwrap_or("any host");
                finding.value(shown).suggest("attach the routes there, or choose another port or hostname")
            } else {
                continue;
            };
            found.push(Problem::with(subject, finding, Cause::of(other.manifest.key())));
            break;
        }
    }
}
