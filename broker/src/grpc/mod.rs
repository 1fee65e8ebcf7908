//! The gRPC broker: serves the readings of its devices to the cluster.
//!
//! The way of a call:
//! 1. `server`: accepts a bounded number of connections, and routes their calls;
//! 2. `deadline`: ends a call at its deadline, and a stream also when the broker stops;
//! 3. `service`: bounds the calls at once, and turns requests into reads and outcomes into answers;
//! 4. `device`: finds the device and the path that a call names;
//! 5. `watch`: for a stream, decides when to read; knows timers and no HTTP;
//! 6. `sensor`: reads a path of a device, once for all who ask at the same time, and keeps the newest outcome.

mod deadline;
mod device;
mod sensor;
mod server;
mod service;
mod settings;
mod untaken;
mod watch;

pub use server::{CONNECTIONS, Config, run};
pub use service::{CALLS, WATCHES};
pub use settings::Settings;
