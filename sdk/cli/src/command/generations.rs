//! `waypost history` and `rollback`: how a resource was before, and back to that.

use std::time::SystemTime;

use waypost_proto::{
    time::wire_duration,
    v1::{Generation, RollbackRequest},
};

use super::declare::applied;
use crate::{
    api,
    args::{
        Global,
        resource::{HistoryArgs, RollbackArgs},
    },
    failure::{Exit, Failure},
    manifest::{difference, secret},
    output::{
        Listed, Output,
        table::{Cell, Colour, Table},
        text,
    },
};

/// Shows the generations of a resource that are remembered.
///
/// # Errors
/// There never was such a resource.
pub(super) async fn history(global: &Global, output: &Output, args: HistoryArgs) -> Result<(), Failure> {
    let key = args.one.key(api::namespace(global)).map_err(|rule| Failure::new(Exit::Usage, rule))?;
    let client = api::client(global)?;
    let mut answer = client.resource_history(key.to_wire()).await?;
    if output.format.is_table() {
        let table = table(&answer.generations, SystemTime::now())?;
        return output.text(&table.render(output.colour()));
    }
    for generation in &mut answer.generations {
        secret::redact_text(&mut generation.manifest)?;
    }
    output.document(&Listed::new(&answer, "generations", answer.generations.len()))
}

/// Declares a resource again as it was.
///
/// # Errors
/// That generation is not remembered, or cannot work any more.
pub(super) async fn rollback(global: &Global, output: &Output, args: RollbackArgs) -> Result<(), Failure> {
    let key = args.one.key(api::namespace(global)).map_err(|rule| Failure::new(Exit::Usage, rule))?;
    let client = api::client(global)?;
    let request = RollbackRequest {
        key: Some(key.to_wire()),
        generation: args.to.unwrap_or_default(),
        dry_run: args.change.dry_run,
        actor: String::new(),
        wait: args.change.wait.map(wire_duration),
    };
    let answer = client.rollback(request).await?;
    applied(output, answer, args.change)
}

/// One row for each, newest first, with what it changed in the one before it.
fn table(generations: &[Generation], now: SystemTime) -> Result<Table, Failure> {
    let mut table = Table::new(&["GENERATION", "REVISION", "AGE", "BY", "CHANGE"]);
    for (at, generation) in generations.iter().enumerate() {
        let before = generations.get(at + 1).map(|before| before.manifest.as_str());
        table.row(vec![
            generation.generation.to_string().into(),
            generation.revision.to_string().into(),
            text::age(now, text::stamp(generation.applied_at.as_ref())).into(),
            generation.actor.as_str().into(),
            change(before, generation)?,
        ]);
    }
    Ok(table)
}

fn change(before: Option<&str>, generation: &Generation) -> Result<Cell, Failure> {
    Ok(match before {
        _ if generation.manifest.is_empty() => Cell::coloured("deleted", Some(Colour::Red)),
        None if generation.generation > 1 => "what was before is not remembered".into(),
        None | Some("") => Cell::coloured("created", Some(Colour::Green)),
        Some(before) => {
            let shown = difference::unified(before, &generation.manifest, ["", ""])?;
            // The first two lines are the names of the sides.
            let count = |sign: char| shown.lines().skip(2).filter(|line| line.starts_with(sign)).count();
            format!("+{} -{} lines", count('+'), count('-')).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn each_generation_says_what_it_changed() {
        let generation = |number: u64, manifest: &str| Generation {
            generation: number,
            manifest: manifest.into(),
            revision: number + 10,
            actor: "ada".into(),
            ..Default::default()
        };
        let past = [
            generation(3, ""),
            generation(2, r#"{"kind":"Secret","data":{"k":"dHdv"}}"#),
            generation(1, r#"{"kind":"Secret","data":{"k":"b25l"}}"#),
        ];
        assert_eq!(
            table(&past, UNIX_EPOCH).expect("JSON").render(false),
            "GENERATION  REVISION  AGE  BY   CHANGE\n\
             3           13        -    ada  deleted\n\
             2           12        -    ada  +1 -1 lines\n\
             1           11        -    ada  created\n"
        );
    }
}
