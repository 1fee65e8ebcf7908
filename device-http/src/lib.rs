//! What is HTTP about an HTTP device, for the discovery handler and for the brokers.
//!
//! - [`Endpoint`]: where a device is, and the one grammar for it; [`shown`]: how an endpoint is logged;
//! - [`Credentials`]: what a request proves and trusts; [`CredentialFiles`]: those of the process;
//! - [`Client::get`]: one bounded GET, its [`Reply`], and the [`HttpError`]s that it can end with.

mod client;
mod credentials;
mod endpoint;
mod error;
mod files;
mod pool;
mod reply;
mod resolver;

pub use client::{Client, Redirects};
pub use credentials::{Credentials, IdentityError, Why, text};
pub use endpoint::{Endpoint, EndpointError, MAX_ENDPOINT_BYTES, check_listed, excerpt, shown};
pub use error::HttpError;
pub use files::CredentialFiles;
pub use reply::Reply;
pub use reqwest::{StatusCode, Url, Version, header, tls::TlsInfo};
