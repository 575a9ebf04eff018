//! Declared resources from the terminal: files in, tables and manifests out, against a control plane that keeps them.

use std::{fs, path::Path, process::Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::{
    declared::Declared,
    fake::Known,
    support::{self, Ran, run},
};

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  hostnames: [shop.example]
  rules:
    - backendRefs: [{name: carts}]
";
const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: tls, annotations: {note: mine}}
type: Opaque
stringData: {password: hunter2-hidden}
";
/// `hunter2-hidden`, as manifests keep it.
const HELD: &str = "aHVudGVyMi1oaWRkZW4";

struct Desk {
    folder: TempDir,
    control_plane: String,
}

impl Desk {
    async fn new(declared: Declared) -> Self {
        let control_plane = Known { declared, ..Known::default() }.serve().await.to_string();
        Self { folder: tempfile::tempdir().expect("a folder"), control_plane }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    async fn ask(&self, args: &[&str]) -> Ran {
        run(&[args, &["--control-plane", &self.control_plane]].concat()).await
    }

    async fn good(&self, args: &[&str]) -> String {
        let ran = self.ask(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran.stdout
    }
}

#[tokio::test]
async fn what_is_applied_can_be_got_described_and_deleted() {
    let desk = Desk::new(Declared::default()).await;
    let file = desk.write("route.yaml", ROUTE);
    let said = desk.good(&["apply", "-f", &file, "--dry-run"]).await;
    assert_eq!(said, "HTTPRoute default/shop created, generation 1 (dry run)\n");
    assert_eq!(desk.ask(&["get", "httproute", "shop"]).await.code, 3, "a dry run keeps nothing");

    let said = desk.good(&["apply", "-f", &file, "--wait"]).await;
    let wanted = "HTTPRoute default/shop created, generation 1\nrevision 8 is applied by every live proxy\n";
    assert_eq!(said, wanted);
    assert!(desk.good(&["apply", "-f", &file]).await.starts_with("HTTPRoute default/shop unchanged"));

    let table = desk.good(&["get", "hr"]).await;
    assert_eq!(
        table,
        "KIND       NAMESPACE  NAME  STATUS                                HOSTNAMES     AGE\n\
         HTTPRoute  default    shop  ResolvedRefs=False (BackendNotFound)  shop.example  -\n"
    );
    for args in
        [&["get", "all"][..], &["get", "HTTPRoutes/shop"], &["get", "httproute", "shop", "-n", "default"]]
    {
        assert!(desk.good(args).await.contains("HTTPRoute  default"), "{args:?}");
    }
    assert_eq!(desk.good(&["get", "gateways"]).await, "");
    let said = desk.good(&["describe", "httproute", "shop"]).await;
    for part in [
        "generation  1, at revision 8",
        "Gateway waypost  ResolvedRefs",
        "there is no service carts",
        "carts",
    ] {
        assert!(said.contains(part), "{part:?} in\n{said}");
    }
    assert_eq!(
        desk.good(&["delete", "-f", &file]).await.lines().next(),
        Some("HTTPRoute default/shop deleted")
    );
    let gone = desk.ask(&["delete", "httproute/shop"]).await;
    assert_eq!((gone.code, gone.stderr.contains("there is no HTTPRoute default/shop")), (3, true));
}

#[tokio::test]
async fn what_was_got_can_be_applied_again() {
    let desk = Desk::new(Declared::default()).await;
    desk.good(&["apply", "-f", &desk.write("route.yaml", ROUTE)]).await;
    for (format, args) in
        [("yaml", &["get", "hr/shop"][..]), ("json", &["get", "hr/shop"]), ("yaml", &["get", "all"])]
    {
        let text = desk.good(&[args, &["-o", format]].concat()).await;
        assert!(text.contains("status") && text.contains("BackendNotFound"), "{text}");
        let file = desk.write(&format!("again.{format}"), &text);
        let said = desk.good(&["apply", "-f", &file]).await;
        assert!(said.starts_with("HTTPRoute default/shop unchanged"), "{format}: {said}");
    }
    let list: Value = serde_json::from_str(&desk.good(&["get", "all", "-o", "json"]).await).expect("JSON");
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&"List".into(), Some(1)));
    let none: Value = serde_json::from_str(&desk.good(&["get", "gw", "-o", "json"]).await).expect("JSON");
    assert_eq!(none["items"], serde_json::json!([]));
}

