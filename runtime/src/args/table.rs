//! Every command and every flag, in one constant table. The parser and `--help` read the table, and man pages and completions are
//! made from it. The names are those of runc 1.5 and crun 1.29.

/// The value that a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// No value, or `=true` and `=false`.
    Nothing,
    /// As `Nothing`, or any joined text, as in crun: every text except `no` and `false` means on.
    Perhaps,
    /// No value, or one of these texts joined by `=`. Without a value the first text counts.
    OneOf(&'static [&'static str]),
    /// A text. The last one given counts.
    Text,
    /// A decimal number. The last one given counts.
    Number,
    /// A text for each occurrence. All of them count.
    Each,
}

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) takes: Takes,
    /// One line for `--help`; empty for a flag that is accepted but not shown.
    pub(crate) help: &'static str,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// The operands after the flags, as `--help` prints them.
    pub(crate) operands: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [Flag],
    /// The smallest and the largest number of operands.
    pub(crate) count: (usize, usize),
    /// After the first operand (the id) no argument is parsed as a flag.
    pub(crate) rest_after_id: bool,
}

const fn on(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, takes: Takes::Nothing, help }
}

const fn text(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, takes: Takes::Text, help }
}

const fn number(long: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, takes: Takes::Number, help }
}

const fn each(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, takes: Takes::Each, help }
}

const BUNDLE: Flag = text("bundle", Some('b'), "the bundle's directory (default: the working directory)");
const CONFIG: Flag = text("config", Some('f'), "read this file in place of the bundle's config.json");
const CONSOLE_SOCKET: Flag = text("console-socket", None, "unix socket that is sent the master end of the terminal");
const PIDFD_SOCKET: Flag = text("pidfd-socket", None, "unix socket that is sent a pidfd of the new process");
const DRY_RUN: Flag = Flag {
    long: "dry-run",
    short: None,
    takes: Takes::OneOf(&["text", "json"]),
    help: "make nothing, and print what the kernel would be told; =json for programs",
};
const PID_FILE: Flag = text("pid-file", None, "write the pid of the new process to this file");
const NO_PIVOT: Flag = on("no-pivot", None, "do not use pivot_root, for a root file system on a ramdisk");
const NO_NEW_KEYRING: Flag = on("no-new-keyring", None, "keep the caller's session keyring");
const PRESERVE_FDS: Flag = number("preserve-fds", "pass on so many file descriptors after stdio and $LISTEN_FDS");
const DETACH: Flag = on("detach", Some('d'), "do not wait for the process");
const NO_SUBREAPER: Flag = on("no-subreaper", None, "do not adopt and reap orphans of the container");
const REGEX: Flag = on("regex", Some('r'), "the id is an extended regular expression: do it with each container that matches");
const FORMAT: Flag = text("format", Some('f'), "table or json (default: table)");

const IMAGE_PATH: Flag = text("image-path", None, "directory of the checkpoint's image files");
const WORK_PATH: Flag = text("work-path", None, "directory of work files and logs");
const TCP_ESTABLISHED: Flag = on("tcp-established", None, "allow open tcp connections");
const EXT_UNIX_SK: Flag = on("ext-unix-sk", None, "allow unix sockets whose other end is outside");
const SHELL_JOB: Flag = on("shell-job", None, "allow a process that belongs to a shell outside");
const FILE_LOCKS: Flag = on("file-locks", None, "allow held file locks");
const CGROUPS_MODE: Flag = text("manage-cgroups-mode", None, "soft, full, strict or ignore (default: soft)");
const EMPTY_NS: Flag = each("empty-ns", None, "restore this namespace empty");
const AUTO_DEDUP: Flag = on("auto-dedup", None, "drop duplicates from the memory images");
const LAZY_PAGES: Flag = on("lazy-pages", None, "restore memory on demand");
const NETWORK_LOCK: Flag = text("network-lock", None, "how the network is locked: iptables, nftables or skip");

/// Global flags: they stand before the command, and are accepted after it too.
pub(crate) static GLOBAL: &[Flag] = &[
    text("root", None, "directory of the containers' state, best on a tmpfs"),
    text("log", None, "send errors there too: to [file:]PATH, journald:ID or syslog:ID"),
    text("log-format", None, "text or json (default: text)"),
    text("log-level", None, "error, warning, info or debug"),
    on("debug", None, "as --log-level debug"),
    on("systemd-cgroup", None, "let systemd make the cgroup; cgroupsPath is then slice:prefix:name"),
    text("cgroup-manager", None, "cgroupfs, systemd or disabled (default: cgroupfs)"),
    text("rootless", None, "true, false or auto: whether missing rights to cgroups are tolerated (default: auto)"),
    text("criu", None, ""),
    on("systemd-log", None, ""),
    on("usage", None, ""),
    on("help", Some('h'), "print this"),
    on("version", Some('v'), "print the version"),
];

