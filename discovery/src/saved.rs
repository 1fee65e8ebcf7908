//! The last list of each request, in a file, so that it outlives the process. Whatever is wrong with a file or its disk
//! costs a log line and nothing else.

use std::{
    fs::{self, DirBuilder, File},
    hash::{Hash, Hasher},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use akri_daemon::Outage;
use anyhow::{Context, bail, ensure};
use blake2::{Blake2b, Digest, digest::consts::U16};
use log::{Level, info};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    list::{DeviceList, MAX_MESSAGE},
    poll::List,
    settings::Settings,
    streams::PeerLog,
};

/// What a file begins with. Then come when the list was right, in seconds since 1970, its pieces, each behind its length, and a
/// hash of all that.
const FORMAT: &[u8; 16] = b"akri-discovery 1";

/// The longest file, in bytes. Far less than this is for the lengths.
const MAX_FILE: u64 = MAX_MESSAGE as u64 + 256 * 1024;

/// How many files there are at most; the oldest go first. More than a process has requests.
const MAX_FILES: usize = 128;

/// What files are called: a hash of the handler's name and the request, and this.
const EXTENSION: &str = "list";

/// What files are called while they are written. A process that was killed meanwhile leaves one.
const UNFINISHED: &str = ".unfinished-";
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// How long reading a file may take; the first poll waits for it.
const LOAD: Duration = Duration::from_secs(5);

/// A list is written at most this often, and one that has not changed at least so often.
const SAVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10 * 60));

type Hash16 = Blake2b<U16>;

/// The directory of saved lists.
pub(crate) struct Saved {
    directory: PathBuf,
    max_age: Duration,
    /// The handler's.
    name: String,
    /// One file is read or written at a time, so that a disk that hangs takes one thread.
    turn: Arc<Semaphore>,
}

impl Saved {
    /// `None` where no directory is set.
    pub fn new(settings: &Settings) -> Option<Arc<Self>> {
        let saved = Self {
            directory: settings.state_directory.clone()?,
            max_age: settings.state_max_age,
            name: settings.discovery_handler_name.clone(),
            turn: Arc::new(Semaphore::new(1)),
        };
        Some(Arc::new(saved))
    }

    /// The list that was saved last for `request`, and how old it is.
    pub async fn load(
        &self,
        request: &(impl Hash + ToString),
        log: &PeerLog,
    ) -> Option<(DeviceList, Duration)> {
        let path = self.path(request);
        let reading = async {
            let (path, turn) = (path.clone(), self.turn.clone().acquire_owned().await?);
            let read = spawn_blocking(move || {
                let _turn = turn;
                read(&path)
            });
            read.await?
        };
        let loaded = match timeout(LOAD, reading).await {
            Ok(loaded) => loaded,
            Err(_) => Err(anyhow::anyhow!("it could not be read within {LOAD:?}")),
        };
        let (request, file) = (request.to_string(), path.display());
        match loaded {
            Ok((list, age)) if age <= self.max_age => return Some((list, age)),
            Ok((_, age)) => log.say(
                Level::Info,
                format_args!("{request}: the saved list is {age:.0?} old, and not used"),
            ),
            Err(error) if is_not_found(&error) => true,
            Err(error) => log.say(
                Level::Warn,
                format_args!("{request}: the saved list {file} is not used: {error:#}"),
            ),
        };
        None
    }

    /// Saves the lists of `request`, in the background.
    pub fn keep(self: &Arc<Self>, request: &(impl Hash + ToString)) -> Saver {
        let (lists, receiver) = watch::channel(None);
        let path = self.path(request);
        tokio::spawn(self.clone().save(path, request.to_string(), receiver));
        Saver {
            lists,
            again: SAVE.1.min(self.max_age / 2),
            last: Instant::now(),
        }
    }

    fn path(&self, request: &impl Hash) -> PathBuf {
        let mut hashing = Hashing(Hash16::new());
        (&self.name, request).hash(&mut hashing);
        let hash: [u8; 16] = hashing.0.finalize().into();
        let name = u128::from_be_bytes(hash);
        self.directory.join(format!("{name:032x}.{EXTENSION}"))
    }

    /// Writes the newest list, until there will be no other one.
    async fn save(
        self: Arc<Self>,
        path: PathBuf,
        request: String,
        mut lists: watch::Receiver<List>,
    ) {
        let mut outage = Outage::new(module_path!(), format!("{request}: saving the list"));
        while lists.changed().await.is_ok() {
            let Ok(turn) = self.turn.acquire().await else {
                return;
            };
            let Some(list) = lists.borrow_and_update().clone() else {
                continue;
            };
            let (saved, path) = (self.clone(), path.clone());
            match spawn_blocking(move || saved.write(&path, &list)).await {
                Ok(Ok(())) => outage.succeeded(),
                Ok(Err(error)) => outage.failed(
                    format!("{error:#}"),
                    "after a restart an older list or none is sent first",
                ),
                Err(bug) => outage.failed(bug, "this is a bug"),
            }
            drop(turn);
            sleep(SAVE.0).await;
        }
    }

