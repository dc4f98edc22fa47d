//! `process` of config.json (config.md, "Process").

use super::json::object;

object! {
    /// The program of the container.
    Process {
        "terminal" => terminal: bool,
        "consoleSize" => console_size: Option<ConsoleSize>,
        "user" => user: User,
        "args" => args: Vec<Option<String>>,
        "commandLine" => command_line: String,
        "env" => env: Vec<String>,
        "cwd" => cwd: String,
        "capabilities" => capabilities: Option<Capabilities>,
        "rlimits" => rlimits: Vec<Rlimit>,
        "noNewPrivileges" => no_new_privileges: bool,
        "apparmorProfile" => apparmor_profile: String,
        "oomScoreAdj" => oom_score_adj: Option<i32>,
        "scheduler" => scheduler: Option<Scheduler>,
        "selinuxLabel" => selinux_label: String,
        "ioPriority" => io_priority: Option<IoPriority>,
        "execCPUAffinity" => exec_cpu_affinity: Option<CpuAffinity>,
    }

    /// The size of the terminal, in characters.
    ConsoleSize {
        "height" => height: u64,
        "width" => width: u64,
    }

    /// The user, with ids inside the container.
    User {
        "uid" => uid: u32,
        "gid" => gid: u32,
        "umask" => umask: Option<u32>,
        "additionalGids" => additional_gids: Vec<u32>,
        "username" => username: String,
    }

    /// The five capability sets. The values are names such as `CAP_CHOWN`.
    Capabilities {
        "bounding" => bounding: Vec<String>,
        "effective" => effective: Vec<String>,
        "inheritable" => inheritable: Vec<String>,
        "permitted" => permitted: Vec<String>,
        "ambient" => ambient: Vec<String>,
    }

    /// A resource limit; `kind` is a name of getrlimit(2), e.g. `RLIMIT_NOFILE`.
    Rlimit {
        "type" => kind: String,
        "hard" => hard: Option<u64>,
        "soft" => soft: Option<u64>,
    }

    /// The arguments of sched_setattr(2), by name.
    Scheduler {
        "policy" => policy: String,
        "nice" => nice: i32,
        "priority" => priority: i32,
        "flags" => flags: Vec<String>,
        "runtime" => runtime: u64,
        "deadline" => deadline: u64,
        "period" => period: u64,
    }

    /// The arguments of ioprio_set(2), by name.
    IoPriority {
        "class" => class: String,
        "priority" => priority: i32,
    }

    /// Lists of CPUs (`0-3,7`) for processes of exec.
    CpuAffinity {
        "initial" => initial: String,
        "final" => finally: String,
    }
}
