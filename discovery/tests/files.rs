//! `examples/files.rs` at the stub Agent: a handler that is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../examples/files.rs"]
#[allow(dead_code, missing_docs)]
mod files;
mod support;

use std::{fs, os::unix::net::UnixListener, time::Duration};

use akri_stub_agent::instance_hash;
use files::Files;
use support::{Handler, Node};
use tempfile::TempDir;

/// A directory, and the paths of these files in it.
fn paths<const N: usize>(names: [&str; N]) -> (TempDir, [String; N]) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name).display().to_string();
    let paths = names.map(path);
    (directory, paths)
}

fn refs<const N: usize>(paths: &[String; N]) -> [&str; N] {
    std::array::from_fn(|at| paths[at].as_str())
}

/// A node with one handler of the directory's files, which asks for nothing by itself.
async fn node(name: &'static str, directory: &TempDir) -> (Node, Handler) {
    let details = directory.path().to_str().unwrap();
    let node = Node::start(name, "files", details).await;
    let mut settings = node.settings();
    settings.poll_interval = Duration::from_secs(24 * 60 * 60);
    let handler = Handler::start(Files, settings);
    (node, handler)
}

#[tokio::test]
async fn a_file_is_a_device_as_soon_as_it_is_there_until_it_is_gone() {
    let (directory, [a, b, c]) = paths(["a", "b", "c"]);
    fs::write(&a, "").unwrap();
    let (node, _handler) = node("node", &directory).await;
    node.has(&[&a]).await;
    fs::write(&b, "").unwrap();
    node.has(&[&a, &b]).await;
    fs::rename(&a, &c).unwrap();
    node.has(&[&b, &c]).await;
    fs::remove_file(&b).unwrap();
    fs::create_dir(&a).unwrap();
    node.has(&[&c]).await;
}

#[tokio::test]
async fn a_broker_gets_its_file_by_the_same_path() {
    let (directory, [file, null]) = paths(["file", "null"]);
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    let (node, _handler) = node("node", &directory).await;
    node.has(&[&file, &null]).await;

    let plain = node.instance(&file);
    assert_eq!(plain.environment()["FILE"], file);
    assert_eq!(plain.mounts.len(), 1);
    let mount = &plain.mounts[0];
    assert_eq!([&mount.host_path, &mount.container_path], [&file, &file]);
    assert!(mount.read_only && plain.device_specs.is_empty());

    let device_node = node.instance(&null);
    assert!(device_node.mounts.is_empty());
    let spec = &device_node.device_specs[0];
    assert_eq!([&spec.host_path, &spec.container_path], [&null, &null]);
    assert_eq!(spec.permissions, "rw");
}

#[tokio::test]
async fn a_directory_that_is_moved_away_keeps_its_devices_until_another_one_is_there() {
    let (parent, [directory, other]) = paths(["files", "other"]);
    let [a, b] = ["a", "b"].map(|name| format!("{directory}/{name}"));
    fs::create_dir(&directory).unwrap();
    fs::write(&a, "").unwrap();
    let node = Node::start("node", "files", &directory).await;
    let _handler = Handler::start(Files, node.settings());
    let before = node.has(&[&a]).await;
    fs::rename(&directory, &other).unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(&b, "").unwrap();
    let after = node.has(&[&b]).await;
    assert_eq!(after.open_streams, before.open_streams);
    assert!(
        after.discover_errors.is_empty(),
        "{:?}",
        after.discover_errors
    );
    drop(parent);
}

#[tokio::test]
async fn a_directory_that_is_removed_with_its_last_file_has_no_devices_until_it_is_back() {
    let (parent, [directory]) = paths(["files"]);
    let a = format!("{directory}/a");
    fs::create_dir(&directory).unwrap();
    fs::write(&a, "").unwrap();
    let node = Node::start("node", "files", &directory).await;
    let _handler = Handler::start(Files, node.settings());
    node.has(&[&a]).await;
    fs::remove_dir_all(&directory).unwrap();
    node.has(&[]).await;
    fs::create_dir(&directory).unwrap();
    fs::write(&a, "").unwrap();
    node.has(&[&a]).await;
    drop(parent);
}

#[tokio::test]
async fn two_nodes_with_a_file_of_the_same_path_have_an_instance_each() {
    let (directory, [a]) = paths(["a"]);
    fs::write(&a, "").unwrap();
    for name in ["node-1", "node-2"] {
        let node = Node::start(name, "files", directory.path().to_str().unwrap()).await;
        let mut settings = node.settings();
        settings.shared = false;
        let _handler = Handler::start(Files, settings);
        node.has(&[&a]).await;
        let instance = node.instance(&a);
        assert!(!instance.shared);
        assert_eq!(instance.hash, instance_hash(&a, Some(name)));
    }
}

#[tokio::test]
async fn files_are_there_whatever_happens() {
    let (directory, files) = paths(["a", "b"]);
    for file in &files {
        // Sockets are files too.
        drop(UnixListener::bind(file).unwrap());
    }
    let (mut node, first) = node("node", &directory).await;
    node.has_whatever_happens(&refs(&files), first, Files, Files)
        .await;
}

#[test]
fn details_that_are_no_absolute_path_are_refused() {
    use akri_discovery::DiscoveryHandler;
    let error = Files.request("dev", &Default::default()).unwrap_err();
    assert_eq!(error.to_string(), "expected an absolute path");
}
