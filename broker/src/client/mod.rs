//! The client of a gRPC broker: prints the readings that it gets, one a line.
//!
//! - `settings`: which broker, which device, and how to ask;
//! - `run`: asks, and asks again after a failure;
//! - `lines`: writes an answer as a line for a person.

mod lines;
mod run;
mod settings;

pub use run::{cause, run};
pub use settings::{Settings, broker};
