//! `waypost apply`, `diff` and `delete`: what changes declared resources, or says what would.

use waypost_proto::{
    resource::{self, ResourceKey},
    time::wire_duration,
    v1::{
        AppliedResource, ApplyOutcome, ApplyRequest, ApplyResponse, DeleteResourcesRequest, Document,
        ResourceFinding,
    },
};

use super::lint::refused;
use crate::{
    api,
    args::{
        Global,
        resource::{ApplyArgs, Change, DeleteArgs, DiffArgs},
    },
    failure::{Exit, Failure},
    manifest::{difference, read, secret},
    output::{Output, table, text},
};

/// Declares what documents say.
///
/// # Errors
/// Something in them is wrong, or not every proxy has applied it in time.
pub(super) async fn apply(global: &Global, output: &Output, args: ApplyArgs) -> Result<(), Failure> {
    let documents = read::documents(&args.sources.filenames, args.sources.recursive)?;
    say_namespace(global, output);
    let client = api::client(global)?;
    let request = ApplyRequest {
        documents,
        dry_run: args.change.dry_run,
        actor: String::new(),
        wait: args.change.wait.map(wire_duration),
        preview: false,
    };
    let answer = client.apply(request).await?;
    applied(output, answer, args.change)
}

/// Says what became of each resource, and fails where a proxy has not applied it in time.
///
/// # Errors
/// See [`apply`].
pub(super) fn applied(output: &Output, mut answer: ApplyResponse, change: Change) -> Result<(), Failure> {
    warn(output, &answer.warnings);
    if output.format.is_table() {
        for resource in &answer.resources {
            output.line(format!("{}{}", outcome(resource), dry(change)))?;
        }
        if !change.dry_run && answer.waiting_for.is_empty() {
            output.line(in_force(answer.revision, change))?;
        }
    } else {
        redact(&mut answer)?;
        output.document(&answer)?;
    }
    waited(answer.revision, &answer.waiting_for)
}

/// Shows what `apply` would change.
///
/// # Errors
/// Something would change, which has the exit code 1; any other failure has another one.
pub(super) async fn diff(global: &Global, output: &Output, args: DiffArgs) -> Result<(), Failure> {
    let differs = compare(global, output, args).await.map_err(|failure| match failure.exit {
        // 1 is taken: it means that something differs.
        Exit::Failed if !failure.broken_pipe => Failure { exit: Exit::Usage, ..failure },
        _ => failure,
    })?;
    if differs { Err(Failure::silent(Exit::Failed)) } else { Ok(()) }
}

async fn compare(global: &Global, output: &Output, args: DiffArgs) -> Result<bool, Failure> {
    let documents = read::documents(&args.sources.filenames, args.sources.recursive)?;
    say_namespace(global, output);
    let client = api::client(global)?;
    let request = ApplyRequest { documents, dry_run: true, ..Default::default() };
    let mut answer = client.apply(request).await?;
    warn(output, &answer.warnings);
    let differs = answer.resources.iter().any(|resource| resource.before != resource.after);
    if output.format.is_table() {
        for resource in &answer.resources {
            let name = name(resource);
            let names = [format!("{name} (declared)"), format!("{name} (to apply)")];
            let shown = difference::unified(&resource.before, &resource.after, [&names[0], &names[1]])?;
            for line in shown.lines() {
                output.line(coloured(line, output.colour()))?;
            }
        }
    } else {
        redact(&mut answer)?;
        output.document(&answer)?;
    }
    Ok(differs)
}

/// Removes resources.
///
/// # Errors
/// One is not there, another one needs it, or not every proxy has applied it in time.
pub(super) async fn delete(global: &Global, output: &Output, args: DeleteArgs) -> Result<(), Failure> {
    let keys = match &args.target {
        Some(target) => named(target, &args.names, api::namespace(global))?,
        None => written(&read::documents(&args.filenames, args.recursive)?)?,
    };
    let client = api::client(global)?;
    let request = DeleteResourcesRequest {
        keys: keys.iter().map(ResourceKey::to_wire).collect(),
        dry_run: args.change.dry_run,
        actor: String::new(),
        wait: args.change.wait.map(wire_duration),
    };
    let answer = client.delete_resources(request).await?;
    warn(output, &answer.warnings);
    if output.format.is_table() {
        for key in &keys {
            output.line(format!("{key} deleted{}", dry(args.change)))?;
        }
        if !args.change.dry_run && answer.waiting_for.is_empty() {
            output.line(in_force(answer.revision, args.change))?;
        }
    } else {
        output.document(&answer)?;
    }
    waited(answer.revision, &answer.waiting_for)
}

