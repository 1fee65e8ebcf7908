//! The gRPC client: prints readings that it gets from a gRPC broker.

use std::{
    error::Error,
    future::Future,
    io::{self, Write},
    time::Duration,
};

use akri_http_proto::http::{
    ListDevicesRequest, ReadSensorRequest, ReadSensorResponse, WatchSensorRequest,
    device_service_client::DeviceServiceClient, watch_sensor_response::Outcome,
};
use anyhow::{Context, anyhow, bail, ensure};
use clap::Parser;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{lines, one_line, read::deepest, standalone::parse_interval};

/// How long a broker may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take: longer than a broker reads a device and waits for its turn.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// How often a broker that is silent during a call is asked whether it is still there, and how long it
/// may take to say so. A Go broker ends connections that ask more often than it likes, but only where
/// it has nothing to say itself.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The pauses between attempts to watch again: the first, and what doubling it ends at.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type Client = DeviceServiceClient<Channel>;

/// The settings of the `grpc-client` binary.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "grpc-client",
    version,
    about = "Reads a device through a gRPC broker every 10 s and prints the readings"
)]
#[command(
    after_help = "--once ends with status 0 when a reading was printed, 1 when there was none, 2 for a bad setting.\n\
    RUST_LOG sets what is logged (default info)."
)]
pub struct Settings {
    /// The broker: HOST:PORT, or :PORT on this machine
    #[arg(
        long = "grpc_endpoint",
        alias = "grpc-endpoint",
        env = "GRPC_ENDPOINT",
        value_name = "GRPC_ENDPOINT",
        default_value = "localhost:50051",
        value_parser = broker
    )]
    pub grpc_endpoint: Uri,

    /// Device to read, as --list shows it; without it, the broker's first
    #[arg(
        long,
        env = "DEVICE",
        value_name = "DEVICE",
        default_value = "",
        hide_default_value = true
    )]
    pub device: String,

    /// Path to read on the device; / is its endpoint itself
    #[arg(
        long,
        env = "SENSOR_NAME",
        value_name = "SENSOR_NAME",
        default_value = "/"
    )]
    pub name: String,

    /// Time between two readings, from 100ms to 24h
    #[arg(
        long,
        env = "POLL_INTERVAL",
        value_name = "POLL_INTERVAL",
        default_value = "10s",
        value_parser = parse_interval
    )]
    pub interval: Duration,

    /// With --watch: only readings that differ from the one before by more than this
    #[arg(long, env = "MIN_CHANGE", value_name = "MIN_CHANGE", value_parser = change)]
    pub min_change: Option<f64>,

    /// Let the broker send readings, instead of asking for each
    #[arg(long, group = "what")]
    pub watch: bool,

    /// Print one reading and end
    #[arg(long, group = "what")]
    pub once: bool,

    /// Print the broker's devices and end
    #[arg(long, group = "what")]
    pub list: bool,
}

fn broker(text: &str) -> Result<Uri, String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    // As in Go, no host is this machine.
    let host = if address.starts_with(':') {
        "localhost"
    } else {
        ""
    };
    format!("http://{host}{address}")
        .parse()
        .ok()
        .filter(|uri: &Uri| {
            uri.path() == "/"
                && uri.query().is_none()
                && uri.port_u16().is_some_and(|port| port > 0)
                && uri.authority().is_some_and(|it| !it.as_str().contains('@'))
        })
        .ok_or_else(|| "expected HOST:PORT, such as localhost:50051".to_owned())
}

fn change(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|change: &f64| change.is_finite() && *change >= 0.0)
        .ok_or_else(|| "expected a number from 0 on".to_owned())
}

/// Prints what the settings ask for, a line each, to stdout, until `shutdown` is ready. A broker or a
/// device that fails is logged, once for each cause, and asked again. Dropping the future ends all.
///
/// # Errors
/// With `once` and `list`, when there is no answer. Otherwise when the broker refuses the request as such,
/// or does not know the method, so that asking again is of no use. Always when stdout is gone.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let channel = Endpoint::from(settings.grpc_endpoint.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_lazy();
    let client = DeviceServiceClient::new(channel);
    let ends = settings.once || settings.list;
    let work = async {
        if settings.list {
            list(client).await
        } else if settings.once {
            once(client, &settings).await
        } else if settings.watch {
            watch(client, &settings).await
        } else {
            read(client, &settings).await
        }
    };
    tokio::select! {
        done = work => done,
        () = shutdown => {
            ensure!(!ends, "stopped before there was an answer");
            Ok(())
        }
    }
}

async fn list(mut client: Client) -> anyhow::Result<()> {
    let answer = client
        .list_devices(with_deadline(ListDevicesRequest {}))
        .await;
    let devices = answer
        .map_err(|status| anyhow!(cause(&status)))?
        .into_inner()
        .devices;
    for device in devices {
        print(&lines::device(&device))?;
    }
    Ok(())
}

