//! Brokers: programs that use the HTTP devices which Akri hands to their Pod.
//!
//! Every broker:
//! 1. [`pod_devices`]: finds its devices in the environment that the kubelet gives the Pod;
//! 2. [`read`]: reads one device with one bounded GET;
//! 3. `metrics`: tells Prometheus how that went.
//!
//! The brokers, and a client:
//! - [`standalone`]: reads each device at an interval and logs the values;
//! - [`grpc`]: serves readings of its devices to the cluster;
//! - [`client`]: asks a gRPC broker for readings and prints them.

pub mod client;
pub mod grpc;
mod interval;
mod metrics;
pub mod pod_devices;
pub mod read;
pub mod standalone;

pub use akri_device_http::CredentialFiles;
pub use interval::parse_interval;
