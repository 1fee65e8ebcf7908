//! The sockets' directory: which file stands there, and when to look again.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use log::info;
use tokio::time::sleep;

/// How often to look. A look is a few system calls; a watch would be a thread, and has to be looked after itself when the
/// directory comes late or is replaced.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Tells one file from its successor of the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    /// The device's and the inode's number.
    pub(crate) inode: (u64, u64),
    /// Rule 6: an inode number may come back.
    pub(crate) time: FileTime,
}

/// When a file came into being, as far as the file system knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileTime {
    Born(SystemTime),
    /// In seconds and nanoseconds, where the file system has no birth times. A file may change and be the same.
    Changed(i64, i64),
}

impl FileId {
    /// Of the file that stands at `path` now, if one does; of a symbolic link's target.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: (metadata.dev(), metadata.ino()),
            time: (metadata.created()).map_or_else(
                |_| FileTime::Changed(metadata.ctime(), metadata.ctime_nsec()),
                FileTime::Born,
            ),
        })
    }

    /// Whether it may be the same file, as far as can be known.
    pub fn may_be(&self, other: &Self) -> bool {
        let unsure = matches!(self.time, FileTime::Changed(..));
        self == other || (unsure && self.inode == other.inode)
    }
}

/// Ends when it is time to look again.
pub(crate) async fn look_again() {
    sleep(LOOK_AGAIN).await;
}

/// Ends once `directory` is there.
pub(crate) async fn wait_for(directory: &Path) {
    if directory.is_dir() {
        return;
    }
    info!("waiting for the directory {}", directory.display());
    while !directory.is_dir() {
        look_again().await;
    }
}