fn named(
    target: &crate::args::resource::Target,
    names: &[String],
    namespace: &str,
) -> Result<Vec<ResourceKey>, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let kind =
        target.kind.ok_or_else(|| usage("`all` cannot be deleted; name a kind and names".to_owned()))?;
    let names = target.names(names).map_err(usage)?;
    if names.is_empty() {
        return Err(usage(format!("which {kind}? names must follow"))
            .way_out(format!("see what there is with: waypost get {}", kind.name().to_lowercase())));
    }
    let key = |name: &String| ResourceKey::new(kind, namespace, name);
    names.iter().map(key).collect::<Result<_, _>>().map_err(|violation| {
        usage(format!("the {} {:?} {}", violation.field, violation.value, violation.rule))
    })
}

fn written(documents: &[Document]) -> Result<Vec<ResourceKey>, Failure> {
    let parsed = resource::parse(documents).map_err(|findings| refused(&findings))?;
    if parsed.is_empty() {
        return Err(Failure::new(Exit::Usage, "the documents name no resource"));
    }
    Ok(parsed.iter().map(|resource| resource.manifest.key().clone()).collect())
}

/// Documents name their namespaces themselves; that is easily forgotten.
pub(super) fn say_namespace(global: &Global, output: &Output) {
    if let Some(namespace) = &global.namespace {
        output.note(format!(
            "documents name their namespaces themselves: --namespace {namespace} does not change them"
        ));
    }
}

/// Writes what works and is likely not what was meant to standard error.
pub(super) fn warn(output: &Output, warnings: &[ResourceFinding]) {
    let word = table::paint("warning:", Some(table::Colour::Yellow), output.colour_notes());
    for warning in warnings {
        output.note(format!("{word} {}", table::harmless(&finding(warning))));
    }
}

/// Where, of what, what, and what would be right.
pub(super) fn finding(found: &ResourceFinding) -> String {
    let place = match (found.line, found.column) {
        (0, _) => found.source.clone(),
        (line, 0) => format!("{}:{line}", found.source),
        (line, column) => format!("{}:{line}:{column}", found.source),
    };
    let parts = [place, found.resource.clone(), found.field.clone(), found.reason.clone()];
    let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let suggestion =
        if found.suggestion.is_empty() { String::new() } else { format!("; {}", found.suggestion) };
    format!("{}{suggestion}", said.join(": "))
}

fn outcome(resource: &AppliedResource) -> String {
    let done = match resource.outcome() {
        ApplyOutcome::Created => "created",
        ApplyOutcome::Configured => "configured",
        ApplyOutcome::Unchanged | ApplyOutcome::Unspecified => "unchanged",
    };
    format!("{} {done}, generation {}", name(resource), resource.generation)
}

fn name(resource: &AppliedResource) -> String {
    text::resource(resource.key.as_ref())
}

fn dry(change: Change) -> &'static str {
    if change.dry_run { " (dry run)" } else { "" }
}

fn in_force(revision: u64, change: Change) -> String {
    match change.wait {
        Some(_) => format!("revision {revision} is applied by every live proxy"),
        None => format!(
            "in force as of revision {revision}; wait for proxies with: waypost wait --revision {revision}"
        ),
    }
}

fn waited(revision: u64, waiting_for: &[String]) -> Result<(), Failure> {
    if waiting_for.is_empty() {
        return Ok(());
    }
    let proxies = waiting_for.join(", ");
    let message = format!("revision {revision} is declared, and not applied in time by: {proxies}");
    Err(Failure::new(Exit::DeadlinePassed, message)
        .way_out("see what the proxies do with: waypost proxies -o wide"))
}

fn redact(answer: &mut ApplyResponse) -> Result<(), Failure> {
    for resource in &mut answer.resources {
        secret::redact_text(&mut resource.before)?;
        secret::redact_text(&mut resource.after)?;
    }
    Ok(())
}

fn coloured(line: &str, wanted: bool) -> String {
    let colour = match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => None,
        [b'+', ..] => Some(table::Colour::Green),
        [b'-', ..] => Some(table::Colour::Red),
        [b'@', ..] => Some(table::Colour::Grey),
        _ => None,
    };
    table::paint(&table::harmless(line), colour, wanted)
}
