//! What is used here of the messages of the kubelet's container runtime interface, version 1. Source: api.proto of
//! k8s.io/cri-api, which these numbers come from.

/// Defines messages: a name, and its fields with their numbers.
macro_rules! messages {
    ($($name:ident { $($(#[$kind:meta])+ $field:ident: $type:ty,)* })*) => {
        $(#[derive(Clone, PartialEq, prost::Message)]
        pub(crate) struct $name { $($(#[$kind])+ pub(crate) $field: $type,)* })*
    };
}

messages! {
    Empty {}
    Value {
        #[prost(uint64, tag = 1)] value: u64,
    }
    Sandbox {
        #[prost(string, tag = 1)] id: String,
    }
    Metadata {
        #[prost(string, tag = 1)] name: String,
        #[prost(string, tag = 2)] uid: String,
        #[prost(string, tag = 3)] namespace: String,
    }
    SandboxConfig {
        #[prost(message, optional, tag = 1)] metadata: Option<Metadata>,
        #[prost(string, tag = 2)] hostname: String,
        #[prost(string, tag = 3)] log_directory: String,
        #[prost(message, optional, tag = 8)] linux: Option<LinuxSandbox>,
    }
    LinuxSandbox {
        #[prost(string, tag = 1)] cgroup_parent: String,
    }
    RunSandbox {
        #[prost(message, optional, tag = 1)] config: Option<SandboxConfig>,
        #[prost(string, tag = 2)] runtime_handler: String,
    }
    SandboxStatusAnswer {
        #[prost(message, optional, tag = 1)] status: Option<SandboxStatus>,
    }
    SandboxStatus {
        #[prost(int32, tag = 3)] state: i32,
        #[prost(message, optional, tag = 5)] network: Option<Network>,
    }
    Network {
        #[prost(string, tag = 1)] ip: String,
    }
    Image {
        #[prost(string, tag = 1)] image: String,
    }
    ContainerName {
        #[prost(string, tag = 1)] name: String,
    }
    ContainerConfig {
        #[prost(message, optional, tag = 1)] metadata: Option<ContainerName>,
        #[prost(message, optional, tag = 2)] image: Option<Image>,
        #[prost(string, repeated, tag = 3)] command: Vec<String>,
        #[prost(string, tag = 11)] log_path: String,
        #[prost(bool, tag = 12)] stdin: bool,
        #[prost(bool, tag = 13)] stdin_once: bool,
        #[prost(bool, tag = 14)] tty: bool,
        #[prost(message, optional, tag = 15)] linux: Option<LinuxContainer>,
    }
    LinuxContainer {
        #[prost(message, optional, tag = 1)] resources: Option<Resources>,
        #[prost(message, optional, tag = 2)] security: Option<Security>,
    }
    Resources {
        #[prost(int64, tag = 1)] cpu_period: i64,
        #[prost(int64, tag = 2)] cpu_quota: i64,
        #[prost(int64, tag = 3)] cpu_shares: i64,
        #[prost(int64, tag = 4)] memory_limit: i64,
        #[prost(int64, tag = 5)] oom_score_adj: i64,
    }
    Security {
        #[prost(message, optional, tag = 1)] capabilities: Option<Capabilities>,
        #[prost(message, optional, tag = 3)] name_spaces: Option<NameSpaces>,
        #[prost(message, optional, tag = 5)] user: Option<Value>,
        #[prost(bool, tag = 7)] read_only: bool,
        #[prost(bool, tag = 11)] no_new_privs: bool,
        #[prost(string, repeated, tag = 13)] masked_paths: Vec<String>,
        #[prost(message, optional, tag = 15)] seccomp: Option<Profile>,
    }
    Capabilities {
        #[prost(string, repeated, tag = 2)] drop: Vec<String>,
    }
    NameSpaces {
        #[prost(int32, tag = 2)] pid: i32,
    }
    Profile {
        #[prost(int32, tag = 1)] kind: i32,
    }
    CreateContainer {
        #[prost(string, tag = 1)] sandbox: String,
        #[prost(message, optional, tag = 2)] config: Option<ContainerConfig>,
        #[prost(message, optional, tag = 3)] sandbox_config: Option<SandboxConfig>,
    }
    Container {
        #[prost(string, tag = 1)] id: String,
    }
    StopContainer {
        #[prost(string, tag = 1)] id: String,
        #[prost(int64, tag = 2)] timeout: i64,
    }
    ContainerStatusAnswer {
        #[prost(message, optional, tag = 1)] status: Option<ContainerStatus>,
    }
    ContainerStatus {
        #[prost(int32, tag = 3)] state: i32,
        #[prost(int32, tag = 7)] exit_code: i32,
        #[prost(string, tag = 10)] reason: String,
        #[prost(string, tag = 11)] message: String,
    }
    Update {
        #[prost(string, tag = 1)] id: String,
        #[prost(message, optional, tag = 2)] linux: Option<Resources>,
    }
    ExecSync {
        #[prost(string, tag = 1)] id: String,
        #[prost(string, repeated, tag = 2)] command: Vec<String>,
        #[prost(int64, tag = 3)] timeout: i64,
    }
    ExecSyncAnswer {
        #[prost(bytes = "vec", tag = 1)] stdout: Vec<u8>,
        #[prost(bytes = "vec", tag = 2)] stderr: Vec<u8>,
        #[prost(int32, tag = 3)] exit_code: i32,
    }
    Exec {
        #[prost(string, tag = 1)] id: String,
        #[prost(string, repeated, tag = 2)] command: Vec<String>,
        #[prost(bool, tag = 3)] tty: bool,
        #[prost(bool, tag = 4)] stdin: bool,
        #[prost(bool, tag = 5)] stdout: bool,
        #[prost(bool, tag = 6)] stderr: bool,
    }
    Attach {
        #[prost(string, tag = 1)] id: String,
        #[prost(bool, tag = 2)] stdin: bool,
        #[prost(bool, tag = 3)] tty: bool,
        #[prost(bool, tag = 4)] stdout: bool,
        #[prost(bool, tag = 5)] stderr: bool,
    }
    Url {
        #[prost(string, tag = 1)] url: String,
    }
    StatsAnswer {
        #[prost(message, optional, tag = 1)] stats: Option<Stats>,
    }
    Stats {
        #[prost(message, optional, tag = 2)] cpu: Option<Usage>,
        #[prost(message, optional, tag = 3)] memory: Option<Usage>,
    }
    Usage {
        #[prost(message, optional, tag = 2)] amount: Option<Value>,
    }
}
