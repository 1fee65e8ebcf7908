//! What the Dockerfiles have to agree about with the rest of the project.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

const DOCKERFILES: [&str; 5] = [
    "Dockerfile.discovery-handler",
    "Dockerfiles/device",
    "Dockerfiles/standalone",
    "Dockerfiles/grpc.broker",
    "Dockerfiles/grpc.client",
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The value of `key = "value"` in Cargo.toml.
fn workspace(key: &str) -> String {
    let manifest = read("Cargo.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with(&format!("{key} = \"")))
        .unwrap();
    line.split('"').nth(1).unwrap().to_string()
}

#[test]
fn an_image_is_built_with_the_rust_that_ci_builds_with() {
    let from = format!(
        "FROM rust:{}-slim-bookworm AS build",
        workspace("rust-version")
    );
    for file in DOCKERFILES {
        assert!(
            read(file).lines().any(|line| line == from),
            "{file} has no line {from}"
        );
    }
}

#[test]
fn an_image_says_the_projects_version() {
    let version = format!("ARG VERSION={}", workspace("version"));
    for file in DOCKERFILES {
        assert!(
            read(file).lines().any(|line| line == version),
            "{file} has no line {version}"
        );
    }
}

#[test]
fn only_the_handler_is_root() {
    for file in DOCKERFILES {
        let user = match file {
            "Dockerfile.discovery-handler" => "USER 0:0",
            _ => "USER 65532:65532",
        };
        assert!(
            read(file).lines().any(|line| line == user),
            "{file} has no line {user}"
        );
    }
}
