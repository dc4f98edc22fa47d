//! containerd's messages, field by field as in its .proto files (api/runtime/task/v3/shim.proto, api/events/task.proto,
//! api/types, api/runtime/bootstrap/v1, and ttrpc's request.proto). Those of task v2 are the same under another name.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::wire::Message;

/// google.protobuf.Empty, on the wire.
pub(crate) const EMPTY: Vec<u8> = Vec::new();

crate::messages! {
    // ttrpc
    Request { 1 service: String, 2 method: String, 3 payload: Vec<u8>, 4 timeout_nano: i64, }
    Response { 1 status: Option<Status>, 2 payload: Vec<u8>, }
    /// google.rpc.Status
    Status { 1 code: i32, 2 message: String, }

    // google.protobuf
    Any { 1 type_url: String, 2 value: Vec<u8>, }
    Timestamp { 1 seconds: i64, 2 nanos: i32, }

    // containerd.task.v3
    CreateRequest {
        1 id: String, 2 bundle: String, 3 rootfs: Vec<Mount>, 4 terminal: bool, 5 stdin: String, 6 stdout: String, 7 stderr: String,
        8 checkpoint: String, 9 parent_checkpoint: String, 10 options: Option<Any>,
    }
    /// Those requests and answers that name a process, or tell its pid.
    ProcessRequest { 1 id: String, 2 exec_id: String, }
    PidResponse { 1 pid: u32, }
    DeleteResponse { 1 pid: u32, 2 exit_status: u32, 3 exited_at: Option<Timestamp>, }
    ExecRequest {
        1 id: String, 2 exec_id: String, 3 terminal: bool, 4 stdin: String, 5 stdout: String, 6 stderr: String, 7 spec: Option<Any>,
    }
    ResizePtyRequest { 1 id: String, 2 exec_id: String, 3 width: u32, 4 height: u32, }
    StateResponse {
        1 id: String, 2 bundle: String, 3 pid: u32, 4 status: u32, 5 stdin: String, 6 stdout: String, 7 stderr: String,
        8 terminal: bool, 9 exit_status: u32, 10 exited_at: Option<Timestamp>, 11 exec_id: String,
    }
    KillRequest { 1 id: String, 2 exec_id: String, 3 signal: u32, 4 all: bool, }
    CloseIoRequest { 1 id: String, 2 exec_id: String, 3 stdin: bool, }
    PidsResponse { 1 processes: Vec<ProcessInfo>, }
    ProcessInfo { 1 pid: u32, 2 info: Option<Any>, }
    ProcessDetails { 1 exec_id: String, }
    UpdateRequest { 1 id: String, 2 resources: Option<Any>, 3 annotations: BTreeMap<String, String>, }
    WaitResponse { 1 exit_status: u32, 2 exited_at: Option<Timestamp>, }
    StatsResponse { 1 stats: Option<Any>, }
    ConnectResponse { 1 shim_pid: u32, 2 task_pid: u32, 3 version: String, }

    // containerd.runtime.sandbox.v1
    CreateSandboxRequest { 1 sandbox_id: String, 2 bundle_path: String, 4 options: Option<Any>, 5 netns_path: String, }
    /// Those requests that name a sandbox.
    SandboxRequest { 1 sandbox_id: String, }
    StartSandboxResponse { 1 pid: u32, 2 created_at: Option<Timestamp>, }
    PlatformResponse { 1 platform: Option<Platform>, }
    Platform { 1 os: String, 2 architecture: String, }
    SandboxStatusResponse {
        1 sandbox_id: String, 2 pid: u32, 3 state: String, 5 created_at: Option<Timestamp>, 6 exited_at: Option<Timestamp>,
    }
    SandboxMetricsResponse { 1 metrics: Option<Metric>, }
    Metric { 1 timestamp: Option<Timestamp>, 2 id: String, 3 data: Option<Any>, }

    // Kubernetes' runtime.v1: PodSandboxConfig
    PodConfig { 2 hostname: String, 4 dns: Option<Dns>, 8 linux: Option<PodLinux>, }
    Dns { 1 servers: Vec<String>, 2 searches: Vec<String>, 3 options: Vec<String>, }
    PodLinux { 1 cgroup_parent: String, 2 security: Option<PodSecurity>, 3 sysctls: BTreeMap<String, String>, }
    PodSecurity { 1 namespaces: Option<PodNamespaces>, }
    /// Each is a mode: 0 the pod's own, 1 the container's own, 2 the host's.
    PodNamespaces { 1 network: i32, 2 pid: i32, 3 ipc: i32, 5 user: Option<PodUser>, }
    PodUser { 1 mode: i32, }

    // containerd.types
    Mount { 1 kind: String, 2 source: String, 3 target: String, 4 options: Vec<String>, }
    Envelope { 1 timestamp: Option<Timestamp>, 2 namespace: String, 3 topic: String, 4 event: Option<Any>, }
    ForwardRequest { 1 envelope: Option<Envelope>, }
    RuntimeInfo {
        1 name: String, 2 version: Option<RuntimeVersion>, 3 options: Option<Any>, 4 features: Option<Any>,
        5 annotations: BTreeMap<String, String>,
    }
    RuntimeVersion { 1 version: String, 2 revision: String, }

    // containerd.events
    TaskCreate { 1 container_id: String, 2 bundle: String, 3 rootfs: Vec<Mount>, 4 io: Option<TaskIo>, 5 checkpoint: String, 6 pid: u32, }
    TaskIo { 1 stdin: String, 2 stdout: String, 3 stderr: String, 4 terminal: bool, }
    TaskStart { 1 container_id: String, 2 pid: u32, }
    TaskDelete { 1 container_id: String, 2 pid: u32, 3 exit_status: u32, 4 exited_at: Option<Timestamp>, 5 id: String, }
    TaskExit { 1 container_id: String, 2 id: String, 3 pid: u32, 4 exit_status: u32, 5 exited_at: Option<Timestamp>, }
    /// TaskOOM, TaskPaused and TaskResumed.
    TaskNotice { 1 container_id: String, }
    TaskExecAdded { 1 container_id: String, 2 exec_id: String, }
    TaskExecStarted { 1 container_id: String, 2 exec_id: String, 3 pid: u32, }

    // containerd.runtime.bootstrap.v1
    BootstrapParams {
        1 instance_id: String, 2 namespace: String, 3 log_level: i32, 4 containerd_version: String, 5 ttrpc_address: String,
        6 grpc_address: String, 7 containerd_binary: String, 8 extensions: Vec<Extension>, 9 socket_dir: String,
    }
    Extension { 1 value: Option<Any>, }
    BootstrapResult { 1 version: i32, 2 address: String, 3 protocol: String, }

    /// containerd.runc.v1.Options
    Options {
        1 no_pivot_root: bool, 2 no_new_keyring: bool, 3 shim_cgroup: String, 4 io_uid: u32, 5 io_gid: u32, 6 binary_name: String,
        7 root: String, 9 systemd_cgroup: bool,
    }

    /// What a worker tells the daemon; see worker.rs.
    Answer { 1 code: i32, 2 text: String, 3 pid: u32, 4 logger: u32, 5 payload: Vec<u8>, 6 pids: Vec<u64>, 7 known: bool, }
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Timestamp {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
    }
}

impl Options {
    /// The type of the options that we know.
    pub(crate) const TYPE: &str = "containerd.runc.v1.Options";

    /// The options, if they are of the type that we know.
    pub(crate) fn of(any: &Any) -> Option<Options> {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if name == Options::TYPE { Options::decode(&any.value).ok() } else { None }
    }
}
