//! Documents: whatever the text, it is read or refused; what is read is stored and read again as the same.

use waypost_proto::{
    resource::{Finding, Manifest, lint, parse},
    v1::Document,
};

use super::text;

fn look_at(findings: &[Finding]) {
    for finding in findings {
        assert!(!finding.reason.is_empty());
        assert!(!finding.to_string().is_empty());
        let _ = finding.to_wire();
        let _ = finding.to_violation();
    }
}

/// Holds the promise for a text.
pub fn run(bytes: &[u8]) {
    let text = text(bytes);
    let document = Document { source: "a.yaml".to_owned(), text: text.to_owned() };
    match parse(&[document]) {
        Ok(parsed) => {
            for resource in &parsed {
                let stored = resource.manifest.json();
                let again = Manifest::from_json(stored).expect("what is stored can be read");
                assert_eq!(again.json(), stored);
                assert!(again == *resource.manifest);
            }
            look_at(&lint(&parsed));
        }
        Err(findings) => {
            assert!(!findings.is_empty());
            look_at(&findings);
        }
    }
    let _ = Manifest::from_json(text);
}
