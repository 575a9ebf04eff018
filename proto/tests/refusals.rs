//! What is said of manifests, word for word and with its place: `refusals/*.md`, case by case.
//!
//! A case is a heading, documents, and what is said when all of them are declared at once, the first ones first:
//!
//! ````text
//! ## what the rule is
//! ```yaml
//! ...
//! ```
//! ```text
//! error a.yaml:3:1: HTTPRoute default/shop: spec.rules: ...
//! ```
//! ````
//!
//! An empty answer means that nothing is found. `yaml before` is what was declared before, `delete` names what of that is
//! deleted. `cargo test -p waypost-proto
//! --test refusals -- --ignored` writes what is said into the files; look at the difference before you commit it.
//!
//! Deliberately absent: what is too large to read here (see the tests beside the code).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use waypost_proto::{
    resource::{
        Finding, Parsed, ResourceKey, Severity, check,
        check::{Member, Resources},
        parse, place,
    },
    v1::Document,
};

/// A case of a file.
#[derive(Debug, Default)]
struct Case {
    heading: String,
    before: Option<String>,
    deleted: String,
    documents: String,
    said: String,
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals");
    let entries = fs::read_dir(folder).expect("the folder of cases");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The text above the first case, and the cases.
fn cases(path: &Path) -> (String, Vec<Case>) {
    let text = fs::read_to_string(path).expect("a file of cases");
    let mut parts = text.split("\n## ");
    let preface = parts.next().unwrap_or_default().to_owned();
    let case = |part: &str| {
        let (heading, body) = part.split_once('\n').unwrap_or((part, ""));
        let mut case = Case { heading: heading.to_owned(), ..Case::default() };
        let mut blocks = body.split("```");
        blocks.next();
        while let Some(block) = blocks.next() {
            let (info, text) = block.split_once('\n').unwrap_or((block, ""));
            match info {
                "yaml" => text.clone_into(&mut case.documents),
                "yaml before" => case.before = Some(text.to_owned()),
                "delete" => text.clone_into(&mut case.deleted),
                "text" => text.clone_into(&mut case.said),
                other => panic!("{}: {heading}: a block of {other:?}", path.display()),
            }
            blocks.next();
        }
        case
    };
    (preface, parts.map(case).collect())
}

fn read(text: &str) -> Result<Vec<Parsed>, Vec<Finding>> {
    // In a file of cases a tab or a NUL would be invisible.
    let text = text.replace("␉", "\t").replace("␀", "\0");
    parse(&[Document { source: "a.yaml".to_owned(), text }])
}

/// Resources, each a second younger than the one before it.
fn members(parsed: &[Parsed], from: u64) -> impl Iterator<Item = Member<'_>> {
    (from..).zip(parsed).map(|(second, parsed)| Member {
        manifest: &parsed.manifest,
        created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
    })
}

/// What is said of a case, one line for each finding.
fn said(case: &Case) -> String {
    let findings = read(&case.documents).map_or_else(
        |findings| findings,
        |parsed| {
            let earlier = case.before.as_deref().map_or_else(Vec::new, |text| {
                read(text).unwrap_or_else(|findings| panic!("{}: {findings:?}", case.heading))
            });
            let deleted: BTreeSet<ResourceKey> =
                case.deleted.lines().map(|line| line.parse().expect("KIND/NAMESPACE/NAME")).collect();
            let mut changed: BTreeSet<ResourceKey> =
                parsed.iter().map(|parsed| parsed.manifest.key().clone()).collect();
            let before: Resources<'_> = members(&earlier, 0).collect();
            let after: BTreeMap<&ResourceKey, Member<'_>> = members(&parsed, 1000)
                .chain(members(&earlier, 0).filter(|member| !deleted.contains(member.manifest.key())))
                .fold(BTreeMap::new(), |mut after, member| {
                    // What is declared again keeps its age.
                    let held = after.entry(member.manifest.key()).or_insert(member);
                    held.created_at = held.created_at.min(member.created_at);
                    after
                });
            changed.extend(deleted);
            let mut findings = check(&before, &after.into_values().collect(), &changed);
            place(&parsed, &mut findings);
            findings
        },
    );
    let line = |finding: &Finding| match finding.severity {
        Severity::Error => format!("error {finding}\n"),
        Severity::Warning => format!("warning {finding}\n"),
    };
    findings.iter().map(line).collect()
}

#[test]
fn what_is_said_is_what_is_written() {
    let mut wrong = String::new();
    for path in files() {
        let (_, cases) = cases(&path);
        for case in cases {
            let said = said(&case);
            if said != case.said {
                let name = path.file_name().unwrap_or_default().display();
                let expected = &case.said;
                let _ = write!(wrong, "{name}: {}\nis written:\n{expected}is said:\n{said}\n", case.heading);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
#[ignore = "writes what is said into the files of cases"]
fn write_what_is_said() {
    for path in files() {
        let (mut text, cases) = cases(&path);
        for case in cases {
            let said = said(&case);
            let _ = write!(text, "\n## {}\n", case.heading);
            let blocks = [("yaml before", case.before.as_deref().unwrap_or_default())];
            let blocks = blocks.into_iter().chain([("delete", &*case.deleted), ("yaml", &*case.documents)]);
            for (info, block) in blocks.filter(|(_, block)| !block.is_empty()).chain([("text", &*said)]) {
                let _ = write!(text, "```{info}\n{block}```\n");
            }
        }
        fs::write(&path, text).expect("the file of cases");
    }
}
