//! Step 4, the part of the Controller and the kubelet: a broker process for each Instance.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::instances::Instance;
use crate::lock;

/// How long a broker has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// The delay before a broker that exited is restarted. It doubles up to [`LONGEST_BACK_OFF`].
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// After this time the delay starts over with [`FIRST_BACK_OFF`].
const STEADY: Duration = Duration::from_secs(60);

/// The running brokers. Dropping this kills them.
pub(crate) struct Brokers {
    command: String,
    /// `None` once the brokers were stopped or killed: no new one starts.
    running: Mutex<Option<Running>>,
}

#[derive(Default)]
struct Running {
    /// Stops the broker of an Instance, by the Instance's name.
    stops: BTreeMap<String, CancellationToken>,
    /// A task for each broker, with those that are stopping.
    tasks: JoinSet<()>,
}

impl Brokers {
    /// `command` is for `sh -c`.
    pub fn new(command: String) -> Self {
        Self {
            command,
            running: Mutex::new(Some(Running::default())),
        }
    }

    fn with_running(&self, act: impl FnOnce(&mut Running)) {
        if let Some(running) = lock(&self.running).as_mut() {
            act(running);
        }
    }

    /// Starts a broker. It keeps this environment when it is restarted, also if a property changes (rule 14).
    pub fn start(&self, instance: &Instance) {
        for property in instance.left_out() {
            log::warn!(
                "Instance {}: its broker does not get the property {property:?}, because that is not a C identifier",
                instance.name
            );
        }
        let stop = CancellationToken::new();
        let name = instance.name.clone();
        let broker = keep_running(
            self.command.clone(),
            name.clone(),
            instance.environment(),
            stop.clone(),
        );
        self.with_running(|running| {
            while running.tasks.try_join_next().is_some() {}
            running.tasks.spawn(broker);
            running.stops.insert(name, stop);
        });
    }

    /// Starts to stop the broker of an Instance.
    pub fn stop(&self, instance_name: &str) {
        self.with_running(|running| {
            if let Some(stop) = running.stops.remove(instance_name) {
                stop.cancel();
            }
        });
    }

    /// Stops all brokers and waits for their end, six seconds at most.
    pub async fn stop_all(&self) {
        let running = lock(&self.running).take();
        if let Some(mut running) = running {
            running.stops.values().for_each(CancellationToken::cancel);
            while running.tasks.join_next().await.is_some() {}
        }
    }

    /// Kills all brokers when the runtime turns to their tasks, at its end at the latest.
    pub fn kill_all(&self) {
        lock(&self.running).take();
    }
}

/// Runs a broker until `stop`, and restarts it when it exits. Dropping the future kills it.
async fn keep_running(
    command: String,
    name: String,
    environment: BTreeMap<String, String>,
    stop: CancellationToken,
) {
    let mut back_off = FIRST_BACK_OFF;
    while !stop.is_cancelled() {
        let started = Instant::now();
        let ended = match Broker::start(&command, &environment) {
            Ok(mut broker) => {
                log::info!(
                    "Instance {name}: broker {} started",
                    broker.group.0.as_raw_nonzero()
                );
                tokio::select! {
                    status = broker.child.wait() => match status {
                        Ok(status) => format!("its broker exited: {status}"),
                        Err(error) => format!("cannot wait for its broker: {error}"),
                    },
                    () = stop.cancelled() => {
                        let how = broker.stop().await;
                        log::info!("Instance {name}: broker {how}");
                        return;
                    }
                }
            }
            Err(error) => format!("cannot start its broker: {error:#}"),
        };
        if started.elapsed() >= STEADY {
            back_off = FIRST_BACK_OFF;
        }
        log::warn!(
            "Instance {name}: {ended}; the next start is in {} s",
            back_off.as_secs()
        );
        tokio::select! {
            () = sleep(back_off) => {}
            () = stop.cancelled() => {}
        }
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}

/// A broker process. It leads its own process group.
struct Broker {
    group: Group,
    child: Child,
}

impl Broker {
    fn start(command: &str, environment: &BTreeMap<String, String>) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(command)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        // We may run inside a broker ourselves; its environment is not for this one.
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"AKRI_") {
                shell.env_remove(key);
            }
        }
        let child = shell.envs(environment).spawn().context("running sh")?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok(Self {
            group: Group(pid.context("sh has no process id")?),
            child,
        })
    }

    /// Sends SIGTERM to the group. Sends SIGKILL if the leader lives after [`GRACE`], or the others a second after its end.
    async fn stop(mut self) -> &'static str {
        self.group.signal(Signal::TERM);
        let ended = timeout(GRACE, self.child.wait()).await.is_ok();
        let empty = async {
            while self.group.is_alive() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // A shell may end before the command that it runs. The kubelet would not wait for that command, but we do. It counts
        // as alive until init reaps it, and the init of some containers never does.
        if ended && timeout(Duration::from_secs(1), empty).await.is_ok() {
            return "stopped";
        }
        self.group.signal(Signal::KILL);
        // Only a process in an uninterruptible system call takes longer.
        let _ = timeout(Duration::from_secs(1), self.child.wait()).await;
        if ended {
            "stopped"
        } else {
            "killed, because it ignored SIGTERM"
        }
    }
}

/// A process group, killed on drop. The signal also ends what a dead leader left behind, as the kubelet ends the whole
/// container. The kernel does not reuse the group's id while a member lives, and hardly between the leader's end and the drop.
struct Group(Pid);

impl Group {
    fn signal(&self, signal: Signal) {
        // This fails only if no member is left.
        let _ = kill_process_group(self.0, signal);
    }

    fn is_alive(&self) -> bool {
        test_kill_process_group(self.0).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