const ID: &str = "<container-id>";
const ONE: (usize, usize) = (1, 1);

const PLAIN: Command = Command { name: "", operands: ID, summary: "", about: "", flags: &[], count: ONE, rest_after_id: false };

/// All commands, by name.
pub(crate) static COMMANDS: &[Command] = &[
    Command {
        name: "check",
        operands: "[bundle]",
        summary: "tell everything that is wrong with a bundle, and what this host lacks for it",
        about: "One line for each, with its place in config.json, errors before warnings. Nothing is run or changed. The exit code is 1 \
                if there is an error.",
        flags: &[BUNDLE, CONFIG, text("format", None, "text or json (default: text)")],
        count: (0, 1),
        ..PLAIN
    },
    Command {
        name: "checkpoint",
        summary: "save the state of a running container",
        flags: &[
            IMAGE_PATH,
            WORK_PATH,
            text("parent-path", None, "directory of the images of an earlier --pre-dump"),
            on("leave-running", None, "let the container run on"),
            TCP_ESTABLISHED,
            on("tcp-skip-in-flight", None, "leave out tcp connections that are being opened"),
            on("link-remap", None, "allow links to unlinked files"),
            EXT_UNIX_SK,
            SHELL_JOB,
            LAZY_PAGES,
            number("status-fd", "file descriptor that is told when lazy pages can be served"),
            text("page-server", None, "ADDRESS:PORT of the page server"),
            FILE_LOCKS,
            on("pre-dump", None, "save the memory only and let the container run on"),
            CGROUPS_MODE,
            EMPTY_NS,
            AUTO_DEDUP,
            NETWORK_LOCK,
        ],
        ..PLAIN
    },
    Command {
        name: "create",
        summary: "create a container",
        about: "The container is made from the config.json of a bundle and its process waits for `start`.",
        flags: &[
            BUNDLE,
            DRY_RUN,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            on("no-subreaper", None, ""),
        ],
        ..PLAIN
    },
    Command {
        name: "delete",
        summary: "remove a stopped container and all it holds",
        flags: &[on("force", Some('f'), "kill the container first if it runs"), REGEX],
        ..PLAIN
    },
    Command {
        name: "events",
        summary: "print statistics and out-of-memory events of a container",
        about: "One JSON object a line, until the container stops.",
        flags: &[
            text("interval", None, "time between statistics, such as 500ms or 1m30s (default: 5s)"),
            on("stats", None, "print the statistics once and end"),
            each("pressure", None, "tell too when processes wait long, as in memory:some:150ms/2s: RESOURCE:some|full:STALL/WINDOW"),
        ],
        ..PLAIN
    },
    Command {
        name: "exec",
        operands: "<container-id> <command> [arguments]  ||  -p process.json <container-id>",
        summary: "run a further process in a container",
        flags: &[
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            text("cwd", None, "working directory in the container"),
            each("env", Some('e'), "set an environment variable, NAME=VALUE"),
            Flag { long: "tty", short: Some('t'), takes: Takes::Perhaps, help: "give the process a terminal" },
            text("user", Some('u'), "user, UID[:GID] or a name of the container's /etc/passwd, NAME[:GROUP]"),
            each("additional-gids", Some('g'), "numeric supplementary group"),
            text("process", Some('p'), "file with the whole process as in config.json; other flags are then ignored"),
            DETACH,
            PID_FILE,
            text("process-label", None, "SELinux label of the process"),
            text("apparmor", None, "AppArmor profile of the process"),
            on("no-new-privs", None, "set or clear no_new_privs"),
            each("cap", Some('c'), "add a capability"),
            PRESERVE_FDS,
            each("cgroup", None, "run in this existing sub-cgroup, [CONTROLLER[,CONTROLLER]:]PATH"),
            on("ignore-paused", None, "allow it in a paused container"),
        ],
        count: (1, usize::MAX),
        rest_after_id: true,
        ..PLAIN
    },
    Command {
        name: "features",
        operands: "",
        summary: "print what this program supports, as JSON",
        about: "The format is that of the runtime spec, features.md.",
        count: (0, 0),
        ..PLAIN
    },
    Command {
        name: "kill",
        operands: "<container-id> [signal]",
        summary: "send a signal (default: SIGTERM) to the container's first process",
        about: "A signal is a number or a name: 9, KILL, SIGKILL, RTMIN+1.",
        flags: &[on("all", Some('a'), "send it to all processes of the container"), REGEX],
        count: (1, 2),
        ..PLAIN
    },
    Command {
        name: "list",
        operands: "",
        summary: "list the containers below --root",
        flags: &[FORMAT, on("quiet", Some('q'), "print ids only")],
        count: (0, 0),
        ..PLAIN
    },
    Command {
        name: "mounts",
        operands: "add|remove <container-id> <mounts.json>",
        summary: "add mounts to a container that exists, or remove them",
        about: "The file, - for standard input, is a list as `mounts` of config.json; to remove, the destination is enough.",
        count: (3, 3),
        ..PLAIN
    },
    Command { name: "pause", summary: "suspend all processes of a container", ..PLAIN },
    Command {
        name: "ps",
        operands: "<container-id> [ps options]",
        summary: "list the processes of a container",
        about: "A table is made by ps(1) with the given options (default: -ef).",
        flags: &[FORMAT],
        count: (1, usize::MAX),
        rest_after_id: true,
    },
    Command {
        name: "restore",
        summary: "restore a container from a checkpoint",
        flags: &[
            CONSOLE_SOCKET,
            IMAGE_PATH,
            WORK_PATH,
            TCP_ESTABLISHED,
            on("tcp-close", None, "restore tcp connections closed"),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            CGROUPS_MODE,
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            EMPTY_NS,
            AUTO_DEDUP,
            LAZY_PAGES,
            text("lsm-profile", None, "security profile of the restored processes, TYPE:NAME"),
            text("lsm-mount-context", None, "SELinux context of the restored mounts"),
            NETWORK_LOCK,
        ],
        ..PLAIN
    },
    Command { name: "resume", summary: "let a paused container run on", ..PLAIN },
    Command {
        name: "run",
        summary: "create and start a container",
        about: "Without --detach it is waited for and deleted, and its exit code is returned.",
        flags: &[
            BUNDLE,
            DRY_RUN,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            DETACH,
            on("keep", None, "do not delete the container when it ends"),
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
        ],
        ..PLAIN
    },
    Command {
        name: "spec",
        operands: "",
        summary: "write a config.json to start from",
        flags: &[
            text("bundle", Some('b'), "directory to write it to (default: the working directory)"),
            text("file", Some('f'), "name of the file (default: config.json)"),
            on("rootless", None, "for a container that is run without privileges"),
        ],
        count: (0, 0),
        ..PLAIN
    },
    Command { name: "start", summary: "let the process of a created container run", ..PLAIN },
    Command { name: "state", summary: "print the state of a container, as JSON", ..PLAIN },
    Command {
        name: "stats",
        operands: "[container-id ...]",
        summary: "print what containers use: processors, memory, processes, disks",
        about: "Without an id: all that have started or are about to. A table on a terminal is renewed until you press ^C.",
        flags: &[
            Flag { help: "table, json (a line each, as of events --stats) or openmetrics (default: table)", ..FORMAT },
            text("interval", None, "time between two looks, such as 500ms (default: 1s)"),
            on("no-stream", None, "print the table once, also on a terminal"),
        ],
        count: (0, usize::MAX),
        ..PLAIN
    },
    Command {
        name: "update",
        summary: "change the limits of a container, and from a file its devices and mounts",
        about: "Sizes are bytes, or take a suffix as in 512m and 1.5g; -1 is unlimited.",
        flags: &[
            text("resources", Some('r'), "JSON file as linux.resources of config.json, - for standard input; other flags are then ignored"),
            number("blkio-weight", "weight of block io, 10 to 1000"),
            text("cpu-period", None, "period of the cpu quota, in microseconds"),
            text("cpu-quota", None, "cpu time in a period, in microseconds; -1 is unlimited"),
            text("cpu-burst", None, "further cpu time in a period, in microseconds"),
            text("cpu-share", None, "weight of cpu time, 2 to 262144"),
            text("cpu-rt-period", None, "period of the realtime limit, in microseconds"),
            text("cpu-rt-runtime", None, "realtime cpu time in a period, in microseconds"),
            text("cpuset-cpus", None, "cpus to run on, such as 0-3,7"),
            text("cpuset-mems", None, "memory nodes to use, such as 0-1"),
            text("kernel-memory", None, ""),
            text("kernel-memory-tcp", None, ""),
            text("memory", None, "limit of memory"),
            text("cpu-idle", None, "1 to run only when nothing else does, 0 not to"),
            text("memory-reservation", None, "memory that is spared when memory is short"),
            text("memory-swap", None, "limit of memory and swap together"),
            number("pids-limit", "limit of the number of tasks; -1 is unlimited"),
            text("l3-cache-schema", None, "Intel RDT schema of the L3 cache"),
            text("mem-bw-schema", None, "Intel RDT schema of memory bandwidth"),
        ],
        ..PLAIN
    },
];
