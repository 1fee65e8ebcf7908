//! The wire types and services that this workspace speaks, generated from the `.proto` files beside this crate.

/// Akri's discovery interface, `discovery.proto`.
pub mod v0 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("v0");

    impl Device {
        /// A device of this id, with nothing else.
        pub fn new(id: impl Into<String>) -> Self {
            Self {
                id: id.into(),
                ..Self::default()
            }
        }

        /// The same with a property, which is a variable in its brokers' environment.
        pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.properties.insert(name.into(), value.into());
            self
        }

        /// The same with this path of the node mounted into its brokers, where it has the same path.
        pub fn with_mount(mut self, path: impl Into<String>, read_only: bool) -> Self {
            let (host_path, container_path) = same(path);
            self.mounts.push(Mount {
                container_path,
                host_path,
                read_only,
            });
            self
        }

        /// The same with this device node of the node for its brokers, where it has the same path. The permissions are some of
        /// `r`, `w` and `m` (mknod).
        pub fn with_device_spec(
            mut self,
            path: impl Into<String>,
            permissions: impl Into<String>,
        ) -> Self {
            let (host_path, container_path) = same(path);
            self.device_specs.push(DeviceSpec {
                container_path,
                host_path,
                permissions: permissions.into(),
            });
            self
        }
    }

    fn same(path: impl Into<String>) -> (String, String) {
        let path = path.into();
        (path.clone(), path)
    }
}

/// The brokers' interface, `http.proto`.
pub mod http {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("http");

    /// `http.proto` and what it imports as an encoded `FileDescriptorSet`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/http.bin"));
}