    /// Writes one file, whole or not at all, and removes those that are too old or too many.
    fn write(&self, path: &Path, list: &DeviceList) -> anyhow::Result<()> {
        let directory = &self.directory;
        let context = || format!("writing into {}", directory.display());
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        make.create(directory).with_context(context)?;
        if !path.exists() {
            self.make_room().with_context(context)?;
        }
        // Nobody but us can read it.
        let file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(directory);
        let file = file.with_context(context)?;
        write_list(file.as_file(), list).with_context(context)?;
        file.as_file().sync_all().with_context(context)?;
        file.persist(path).with_context(context)?;
        Ok(())
    }

    /// Leaves room for one more file. Others than ours are not touched.
    fn make_room(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let unfinished = name.starts_with(UNFINISHED);
            let ours = name
                .strip_suffix(EXTENSION)
                .is_some_and(|name| name.len() == 33);
            // What is gone already is fine.
            let Ok(written) = entry.metadata().and_then(|metadata| metadata.modified()) else {
                continue;
            };
            let age = now.duration_since(written).unwrap_or_default();
            let limit = if unfinished { ABANDONED } else { self.max_age };
            if (unfinished || ours) && age > limit {
                let _ = fs::remove_file(&path);
            } else if ours {
                files.push((age, path));
            }
        }
        files.sort();
        for (_, path) in files.drain(..).skip(MAX_FILES - 1) {
            info!(
                "{} is removed: there are {MAX_FILES} saved lists",
                path.display()
            );
            let _ = fs::remove_file(&path);
        }
        Ok(())
    }
}

/// Takes the lists of a request. Dropping it saves the last one, and no further one.
pub(crate) struct Saver {
    lists: watch::Sender<List>,
    again: Duration,
    last: Instant,
}

impl Saver {
    /// This list is right now. It is saved if it is another one, and once in a while, since its age counts.
    pub fn save(&mut self, list: &Arc<DeviceList>) {
        let is_saved = self.lists.borrow().as_ref() == Some(list);
        if !is_saved || self.last.elapsed() >= self.again {
            self.last = Instant::now();
            self.lists.send_replace(Some(list.clone()));
        }
    }
}

fn write_list(file: impl Write, list: &DeviceList) -> io::Result<()> {
    let (mut file, mut hash) = (BufWriter::new(file), Hash16::new());
    let mut write = |bytes: &[u8]| {
        hash.update(bytes);
        file.write_all(bytes)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    write(FORMAT)?;
    write(&now.unwrap_or_default().as_secs().to_be_bytes())?;
    for piece in (0..).map_while(|piece| list.encoded(piece)) {
        write(&(piece.len() as u32).to_be_bytes())?;
        write(&piece)?;
    }
    file.write_all(&hash.finalize())?;
    file.flush()
}

/// The list in a file, and its age.
fn read(path: &Path) -> anyhow::Result<(DeviceList, Duration)> {
    // Opening a pipe would wait for its writer.
    ensure!(fs::metadata(path)?.is_file(), "it is not a file");
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= MAX_FILE,
        "it has more than {MAX_FILE} bytes"
    );
    let rest = bytes
        .strip_prefix(FORMAT)
        .context("it has another format")?;
    let (Some((seconds, rest)), Some((whole, hash))) =
        (rest.split_first_chunk(), bytes.split_last_chunk::<16>())
    else {
        bail!("it is cut");
    };
    let seen: [u8; 16] = Hash16::digest(whole).into();
    ensure!(seen == *hash, "it is damaged");
    let mut pieces = rest
        .get(..rest.len().saturating_sub(16))
        .unwrap_or_default();
    let mut encoded = Vec::new();
    while !pieces.is_empty() {
        let (len, rest) = pieces.split_first_chunk().context("it is cut")?;
        let len = u32::from_be_bytes(*len) as usize;
        let (piece, rest) = rest.split_at_checked(len).context("it is cut")?;
        encoded.push(piece);
        pieces = rest;
    }
    let list = DeviceList::from_encoded(encoded)?;
    let written = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*seconds)));
    // A clock that was set back makes it new: better an old list than none.
    let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
    Ok((list, age.unwrap_or_default()))
}

fn is_not_found(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Hashes a request. A version that does so in another way finds no list, and that is all.
struct Hashing(Hash16);

impl Hasher for Hashing {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
