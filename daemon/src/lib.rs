//! What every binary of this workspace does alike.
//!
//! - [`execute`]: settings, log, runtime, signals, exit status;
//! - [`Outage`] and [`LineBudget`]: what happens again and again, in few log lines;
//! - [`Connections`]: a server for gRPC that bounds what its peers can hold; [`accept`] for servers of another kind;
//! - [`Admin`]: liveness, readiness and metrics over HTTP;
//! - [`parse_duration`], [`parse_listen_address`], [`listen`]: settings as people write them;
//! - [`one_line`], [`causes`], [`innermost`]: somebody else's words in a log line.

mod admin;
mod connections;
mod outage;
mod settings;
mod start;
mod stderr;
mod words;

pub use admin::{Admin, AdminSettings, Loop, Loops, registry};
pub use connections::{Close, Connections, Limits, Tcp, accept};
pub use outage::{LineBudget, Outage};
pub use settings::{listen, parse_duration, parse_listen_address};
pub use start::{BadSetting, Shutdown, execute, execute_with, log_builder, version};
pub use words::{causes, innermost, is_harmless, one_line};