async fn once(client: Client, settings: &Settings) -> anyhow::Result<()> {
    match ask(client, settings).await {
        Ok(reading) => print(&lines::reading(&reading)),
        Err(status) => bail!(cause(&status)),
    }
}

async fn read(client: Client, settings: &Settings) -> anyhow::Result<()> {
    let mut outage = Outage::default();
    let mut ticks = interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ask(client.clone(), settings).await {
            Ok(reading) => {
                outage.over();
                print(&lines::reading(&reading))?;
            }
            Err(status) if is_lasting(&status) => bail!(cause(&status)),
            Err(status) => outage.is(cause(&status)),
        }
    }
}

async fn ask(mut client: Client, settings: &Settings) -> Result<ReadSensorResponse, Status> {
    let request = with_deadline(ReadSensorRequest {
        name: settings.name.clone(),
        endpoint: settings.device.clone(),
    });
    client
        .read_sensor(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn watch(client: Client, settings: &Settings) -> anyhow::Result<()> {
    let mut outage = Outage::default();
    let mut pause = PAUSES.0;
    loop {
        let Watched { answered, end } = watch_once(client.clone(), settings, &mut outage).await?;
        if is_lasting(&end) {
            bail!(cause(&end));
        }
        if answered {
            pause = PAUSES.0;
        }
        outage.is(cause(&end));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// How a stream ended, and whether it had brought anything.
struct Watched {
    answered: bool,
    end: Status,
}

async fn watch_once(
    mut client: Client,
    settings: &Settings,
    outage: &mut Outage,
) -> anyhow::Result<Watched> {
    let request = WatchSensorRequest {
        name: settings.name.clone(),
        endpoint: settings.device.clone(),
        interval: settings.interval.try_into().ok(),
        min_change: settings.min_change,
    };
    let mut answered = false;
    // A watch has no deadline, but has to begin.
    let begun = timeout(CALL_TIMEOUT, client.watch_sensor(request)).await;
    let end = match begun {
        Err(_) => Status::deadline_exceeded(""),
        Ok(Err(status)) => status,
        Ok(Ok(stream)) => {
            let mut stream = stream.into_inner();
            loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        answered = true;
                        match message.outcome {
                            Some(Outcome::Reading(reading)) => {
                                outage.over();
                                print(&lines::reading(&reading))?;
                            }
                            Some(Outcome::Failure(failure)) => {
                                outage.is(cause(&Status::new(
                                    Code::from_i32(failure.code),
                                    failure.message,
                                )));
                            }
                            None => {}
                        }
                    }
                    Ok(None) => break Status::unavailable("the broker ended the stream"),
                    Err(status) => break status,
                }
            }
        }
    };
    Ok(Watched { answered, end })
}

fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Whether asking again would be of no use.
fn is_lasting(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::Unimplemented)
}

fn cause(status: &Status) -> String {
    let code = status.code();
    match (status.source(), status.message()) {
        // So tonic calls a deadline that the client keeps by itself.
        (_, "" | "Timeout expired") if matches!(code, Code::Cancelled | Code::DeadlineExceeded) => {
            format!("the broker did not answer within {CALL_TIMEOUT:?}")
        }
        (Some(source), message) => format!("{code:?}: {}: {}", one_line(message), deepest(source)),
        (None, message) => format!("{code:?}: {}", one_line(message)),
    }
}

fn print(line: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

/// A cause is logged when it begins or changes.
#[derive(Default)]
struct Outage(Option<String>);

impl Outage {
    fn is(&mut self, cause: String) {
        if self.0.as_ref() != Some(&cause) {
            log::warn!("no reading: {cause}; trying again");
            self.0 = Some(cause);
        }
    }

    fn over(&mut self) {
        if self.0.take().is_some() {
            log::info!("there are readings again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        for (text, uri) in [
            ("localhost:50051", "http://localhost:50051/"),
            ("http-svc:50051", "http://http-svc:50051/"),
            ("http://10.0.0.1:1", "http://10.0.0.1:1/"),
            (":8084", "http://localhost:8084/"),
            ("[::1]:1", "http://[::1]:1/"),
        ] {
            assert_eq!(broker(text).unwrap().to_string(), uri);
        }
        for text in [
            "",
            ":",
            "localhost",
            "a:0",
            "a:65536",
            "https://a:1",
            "a:1/x",
            "a:1?x",
            "u:p@a:1",
            "a b:1",
        ] {
            assert!(broker(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_change_is_a_finite_number_from_0_on() {
        assert_eq!(change("0.5"), Ok(0.5));
        assert_eq!(change("0"), Ok(0.0));
        for text in ["", "-1", "nan", "inf", "much"] {
            assert!(change(text).is_err(), "{text}");
        }
    }
}
