//! Every block of docs/storage.md, run as it stands by the real grpcurl, against the real binary.
//!
//! `GRPCURL` names the program; without it there is nothing to run the blocks with, and only their completeness is
//! checked. Where it is set and names no program the test fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::Value;

use crate::process::{Service, spawn};

/// Commands, and what they must print.
#[derive(Debug)]
struct Example {
    line: usize,
    commands: String,
    expected: Expected,
}

#[derive(Debug)]
enum Expected {
    /// Values, one behind the other; the text `…` stands for any value.
    Json(String),
    /// Texts that lines must hold, in this order.
    Lines(Vec<String>),
}

/// The document's blocks: each `sh` with the block behind it.
fn examples() -> Vec<Example> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/storage.md");
    let document = std::fs::read_to_string(path).expect("the document is there");
    let mut blocks = Vec::new();
    let mut lines = document.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines
                .by_ref()
                .map(|(line, _)| line)
                .take_while(|line| *line != "```")
                .collect();
            blocks.push((kind, number, inside.join("\n")));
        }
    }
    let mut blocks = blocks.into_iter();
    let mut examples = Vec::new();
    while let Some((kind, line, commands)) = blocks.next() {
        if kind != "sh" {
            continue;
        }
        let expected = match blocks.next() {
            Some(("json", _, text)) => Expected::Json(text),
            Some(("text", _, text)) => Expected::Lines(text.lines().map(|line| line.trim().to_owned()).collect()),
            other => panic!("the commands of line {line} are followed by {other:?}"),
        };
        examples.push(Example {
            line,
            commands,
            expected,
        });
    }
    examples
}

/// `package.Service/Method` of every call of the contract.
fn methods() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("the descriptors read");
    let services = files.file.iter().flat_map(|file| {
        file.service
            .iter()
            .map(move |service| (format!("{}.{}", file.package(), service.name()), service))
    });
    services
        .flat_map(|(name, service)| {
            let methods = service.method.iter();
            methods.map(move |method| format!("{name}/{}", method.name()))
        })
        .collect()
}

#[test]
fn every_call_has_an_example() {
    let commands: String = examples().into_iter().map(|example| example.commands + "\n").collect();
    let words: BTreeSet<&str> = commands.split_whitespace().collect();
    let without: Vec<String> = methods()
        .into_iter()
        .filter(|method| !words.contains(method.as_str()))
        .collect();
    assert!(without.is_empty(), "docs/storage.md has no example of {without:?}");
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "which grpcurl to run is said by the environment of the test"
)]
async fn every_example_prints_what_the_document_says() {
    let Ok(grpcurl) = std::env::var("GRPCURL") else {
        return;
    };
    let version = Command::new(&grpcurl).arg("-version").output();
    assert!(
        version.is_ok_and(|output| output.status.success()),
        "GRPCURL is {grpcurl:?}, which does not run"
    );
    let folder = tempfile::tempdir().expect("a folder can be made");
    let binary = tokio::process::Command::new(env!("CARGO_BIN_EXE_storage-svc"));
    let service = Service::ready(spawn(binary, "127.0.0.1:0", &folder.path().join("store.db"))).await;
    let examples = examples();
    // One shell for all, because later blocks use what earlier ones kept. What each prints is told apart by a line that
    // none of them prints.
    let mut script = format!("grpcurl() {{ command '{grpcurl}' \"$@\"; }}\n");
    for example in &examples {
        script += &example.commands.replace("127.0.0.1:50051", &service.address);
        script += "\nprintf '\\n== end of block\\n'\n";
    }
    let shell = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("there is a bash");
    let printed = String::from_utf8(shell.stdout).expect("it prints text");
    let outputs: Vec<&str> = printed.split("\n== end of block\n").collect();
    assert_eq!(outputs.len(), examples.len() + 1, "{printed}");
    let wrong: Vec<String> = examples
        .iter()
        .zip(outputs)
        .filter_map(|(example, output)| difference(example, output))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(service.terminate().await.success());
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "which grpcurl to run is said by the environment of the test"
)]
async fn a_socket_with_a_token_is_reached_too() {
    let Ok(grpcurl) = std::env::var("GRPCURL") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let socket = folder.path().join("storage.sock");
    let mut binary = tokio::process::Command::new(env!("CARGO_BIN_EXE_storage-svc"));
    binary.env("STORAGE_TOKEN", "hush");
    let listen = format!("unix:{}", socket.display());
    let service = Service::ready(spawn(binary, &listen, &folder.path().join("store.db"))).await;
    let info = |authorization: &str| {
        let output = Command::new(&grpcurl)
            .args(["-plaintext", "-unix", "-authority", "localhost", "-H", authorization])
            .arg(&socket)
            .arg("dp1.storage.v1.AdminService/GetServerInfo")
            .output();
        output.expect("it runs")
    };
    let told = info("authorization: Bearer hush");
    assert!(String::from_utf8_lossy(&told.stdout).contains("storeId"), "{told:?}");
    let refused = info("authorization: Bearer wrong");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Unauthenticated") && !said.contains("hush"), "{said}");
    assert!(service.terminate().await.success());
}

fn difference(example: &Example, output: &str) -> Option<String> {
    let holds = match &example.expected {
        Expected::Json(text) => {
            // A stream that the caller's deadline ends says so behind its messages.
            let messages = output.split("ERROR:").next().unwrap_or_default();
            match (values(text), values(messages)) {
                (Some(expected), Some(found)) => {
                    expected.len() == found.len()
                        && expected
                            .iter()
                            .zip(&found)
                            .all(|(expected, found)| same(expected, found))
                }
                _ => false,
            }
        }
        Expected::Lines(expected) => {
            let mut printed = output.lines().map(str::trim);
            expected
                .iter()
                .all(|line| printed.any(|printed| printed.contains(line)))
        }
    };
    let line = example.line;
    (!holds).then(|| {
        format!(
            "the block of line {line} printed:\n{output}\ninstead of:\n{:?}",
            example.expected
        )
    })
}

fn values(text: &str) -> Option<Vec<Value>> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .ok()
}

fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(any), _) if any == "…" => true,
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .all(|(name, value)| found.get(name).is_some_and(|found| same(value, found)))
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .zip(found)
                    .all(|(expected, found)| same(expected, found))
        }
        _ => expected == found,
    }
}

#[test]
fn what_differs_is_seen() {
    let example = Example {
        line: 1,
        commands: String::new(),
        expected: Expected::Json(r#"{"a":"1","b":"…"}"#.to_owned()),
    };
    assert_eq!(difference(&example, r#"{"b":"2","a":"1"}"#), None);
    for wrong in [
        r#"{"a":"2","b":"2"}"#,
        r#"{"a":"1"}"#,
        r#"{"a":"1","b":"2","c":3}"#,
        "",
        r#"{"a":"1","b":"2"} {}"#,
        "{",
    ] {
        assert!(difference(&example, wrong).is_some(), "{wrong}");
    }
}