#[tokio::test]
async fn a_diff_is_unified_and_1_where_something_differs() {
    let desk = Desk::new(Declared::default()).await;
    let file = desk.write("route.yaml", ROUTE);
    let new = desk.ask(&["diff", "-f", &file]).await;
    assert_eq!((new.code, new.stderr.as_str()), (1, ""));
    assert!(new.stdout.contains("+++ HTTPRoute default/shop (to apply)"), "{}", new.stdout);
    desk.good(&["apply", "-f", &file]).await;
    assert_eq!(desk.good(&["diff", "-f", &file]).await, "");
    desk.write("route.yaml", &ROUTE.replace("shop.example", "cart.example"));
    let changed = desk.ask(&["diff", "-f", &file]).await;
    assert_eq!(changed.code, 1);
    let lines: Vec<&str> = changed.stdout.lines().filter(|line| line.contains(".example")).collect();
    assert!(lines.len() == 2 && lines[0].starts_with('-') && lines[1].starts_with('+'), "{}", changed.stdout);
    let missing = desk.ask(&["diff", "-f", "/nowhere/at-all.yaml"]).await;
    assert_eq!(missing.code, 2, "an error is not a difference: {}", missing.stderr);
}

#[tokio::test]
async fn what_a_secret_holds_is_never_shown() {
    let desk = Desk::new(Declared::default()).await;
    let file = desk.write("secret.yaml", SECRET);
    let mut said = Vec::new();
    for args in [
        &["diff", "-f", &file][..],
        &["diff", "-f", &file, "-o", "json"],
        &["apply", "-f", &file, "-o", "json"],
        &["apply", "-f", &file],
        &["get", "secret"],
        &["get", "secret", "tls", "-o", "yaml"],
        &["get", "all", "-o", "json"],
        &["describe", "secret", "tls"],
        &["describe", "secret/tls", "-o", "yaml"],
        &["lint", "-f", &file],
    ] {
        let ran = desk.ask(args).await;
        assert!(ran.code <= 1, "{args:?}: {}", ran.stderr);
        said.push((format!("{args:?}"), ran));
    }
    let other = SECRET.replace("hidden", "secret");
    desk.write("secret.yaml", &other);
    let changed = desk.ask(&["diff", "-f", &file]).await;
    assert!(changed.stdout.contains("+  password: '*** (after)'") || changed.stdout.contains("*** (after)"));
    said.push(("diff".into(), changed));
    desk.good(&["apply", "-f", &file]).await;
    for args in [&["history", "secret/tls", "-o", "yaml"][..], &["rollback", "secret", "tls", "-o", "json"]] {
        said.push((format!("{args:?}"), desk.ask(args).await));
    }
    for (args, ran) in said {
        for held in ["hunter2", HELD] {
            assert!(!ran.stdout.contains(held) && !ran.stderr.contains(held), "{args}: {ran:?}");
        }
    }
    // What was shown cannot be applied by mistake.
    let shown = desk.write("shown.yaml", &desk.good(&["get", "secret/tls", "-o", "yaml"]).await);
    assert_eq!(desk.ask(&["apply", "-f", &shown]).await.code, 2);
}

#[tokio::test]
async fn a_rollback_goes_back_and_the_past_says_so() {
    let desk = Desk::new(Declared::default()).await;
    for host in ["one.example", "two.example"] {
        let text = ROUTE.replace("shop.example", host);
        desk.good(&["apply", "-f", &desk.write("route.yaml", &text)]).await;
    }
    let said = desk.good(&["rollback", "httproute", "shop"]).await;
    assert!(said.starts_with("HTTPRoute default/shop configured, generation 3\n"), "{said}");
    assert!(desk.good(&["get", "hr"]).await.contains("one.example"));
    desk.good(&["rollback", "httproute/shop", "--to", "2", "--wait=5s"]).await;
    assert!(desk.good(&["get", "hr"]).await.contains("two.example"));
    let past = desk.good(&["history", "hr", "shop"]).await;
    let lines: Vec<&str> = past.lines().collect();
    assert_eq!(lines.len(), 5, "{past}");
    assert!(lines[1].starts_with("4 ") && lines[1].ends_with("+1 -1 lines"), "{past}");
    assert!(lines[4].ends_with("created"), "{past}");
    assert_eq!(desk.ask(&["rollback", "hr/shop", "--to", "9"]).await.code, 3);
}

