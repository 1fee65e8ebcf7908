//! The handler as a process that is measured.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// A memory cgroup with the limit of Akri's chart (rule 17), where this machine lets us make one: as root, v1 or v2.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let name = format!("akri-http-bench-{}", std::process::id());
        [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ]
        .into_iter()
        .find_map(|(root, limit)| {
            let cgroup = Self(Path::new(root).join(&name));
            fs::create_dir(&cgroup.0).ok()?;
            fs::write(cgroup.0.join(limit), (24 << 20).to_string()).ok()?;
            Some(cgroup)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The real binary, with its memory limited where that can be done, its lists saved and an admin port.
pub struct Handler {
    process: Child,
    cgroup: Option<Cgroup>,
    admin: u16,
}

impl Handler {
    pub fn start(directory: &Path) -> Self {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = admin.local_addr().unwrap().port();
        let cgroup = Cgroup::new();
        let mut command = Command::new("sh");
        match &cgroup {
            Some(cgroup) => command
                .args(["-c", "echo $$ >\"$0\"/cgroup.procs && exec \"$1\""])
                .arg(&cgroup.0),
            None => command.args(["-c", "exec \"$1\"", "sh"]),
        };
        let process = command
            .arg(env!("CARGO_BIN_EXE_discovery-handler"))
            .env("DISCOVERY_HANDLERS_DIRECTORY", directory)
            .env("STATE_DIRECTORY", directory.join("state"))
            .env("ADMIN_ADDRESS", format!("127.0.0.1:{admin}"))
            .env("RUST_LOG", "error")
            .spawn()
            .unwrap();
        Self {
            process,
            cgroup,
            admin,
        }
    }

    /// Reads the metrics, as Prometheus does.
    pub fn scrape(&self) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.admin)) else {
            return;
        };
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n");
        let _ = stream.read_to_string(&mut String::new());
    }

    /// Whether it lives on with the limit.
    pub fn limited(&mut self) -> &'static str {
        match (&self.cgroup, self.process.try_wait().unwrap()) {
            (None, _) => "not measured",
            (Some(_), None) => "lives",
            (Some(_), Some(_)) => "killed",
        }
    }

    /// What all its threads have used so far.
    pub fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.process.id());
        let used = |task: &Path| -> u64 {
            let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ')
                .next()
                .and_then(|ns| ns.parse().ok())
                .unwrap_or(0)
        };
        let tasks = fs::read_dir(tasks).unwrap().flatten();
        Duration::from_nanos(tasks.map(|task| used(&task.path())).sum())
    }

    /// The most memory that was resident so far.
    pub fn peak_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        // A process that was killed has none.
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.map_or(f64::NAN, |kib| kib.parse::<f64>().unwrap() / 1024.0)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
