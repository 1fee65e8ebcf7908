//! Lines to stderr, written by a thread of their own, so that a pipe that nobody reads stops nothing but the log. A line that
//! finds no room is dropped and counted, and the next one that finds room says how many were lost.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How many lines may wait.
const WAITING: usize = 256;

/// For each of them.
pub(crate) struct Stderr;

struct Lines {
    sender: SyncSender<Vec<u8>>,
    /// How many wait or are being written.
    waiting: AtomicUsize,
    lost: AtomicU64,
}

/// `None` where no thread can be had; then lines are written as they come.
fn lines() -> Option<&'static Lines> {
    static LINES: OnceLock<Option<Lines>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = thread::Builder::new().name("log".into());
        thread.spawn(|| write_all(receiver)).ok()?;
        Some(Lines {
            sender,
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        })
    };
    LINES.get_or_init(start).as_ref()
}

fn write_all(receiver: Receiver<Vec<u8>>) {
    for line in receiver {
        // Where stderr is gone, there is nobody to tell.
        let _ = io::stderr().write_all(&line);
        if let Some(lines) = lines() {
            lines.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Write for Stderr {
    /// Takes one line, or several.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(lines) = lines() else {
            return io::stderr().write(line);
        };
        let lost = lines.lost.swap(0, Ordering::Relaxed);
        let mut bytes = match lost {
            0 => Vec::new(),
            lost => format!("({lost} log lines could not be written)\n").into_bytes(),
        };
        bytes.extend_from_slice(line);
        lines.waiting.fetch_add(1, Ordering::Relaxed);
        if lines.sender.try_send(bytes).is_err() {
            lines.waiting.fetch_sub(1, Ordering::Relaxed);
            lines.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all lines are written, or so long.
pub(crate) fn drain(within: Duration) {
    let until = Instant::now() + within;
    let wait = || lines().is_some_and(|lines| lines.waiting.load(Ordering::Relaxed) > 0);
    while wait() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
}
