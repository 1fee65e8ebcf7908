//! What is HTTP about an HTTP device, for the discovery handler and for the brokers.
//!
//! - [`Endpoint`]: where a device is, and the one grammar for it; [`shown`]: how an endpoint is logged;
//! - [`Client::get`]: one bounded GET, its [`Reply`], and the [`HttpError`]s that it can end with.

mod client;
mod endpoint;
mod error;
mod resolver;

pub use client::{Client, Redirects, Reply};
pub use endpoint::{Endpoint, EndpointError, MAX_ENDPOINT_BYTES, check_listed, excerpt, shown};
pub use error::HttpError;
pub use reqwest::{StatusCode, Url};
