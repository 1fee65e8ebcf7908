//! Asks the broker, and asks again after a failure.

use std::{
    error::Error,
    future::Future,
    io::{self, Write},
    time::Duration,
};

use akri_daemon::{Outage, innermost, one_line};
use akri_proto::http::{
    ListDevicesRequest, ReadSensorRequest, ReadSensorResponse, WatchSensorRequest,
    WatchSensorResponse, device_service_client::DeviceServiceClient,
    watch_sensor_response::Outcome,
};
use anyhow::{Context, anyhow, bail, ensure};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{Settings, lines};

/// How long connecting to a broker may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take. A broker needs up to 10 s: 5 s to wait for its turn at the device and 5 s to read it.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// How often a broker that is silent during a call is asked whether it is still there (HTTP/2 PING), and how long it may
/// take to answer. Shorter intervals make grpc-go close the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The first pause before watching again. It doubles with each failure, up to the second value.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What follows after a failure, for the log.
const CONSEQUENCE: &str = "trying again";

type Client = DeviceServiceClient<Channel>;

/// Prints what the settings ask for to stdout, one line each, until `shutdown` is ready. A failing broker or device is
/// logged and asked again. Dropping the future cancels the call that is under way.
///
/// # Errors
/// - with `once` and `list`: there is no answer;
/// - otherwise: the broker refuses the request as invalid or does not know the method, so that asking again is useless;
/// - stdout cannot be written to.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let channel = Endpoint::from(settings.grpc_endpoint.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_lazy();
    let client = DeviceServiceClient::new(channel);
    let broker = settings.grpc_endpoint.authority();
    let outage = Outage::new(
        module_path!(),
        broker.map_or("the broker", |broker| broker.as_str()),
    );
    let work = async {
        if settings.list {
            list(client).await
        } else if settings.once {
            let reading = ask(client, &settings).await.map_err(error)?;
            print(&lines::reading(&reading))
        } else if settings.watch {
            watch(client, &settings, outage).await
        } else {
            read(client, &settings, outage).await
        }
    };
    tokio::select! {
        done = work => done,
        () = shutdown => {
            ensure!(!settings.once && !settings.list, "stopped before there was an answer");
            Ok(())
        }
    }
}

async fn list(mut client: Client) -> anyhow::Result<()> {
    let request = with_deadline(ListDevicesRequest {});
    let answer = client.list_devices(request).await.map_err(error)?;
    for device in answer.into_inner().devices {
        print(&lines::device(&device))?;
    }
    Ok(())
}

async fn read(client: Client, settings: &Settings, mut outage: Outage) -> anyhow::Result<()> {
    let mut ticks = interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ask(client.clone(), settings).await {
            Ok(reading) => {
                outage.succeeded();
                print(&lines::reading(&reading))?;
            }
            Err(status) if is_lasting(&status) => return Err(error(status)),
            Err(status) => outage.failed(cause(&status), CONSEQUENCE),
        }
    }
}

async fn ask(mut client: Client, settings: &Settings) -> Result<ReadSensorResponse, Status> {
    let request = with_deadline(ReadSensorRequest {
        name: settings.name.clone(),
        endpoint: settings.device.clone(),
    });
    client.read_sensor(request).await.map(Response::into_inner)
}

async fn watch(client: Client, settings: &Settings, mut outage: Outage) -> anyhow::Result<()> {
    let mut pause = PAUSES.0;
    loop {
        let end = match begin(client.clone(), settings).await {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        pause = PAUSES.0;
                        show(message, &mut outage)?;
                    }
                    Ok(None) => break Status::unavailable("the broker ended the stream"),
                    Err(status) => break status,
                }
            },
            Err(status) => status,
        };
        if is_lasting(&end) {
            bail!(error(end));
        }
        outage.failed(cause(&end), CONSEQUENCE);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// A watch has no deadline, but it has to begin within [`CALL_TIMEOUT`].
async fn begin(
    mut client: Client,
    settings: &Settings,
) -> Result<Streaming<WatchSensorResponse>, Status> {
    let request = WatchSensorRequest {
        name: settings.name.clone(),
        endpoint: settings.device.clone(),
        interval: settings.interval.try_into().ok(),
        min_change: settings.min_change,
    };
    match timeout(CALL_TIMEOUT, client.watch_sensor(request)).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("")),
    }
}

fn show(message: WatchSensorResponse, outage: &mut Outage) -> anyhow::Result<()> {
    match message.outcome {
        Some(Outcome::Reading(reading)) => {
            outage.succeeded();
            print(&lines::reading(&reading))?;
        }
        Some(Outcome::Failure(failure)) => {
            let status = Status::new(Code::from_i32(failure.code), failure.message);
            outage.failed(cause(&status), CONSEQUENCE);
        }
        None => {}
    }
    Ok(())
}

fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Whether the same request would fail again.
fn is_lasting(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::Unimplemented)
}

fn error(status: Status) -> anyhow::Error {
    anyhow!(cause(&status))
}

/// Why a call failed, in one line.
pub fn cause(status: &Status) -> String {
    let code = status.code();
    match (status.source(), status.message()) {
        // tonic says this when the client itself enforces the deadline.
        (_, "" | "Timeout expired") if matches!(code, Code::Cancelled | Code::DeadlineExceeded) => {
            format!("the broker did not answer within {CALL_TIMEOUT:?}")
        }
        (Some(source), message) => {
            let innermost = innermost(source).to_string();
            format!("{code:?}: {}: {}", one_line(message), one_line(&innermost))
        }
        (None, message) => format!("{code:?}: {}", one_line(message)),
    }
}

fn print(line: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}
