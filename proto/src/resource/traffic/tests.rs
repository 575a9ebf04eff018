//! What `TRAFFIC.md` promises: its example is good, and its ranges are those that are enforced.

use crate::resource::{
    Manifest, Spec,
    check::lint,
    samples::{good, read, refused},
    traffic::{BackendTrafficPolicy, HashKey, HealthCheck, Probe},
};

const PAGE: &str = include_str!("../TRAFFIC.md");

fn policy(parts: &str) -> String {
    format!(
        "apiVersion: waypost.dev/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: p}}\nspec: \
         {{targetRefs: [{{group: '', kind: Service, name: shop}}], {parts}}}\n"
    )
}

fn spec(manifest: &Manifest) -> BackendTrafficPolicy {
    match manifest.spec() {
        Spec::BackendTrafficPolicy(policy) => BackendTrafficPolicy::clone(policy),
        other => panic!("another kind: {other:?}"),
    }
}

#[test]
fn the_example_is_good_and_has_no_part_without_effect() {
    let example = PAGE.split("```").nth(1).expect("a block").trim_start_matches("yaml\n");
    assert_eq!(lint(&read(example).expect("a good document")), []);
}

/// Fields of the page whose values are a range, as paths below `spec`, with its ends.
fn ranges() -> Vec<(String, String, String)> {
    let mut part = "";
    let mut ranges = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            // One part has the fields of the table; a heading of several has them with their parts.
            let names: Vec<&str> = heading.split('`').skip(1).step_by(2).collect();
            part = if let [only] = names[..] { only } else { "" };
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, field, _, values, _] = cells[..] else { continue };
        let field = field.trim_matches('`');
        let mut words =
            values.split([' ', ',', ';', ':']).skip_while(|word| !word.starts_with(char::is_numeric));
        let (Some(least), Some("to"), Some(most)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let path =
            if part.is_empty() || field == part { field.to_owned() } else { format!("{part}.{field}") };
        ranges.push((path, least.to_owned(), most.to_owned()));
    }
    ranges
}

/// A value a little below or above one, in the same unit; `None` where there is none.
fn beside(value: &str, above: bool) -> Option<String> {
    let digits = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let number: u32 = number.parse().expect("a number");
    let next = if above { number.checked_add(1) } else { number.checked_sub(1) };
    next.map(|next| format!("{next}{unit}"))
}

/// A policy in which nothing stands in the way of a field's extremes.
fn with(path: &str, value: &str) -> String {
    let (part, field) = path.split_once('.').unwrap_or((path, ""));
    let others: &[(&str, &str)] = match part {
        "loadBalancer" => &[("type", "LeastRequest")],
        "healthCheck" => &[("tcp", "{}"), ("interval", "24h"), ("timeout", "1ms")],
        "outlierDetection" => &[("baseEjectionTime", "1ms"), ("maxEjectionTime", "24h")],
        "adaptiveConcurrency" => &[("minimum", "1"), ("maximum", "1000000")],
        _ => &[],
    };
    let others = others.iter().filter(|(name, _)| *name != field);
    let mut fields: Vec<String> = others.map(|(name, value)| format!("{name}: {value}")).collect();
    match field.split_once('.') {
        _ if field.is_empty() => return policy(&format!("{part}: {value}")),
        Some((outer, inner)) => fields.push(format!("{outer}: {{{inner}: {value}}}")),
        None => fields.push(format!("{field}: {value}")),
    }
    policy(&format!("{part}: {{{}}}", fields.join(", ")))
}

#[test]
fn the_ranges_of_the_page_are_those_that_are_enforced() {
    let ranges = ranges();
    assert!(ranges.len() > 30, "the page is read as it is meant: {ranges:?}");
    for (path, least, most) in ranges {
        // Codes and keys are lists; the cases in `tests/refusals` show theirs.
        if path.ends_with("odes") || path.ends_with("Statuses") || path.ends_with("hash") {
            continue;
        }
        for value in [&least, &most] {
            let read = read(&with(&path, value));
            assert!(read.is_ok(), "{path}: {value} is said to be good: {read:?}");
        }
        for value in [beside(&least, false), beside(&most, true)].into_iter().flatten() {
            let said = refused(&with(&path, &value));
            assert!(said.contains(&format!("spec.{path}: ")), "{path}: {value}: {said}");
        }
    }
}

#[test]
fn what_is_one_of_several_is_read_and_written_as_that_one() {
    let probe = |text: &str| spec(&good(&policy(&format!("healthCheck: {text}"))).remove(0)).health_check;
    assert!(matches!(probe("{tcp: {}}"), Some(HealthCheck { probe: Probe::Tcp, .. })));
    let Some(HealthCheck { probe: Probe::Grpc(grpc), .. }) = probe("{grpc: {}}") else { panic!("gRPC") };
    assert_eq!(grpc.service, "");
    let keys = good(&policy("loadBalancer: {type: Maglev, hash: [{clientAddress: true}, {queryParam: q}]}"));
    let keys = spec(&keys[0]).load_balancer.expect("it is there").hash;
    assert_eq!(keys, [HashKey::ClientAddress, HashKey::QueryParam("q".to_owned())]);
    for text in ["{tcp: {}}", "{grpc: {}}", "{http: {path: /a}}"] {
        let manifest = good(&policy(&format!("healthCheck: {text}"))).remove(0);
        assert_eq!(Manifest::from_json(manifest.json()), Ok(manifest));
    }
}

#[test]
fn a_check_is_over_before_the_next_one() {
    let timeout = |text: &str| {
        let manifest = good(&policy(&format!("healthCheck: {{tcp: {{}}{text}}}"))).remove(0);
        spec(&manifest).health_check.expect("it is there").timeout().as_millis()
    };
    assert_eq!(timeout(""), 1000);
    assert_eq!(timeout(", interval: 200ms"), 200);
    assert_eq!(timeout(", interval: 200ms, timeout: 50ms"), 50);
    assert_eq!(timeout(", timeout: 5s"), 5000);
}