#[tokio::test]
async fn a_refusal_names_file_line_column_field_reason_and_the_way_out() {
    let desk = Desk::new(Declared::default()).await;
    let file = desk.write("bad.yaml", &ROUTE.replace("hostnames:", "hostnmaes:"));
    for args in [
        &["apply", "-f", &file][..],
        &["lint", "-f", &file],
        &["lint", "-f", &file, "--server"],
        &["diff", "-f", &file],
    ] {
        let ran = desk.ask(args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
        for part in [
            format!("{file}:5:"),
            "HTTPRoute default/shop".into(),
            "hostnmaes".into(),
            "\"hostnames\"".into(),
        ] {
            assert!(ran.stderr.contains(&part), "{args:?}: {part} in {}", ran.stderr);
        }
    }
    assert_eq!(desk.good(&["get", "all"]).await, "", "nothing was declared");
}

#[tokio::test]
async fn what_is_odd_is_said_and_declared() {
    let desk = Desk::new(Declared::default()).await;
    let file = desk.write("odd.yaml", &ROUTE.replace("name: shop", "name: odd"));
    for args in [&["apply", "-f", &file][..], &["lint", "-f", &file, "--server"]] {
        let ran = desk.ask(args).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let wanted = "HTTPRoute default/odd: metadata.name: is odd; call it even\n";
        assert!(ran.stderr.starts_with("warning: ") && ran.stderr.contains(&file), "{}", ran.stderr);
        assert!(ran.stderr.ends_with(wanted), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn lint_looks_at_documents_together_and_takes_them_for_a_part() {
    let desk = Desk::new(Declared::default()).await;
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\nspec:\n  \
                 parentRefs: [{name: edge, sectionName: wbe}]\n";
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  \
                   gatewayClassName: waypost\n  listeners: [{name: web, port: 8000, protocol: HTTP}]\n";
    let alone = desk.write("route.yaml", route);
    let ran = desk.ask(&["lint", "-f", &alone]).await;
    assert_eq!(ran.code, 0, "its Gateway may be declared elsewhere: {}", ran.stderr);
    assert!(ran.stderr.contains("edge") && ran.stderr.contains("in these documents"), "{}", ran.stderr);
    let both = desk.write("both.yaml", &format!("{route}{gateway}"));
    let ran = desk.ask(&["lint", "-f", &both]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("wbe") && ran.stderr.contains("web"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_folder_stands_for_its_files_and_a_hyphen_for_standard_input() {
    let desk = Desk::new(Declared::default()).await;
    desk.write("routes/b.yml", ROUTE);
    desk.write("routes/a.yaml", &ROUTE.replace("name: shop", "name: first"));
    desk.write("routes/README.md", "no manifest");
    desk.write("routes/deep/c.yaml", &ROUTE.replace("name: shop", "name: deep"));
    let folder = desk.folder.path().join("routes").display().to_string();
    let names = |said: &str| -> Vec<String> {
        let lines = said.lines().filter_map(|line| line.strip_prefix("HTTPRoute default/"));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    assert_eq!(names(&desk.good(&["apply", "-f", &folder]).await), ["first", "shop"]);
    assert_eq!(names(&desk.good(&["apply", "-f", &folder, "-R"]).await), ["first", "shop", "deep"]);
    let empty = desk.folder.path().display().to_string();
    let ran = desk.ask(&["apply", "-f", &empty]).await;
    assert!(
        ran.code == 2 && ran.stderr.contains("holds no .yaml") && ran.stderr.contains("-R"),
        "{}",
        ran.stderr
    );

    let mut command = support::command(&["apply", "-f", "-", "--control-plane", &desk.control_plane]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(ROUTE.replace("name: shop", "name: piped").as_bytes()).await.expect("it reads");
    drop(input);
    let ran = child.wait_with_output().await.expect("it ends");
    assert_eq!(names(&String::from_utf8_lossy(&ran.stdout)), ["piped"]);
}

#[tokio::test]
async fn a_proxy_that_lags_is_5_and_named() {
    let desk = Desk::new(Declared::with_a_stuck_proxy("proxy-9")).await;
    let file = desk.write("route.yaml", ROUTE);
    for args in [&["apply", "-f", &file, "--wait=1s"][..], &["delete", "-f", &file, "--wait=1s"]] {
        let ran = desk.ask(args).await;
        assert_eq!(ran.code, 5, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("proxy-9"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn bad_words_are_refused_before_anybody_is_asked() {
    for (args, part) in [
        (&["get", "httproot"][..], "did you mean \"HTTPRoute\"?"),
        (&["get", "all", "shop"], "`all` takes no name"),
        (&["describe", "httproute"], "its name must follow"),
        (&["delete", "all"], "cannot be deleted"),
        (&["delete", "gateway"], "names must follow"),
        (&["delete", "gateway", "-f", "x"], "cannot be used with"),
        (&["apply"], "--filename"),
        (&["apply", "-f", "x", "--wait", "--dry-run"], "cannot be used with"),
        (&["apply", "-f", "https://a.example/x.yaml"], "curl"),
        (&["apply", "-f", "/nowhere/at-all.yaml"], "/nowhere/at-all.yaml"),
        (&["history", "httproute", "A b"], "lower-case"),
        (&["rollback", "hr/a", "--to", "0"], "--to"),
        (&["explain", "GET", "ftp://a/b"], "http://HOST/PATH"),
        (&["explain", "GET", "/", "-H", "x"], "NAME: VALUE"),
    ] {
        let ran = run(args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{args:?} must say {part:?}: {}", ran.stderr);
    }
}
