//! The directory of the sockets: which file stands there, and when to look again.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use log::warn;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// When to look again although nothing was seen: a watch can be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When to look again where the system gives no watch.
const LOOK_WITHOUT_WATCH: Duration = Duration::from_millis(100);

/// What happens within this time is one event: a busy directory shall not keep us busy.
const TOGETHER: Duration = Duration::from_millis(20);

/// Tells one file from its successor of the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The device's and the inode's number.
    pub(crate) inode: (u64, u64),
    /// Rule 6: an inode number may come back.
    pub(crate) time: FileTime,
}

/// Since when a file has been what it is.
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

/// Wakes when something in a directory changes, also when the directory comes, goes or is another one.
pub struct DirectoryWatch {
    directory: PathBuf,
    watcher: Option<RecommendedWatcher>,
    watched: HashMap<PathBuf, FileId>,
    /// Whether all that is there is watched.
    seeing: bool,
    event: Arc<Notify>,
}

impl DirectoryWatch {
    /// `directory` need not exist yet. Where the system gives no watch, a warning says so and looking takes its place.
    pub fn new(directory: &Path) -> Self {
        let event = Arc::new(Notify::new());
        let (notify, concerned) = (event.clone(), directory.to_path_buf());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // The parent may be a busy place: what happens beside our directory shall not wake us.
            let concerns =
                |path: &PathBuf| path.starts_with(&concerned) || concerned.starts_with(path);
            if event.is_ok_and(|event| event.kind.is_access() || !event.paths.iter().any(concerns))
            {
                return;
            }
            notify.notify_one();
        });
        let mut watch = Self {
            directory: directory.to_path_buf(),
            watcher: watcher
                .inspect_err(|error| {
                    warn!(
                        "no watch on {}, looking instead: {error}",
                        directory.display()
                    );
                })
                .ok(),
            watched: HashMap::new(),
            seeing: false,
            event,
        };
        watch.refresh();
        watch
    }

    /// Ends when there may be something new to see, after a second at the latest.
    /// Nothing is missed between two calls. Cancelling loses nothing.
    pub async fn changed(&mut self) {
        let look_again = match self.seeing {
            true => LOOK_AGAIN,
            false => LOOK_WITHOUT_WATCH,
        };
        if timeout(look_again, self.event.notified()).await.is_ok() {
            sleep(TOGETHER).await;
        }
        self.refresh();
    }

    /// Watches the directory and its parent, or as much of the way to it as there is.
    fn refresh(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let there = |path: &&Path| path.is_dir();
        let wanted: Vec<&Path> = self.directory.ancestors().filter(there).take(2).collect();
        self.watched.retain(|path, known| {
            let stays = wanted.contains(&path.as_path())
                && FileId::of(path).is_some_and(|now| now.may_be(known));
            if !stays {
                // It may be gone already, and its watch with it.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        for path in &wanted {
            if !self.watched.contains_key(*path)
                && let Some(id) = FileId::of(path)
                && watcher.watch(path, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(path.to_path_buf(), id);
                // What came before the watch did is to be looked at too.
                self.event.notify_one();
            }
        }
        let watched = |path: &&Path| self.watched.contains_key(*path);
        self.seeing = !wanted.is_empty() && wanted.iter().all(watched);
    }
}

/// Ends once `directory` is there.
pub async fn wait_for(directory: &Path) {
    let mut watch = DirectoryWatch::new(directory);
    while !directory.is_dir() {
        watch.changed().await;
    }
}
