//! What the Dockerfiles must have in common with the rest of the project.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

const DOCKERFILES: [&str; 6] = [
    "Dockerfile.discovery-handler",
    "Dockerfiles/device",
    "Dockerfiles/standalone",
    "Dockerfiles/grpc.broker",
    "Dockerfiles/grpc.client",
    "Dockerfiles/readings",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// What follows `key = ` in Cargo.toml, to the end of the line.
fn workspace(key: &str) -> String {
    let manifest = read("Cargo.toml");
    let key = format!("{key} = ");
    let value = manifest.lines().find_map(|line| line.strip_prefix(&key));
    value.unwrap().to_owned()
}

/// The quoted words in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

fn assert_each_has(wanted: impl Fn(&str) -> String) {
    for file in DOCKERFILES {
        let line = wanted(file);
        assert!(
            read(file).lines().any(|known| known == line),
            "{file} has no line {line}"
        );
    }
}

#[test]
fn an_image_is_built_with_the_rust_that_ci_builds_with() {
    let version = workspace("rust-version").replace('"', "");
    // By the machine that builds, whatever the image is for.
    let wanted = format!("FROM --platform=$BUILDPLATFORM rust:{version}-slim-bookworm AS ");
    for file in DOCKERFILES {
        let text = read(file);
        let mut bases = text
            .lines()
            .filter(|line| line.starts_with("FROM ") && line.contains("rust:"));
        assert!(bases.all(|line| line.starts_with(&wanted)), "{file}");
        assert!(text.contains(&wanted), "{file}");
    }
}

#[test]
fn an_image_says_the_projects_version() {
    let version = workspace("version").replace('"', "");
    assert_each_has(|_| format!("ARG VERSION={version}"));
}

#[test]
fn the_revision_is_known_to_the_compiler_but_does_not_rebuild_the_dependencies() {
    for file in DOCKERFILES {
        let text = read(file);
        let dependencies = text.find("cargo auditable build").unwrap();
        let revision = text.find("\nENV REVISION=$REVISION\n").unwrap();
        let program = text.rfind("cargo auditable build").unwrap();
        assert!(dependencies < revision && revision < program, "{file}");
    }
}

#[test]
fn only_the_handler_is_root() {
    assert_each_has(|file| {
        let user = match file {
            "Dockerfile.discovery-handler" => "USER 0:0",
            _ => "USER 65532:65532",
        };
        user.to_owned()
    });
}

#[test]
fn every_member_is_in_the_build_context() {
    let members = workspace("default-members");
    let needed = quoted(&members)
        .filter(|member| *member != ".")
        .chain(["Cargo.toml", "Cargo.lock", "src"])
        .chain(["Dockerfiles/stand-ins", "Dockerfiles/toolchain"])
        .chain(["discovery/tests/start.rs"]);
    let ignore = read(".dockerignore");
    let given = ignore.lines().filter_map(|line| line.strip_prefix('!'));
    assert_eq!(
        given.collect::<BTreeSet<_>>(),
        needed.collect::<BTreeSet<_>>()
    );
}

#[test]
fn there_is_a_stand_in_for_each_target() {
    let folder = tempfile::tempdir().unwrap();
    let script = Command::new("sh")
        .arg("Dockerfiles/stand-ins")
        .arg(folder.path())
        .current_dir(root())
        .status();
    assert!(script.unwrap().success());
    // It reads the manifests, and fails if a target has no file.
    let metadata = |folder: &Path| {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let paths = text.split(r#""src_path":""#).skip(1);
        let paths = paths.filter_map(|rest| rest.split('"').next());
        let base = fs::canonicalize(folder).unwrap();
        let paths: BTreeSet<String> = paths
            .map(|path| path.trim_start_matches(base.to_str().unwrap()).to_owned())
            .filter(|path| !path.contains("/tests/"))
            .collect();
        paths
    };
    assert_eq!(metadata(folder.path()), metadata(root()));
}
