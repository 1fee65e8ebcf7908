//! A discovery handler that is *told*: the files of a directory, as soon as they come and go.
//!
//! `discoveryDetails` are the directory's absolute path, such as `/dev/serial/by-id`. A broker gets its file by the same path, a
//! device node as a device spec and any other file as a mount, and is told that path as `FILE`.

use std::{fs::FileType, io::ErrorKind, os::unix::fs::FileTypeExt, process::ExitCode};

use akri_discovery::{Device, DiscoveryHandler, Found, Properties, run, start};
use anyhow::{Context, ensure};
use inotify::{Inotify, WatchMask};
use tokio_stream::StreamExt;

/// The handler; it remembers nothing.
pub struct Files;

#[async_trait::async_trait]
impl DiscoveryHandler for Files {
    /// The directory.
    type Request = String;

    fn request(&self, details: &str, _: &Properties) -> anyhow::Result<String> {
        ensure!(details.starts_with('/'), "expected an absolute path");
        Ok(details.to_owned())
    }

    async fn discover(&self, directory: &String, found: &Found<'_>) -> anyhow::Result<()> {
        let inotify = Inotify::init()?;
        let changes = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE;
        let ends = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
        match inotify.watches().add(directory, changes | ends) {
            // As udev removes /dev/serial/by-id with the last link in it.
            Err(error) if error.kind() == ErrorKind::NotFound => return found.all(vec![]),
            watched => watched.context("watching the directory")?,
        };
        let mut events = inotify.into_event_stream([0; 4096])?;
        // What changes while the directory is read has an event that waits.
        loop {
            found.all(devices(directory).await?)?;
            let event = events.next().await.context("no more events")??;
            // An error, because the library soon calls again, and then watches what has this path.
            ensure!(event.name.is_some(), "the watch has ended");
        }
    }
}

async fn devices(directory: &str) -> anyhow::Result<Vec<Device>> {
    let mut entries = (tokio::fs::read_dir(directory).await).context("reading the directory")?;
    let mut devices = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        // One that is gone again, or has a name that protobuf cannot hold, is no device.
        let path = entry.path();
        let kind = tokio::fs::metadata(&path).await.map(|it| it.file_type());
        let kind = kind.ok().filter(|kind| !kind.is_dir());
        devices.extend(path.to_str().zip(kind).map(|(id, kind)| device(id, kind)));
    }
    Ok(devices)
}

fn device(path: &str, kind: FileType) -> Device {
    let device = Device::new(path).with_property("FILE", path);
    match kind.is_char_device() || kind.is_block_device() {
        true => device.with_device_spec(path, "rw"),
        false => device.with_mount(path, true),
    }
}

fn main() -> ExitCode {
    // Not shared: other nodes have other files.
    start("files", false, |(), its, stop| run(Files, its, stop))
}
