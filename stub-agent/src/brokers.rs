//! Step 4, the Controller's and the kubelet's part: one broker process per Instance.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::instances::Instance;

/// How long a broker may take after SIGTERM, until SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// A broker that exits by itself is restarted after this long, doubling up to [`LONGEST_BACK_OFF`].
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// A broker that ran this long starts over with [`FIRST_BACK_OFF`].
const STEADY: Duration = Duration::from_secs(60);

/// The running brokers. Dropping it kills them.
pub(crate) struct Brokers {
    command: String,
    /// `None` once no broker may be started any more.
    running: Mutex<Option<Running>>,
}

#[derive(Default)]
struct Running {
    /// What stops the broker of an Instance, by the Instance's name.
    stops: BTreeMap<String, CancellationToken>,
    /// One task per broker, also of those that are being stopped.
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
        if let Some(running) = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            act(running);
        }
    }

    /// Starts a broker that keeps this environment for the Instance's life, also when it is restarted (rule 14).
    pub fn start(&self, instance: &Instance) {
        let stop = CancellationToken::new();
        let name = instance.name.clone();
        let broker = keep_running(
            self.command.clone(),
            name.clone(),
            environment(instance),
            stop.clone(),
        );
        self.with_running(|running| {
            while running.tasks.try_join_next().is_some() {}
            running.tasks.spawn(broker);
            running.stops.insert(name, stop);
        });
    }

    /// Lets the broker of an Instance stop, without waiting for it.
    pub fn stop(&self, instance_name: &str) {
        self.with_running(|running| {
            if let Some(stop) = running.stops.remove(instance_name) {
                stop.cancel();
            }
        });
    }

    /// Stops all brokers and waits for them, six seconds at most.
    pub async fn stop_all(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut running) = running {
            running.stops.values().for_each(CancellationToken::cancel);
            while running.tasks.join_next().await.is_some() {}
        }
    }

    /// Kills all brokers as soon as the runtime turns to their tasks, and at its end at the latest.
    pub fn kill_all(&self) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// What the kubelet would give the broker: each property under its plain name and with the hash as suffix (rule 13).
fn environment(instance: &Instance) -> BTreeMap<String, String> {
    let hash = instance.hash.to_uppercase();
    let mut environment = BTreeMap::new();
    for (key, value) in &instance.properties {
        if is_c_identifier(key) {
            environment.insert(key.clone(), value.clone());
            environment.insert(format!("{key}_{hash}"), value.clone());
        } else {
            log::warn!(
                "Instance {}: the property {key:?} is no C identifier, its broker does not get it",
                instance.name
            );
        }
    }
    environment
}

fn is_c_identifier(key: &str) -> bool {
    !key.starts_with(|c: char| c.is_ascii_digit())
        && !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Runs the broker, and again whenever it exits, until `stop`. Dropping the future kills it.
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
                        Ok(status) => format!("its broker exited by itself, {status}"),
                        Err(error) => format!("its broker cannot be waited for: {error}"),
                    },
                    () = stop.cancelled() => {
                        let how = broker.stop().await;
                        log::info!("Instance {name}: broker {how}");
                        return;
                    }
                }
            }
            Err(error) => format!("its broker cannot be started: {error:#}"),
        };
        if started.elapsed() >= STEADY {
            back_off = FIRST_BACK_OFF;
        }
        log::warn!(
            "Instance {name}: {ended}; restarting it in {} s",
            back_off.as_secs()
        );
        tokio::select! {
            () = sleep(back_off) => {}
            () = stop.cancelled() => {}
        }
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}

/// A broker process, the leader of a process group of its own.
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
        // What is left from an Agent or a broker around us is not this broker's.
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"AKRI_") {
                shell.env_remove(key);
            }
        }
        let child = shell.envs(environment).spawn().context("sh")?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok(Self {
            group: Group(pid.context("it has no process id")?),
            child,
        })
    }

    /// SIGTERM to the group; SIGKILL when the leader is left after [`GRACE`], or others a second after it.
    async fn stop(mut self) -> &'static str {
        self.group.signal(Signal::TERM);
        let ended = timeout(GRACE, self.child.wait()).await.is_ok();
        let empty = async {
            while self.group.is_alive() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // The kubelet would not wait for the others, but a shell may have ended before the command that it ran.
        // They count as alive until init reaps them, which it does late or never in some containers.
        if ended && timeout(Duration::from_secs(1), empty).await.is_ok() {
            return "stopped";
        }
        self.group.signal(Signal::KILL);
        // Only a process that the kernel cannot end right now takes longer.
        let _ = timeout(Duration::from_secs(1), self.child.wait()).await;
        if ended {
            "stopped"
        } else {
            "killed, for it did not stop"
        }
    }
}

/// A process group, killed on drop. The signal comes too late for a leader that was waited for, and then reaches what
/// the broker left behind: the kubelet would end the whole container too. Its id is not given to another process as
/// long as any of it lives, and hardly within the moment between the leader's end and the drop.
struct Group(Pid);

impl Group {
    fn signal(&self, signal: Signal) {
        // Fails only when nothing of the group is left, which is the aim.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_13_each_property_is_there_plain_and_suffixed() {
        let properties = [
            ("AKRI_HTTP", "http"),
            ("ENDPOINT", "a=b"),
            ("1ST", "x"),
            ("A-B", "x"),
            ("", "x"),
        ];
        let instance = Instance {
            name: "http-4294ea".to_owned(),
            configuration: "http".to_owned(),
            hash: "4294ea".to_owned(),
            device_id: "my_shared_device".to_owned(),
            properties: properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            shared: true,
        };
        let expected = [
            ("AKRI_HTTP", "http"),
            ("AKRI_HTTP_4294EA", "http"),
            ("ENDPOINT", "a=b"),
            ("ENDPOINT_4294EA", "a=b"),
        ];
        assert_eq!(
            environment(&instance),
            expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
    }
}
