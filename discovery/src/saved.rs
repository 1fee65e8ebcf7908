//! The last list of each request, in a file, so that it outlives the process. Whatever is wrong with a file or its disk
//! costs a log line and nothing else.

use std::{
    fs::{self, DirBuilder, File},
    hash::Hasher,
    io::{self, BufWriter, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use akri_daemon::{LineBudget, Outage};
use anyhow::{Context, anyhow, bail, ensure};
use blake2::{Blake2b, Digest, digest::consts::U16};
use log::Level;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

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

/// How many files there are at most: more than a process has requests. A further list is not saved, so that those who can ask
/// for anything cannot push out what is needed.
const MAX_FILES: usize = 128;

/// What files are called: a hash of the request, and this.
const EXTENSION: &str = ".list";

/// What files are called while they are written. A process that was killed meanwhile leaves one.
const UNFINISHED: &str = ".unfinished-";
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// How long a file may take to be written, until it is said.
const BUSY: Duration = Duration::from_secs(30);

/// A list is written at most this often, and one that has not changed at least so often.
const SAVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10 * 60));

type Hash16 = Blake2b<U16>;

/// The directory of saved lists, one for each name of a handler.
pub(crate) struct Saved {
    directory: PathBuf,
    max_age: Duration,
    /// One file is read or written at a time, so that a disk that hangs takes one thread.
    turn: Arc<Semaphore>,
    /// Whether this process has removed what nobody writes any more.
    tidied: AtomicBool,
}

/// A list from a file, and how old it is.
pub(crate) type Loading = AbortOnDropHandle<Option<(DeviceList, Duration)>>;

impl Saved {
    /// `None` where no directory is set.
    pub fn new(settings: &Settings) -> Option<Arc<Self>> {
        let directory = settings.state_directory.as_ref()?;
        let saved = Self {
            directory: directory.join(&settings.discovery_handler_name),
            max_age: settings.state_max_age,
            turn: Arc::new(Semaphore::new(1)),
            tidied: AtomicBool::new(false),
        };
        Some(Arc::new(saved))
    }

    /// Where the list of a request is, by what identifies it.
    pub fn path(&self, identify: impl FnOnce(&mut dyn Hasher)) -> PathBuf {
        let mut hashing = Hashing(Hash16::new());
        identify(&mut hashing);
        let hash: [u8; 16] = hashing.0.finalize().into();
        let name = u128::from_be_bytes(hash);
        self.directory.join(format!("{name:032x}{EXTENSION}"))
    }

    /// Reads the list that was saved last at `path`, if it is not too old. That takes as long as the disk does.
    pub fn load(self: &Arc<Self>, path: PathBuf, request: &str, log: &PeerLog) -> Loading {
        let (saved, log) = (self.clone(), log.clone());
        let request = request.to_owned();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let turn = saved.turn.clone().acquire_owned().await.ok()?;
            let file = path.display().to_string();
            let reading = spawn_blocking(move || {
                let _turn = turn;
                read(&path)
            });
            match reading.await.unwrap_or_else(|bug| Err(bug.into())) {
                Ok((list, age)) if age <= saved.max_age => return Some((list, age)),
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
        }))
    }

    /// Saves the lists of `request` at `path`, in the background. `budget` is for its log lines.
    pub fn keep(self: &Arc<Self>, path: PathBuf, request: &str, budget: LineBudget) -> Saver {
        let (lists, receiver) = watch::channel(None);
        let subject = format!("{request}: saving the list");
        let outage = Outage::with_budget(module_path!(), subject, budget);
        tokio::spawn(self.clone().save(path, receiver, outage));
        Saver {
            lists,
            again: SAVE.1.min(self.max_age / 2),
            last: Instant::now(),
        }
    }

    /// Writes the newest list, until there will be no other one. Where the disk hangs, the list is not held for it.
    async fn save(
        self: Arc<Self>,
        path: PathBuf,
        mut lists: watch::Receiver<List>,
        mut outage: Outage,
    ) {
        while lists.changed().await.is_ok() {
            let writing = async {
                let turn = self.turn.clone().acquire_owned().await?;
                let Some(list) = lists.borrow_and_update().clone() else {
                    return Ok(());
                };
                let (saved, path) = (self.clone(), path.clone());
                let written = spawn_blocking(move || {
                    let _turn = turn;
                    saved.write(&path, &list)
                });
                written.await?
            };
            let written = timeout(BUSY, writing).await;
            match written.unwrap_or_else(|_| Err(anyhow!("not written within {BUSY:?}"))) {
                Ok(()) => outage.succeeded(),
                Err(error) => outage.failed(
                    format!("{error:#}"),
                    "after a restart an older list or none is sent first",
                ),
            }
            sleep(SAVE.0).await;
        }
    }

    /// Writes one file, whole or not at all.
    fn write(&self, path: &Path, list: &DeviceList) -> anyhow::Result<()> {
        let directory = &self.directory;
        let context = || format!("writing into {}", directory.display());
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        make.create(directory).with_context(context)?;
        if !self.tidied.load(Ordering::Relaxed) || !path.exists() {
            let others = self.tidy().with_context(context)?;
            ensure!(
                others < MAX_FILES || path.exists(),
                "{} holds {MAX_FILES} lists already; those that nobody writes any more go after {:?}",
                directory.display(),
                self.max_age
            );
            self.tidied.store(true, Ordering::Relaxed);
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

    /// Removes what nobody writes any more, and counts the lists that are left. Files of other names are not touched.
    fn tidy(&self) -> io::Result<usize> {
        let now = SystemTime::now();
        let mut lists = 0;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_hash = |name: &str| name.len() == 32 && u128::from_str_radix(name, 16).is_ok();
            let limit = match name.strip_suffix(EXTENSION) {
                Some(name) if is_hash(name) => self.max_age,
                _ if name.starts_with(UNFINISHED) => ABANDONED,
                _ => continue,
            };
            // What is gone already is fine.
            let Ok(written) = entry.metadata().and_then(|metadata| metadata.modified()) else {
                continue;
            };
            if now.duration_since(written).unwrap_or_default() > limit {
                let _ = fs::remove_file(entry.path());
            } else if limit == self.max_age {
                lists += 1;
            }
        }
        Ok(lists)
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

/// Hashes what identifies a request. A version that does so in another way finds no list.
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
