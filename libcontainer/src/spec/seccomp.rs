//! `linux.seccomp` of config.json (config-linux.md, "Seccomp").

use super::json::object;

object! {
    /// A filter of system calls. System calls and actions are names.
    Seccomp {
        "defaultAction" => default_action: String,
        "defaultErrnoRet" => default_errno_ret: Option<u32>,
        "architectures" => architectures: Vec<String>,
        "flags" => flags: Option<Vec<String>>,
        "listenerPath" => listener_path: String,
        "listenerMetadata" => listener_metadata: String,
        "syscalls" => syscalls: Vec<SyscallRule>,
    }

    /// The action for some system calls.
    SyscallRule {
        "names" => names: Vec<String>,
        "action" => action: String,
        "errnoRet" => errno_ret: Option<u32>,
        "args" => args: Vec<SeccompArg>,
    }

    /// A condition on one argument; all conditions of a rule must hold.
    SeccompArg {
        "index" => index: u32,
        "value" => value: u64,
        "valueTwo" => value_two: u64,
        "op" => op: String,
    }
}
