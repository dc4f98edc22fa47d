use super::*;

fn parse(line: &str) -> Args {
    Args::parse(line.split(' ').filter(|w| !w.is_empty()).map(OsString::from))
}

#[test]
fn what_containerd_sends() {
    let a = parse(
        "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup create \
         --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot --no-new-keyring web",
    );
    assert_eq!(a.problem, None);
    assert_eq!(a.command.unwrap().name, "create");
    assert_eq!((a.text("root"), a.text("log"), a.on("systemd-cgroup")), (Some("/run/containerd/runc/k8s.io"), Some("/b/log.json"), true));
    assert_eq!(
        (a.text("bundle"), a.text("pid-file"), a.on("no-pivot"), a.on("no-new-keyring")),
        (Some("/b"), Some("/b/init.pid"), true, true)
    );
    assert_eq!(a.operands, ["web"]);
    let a = parse("restore --detach -no-subreaper -image-path=/i web");
    assert_eq!((a.problem.as_deref(), a.on("detach"), a.on("no-subreaper"), a.text("image-path")), (None, true, true, Some("/i")));
}

#[test]
fn every_spelling_of_a_flag() {
    for line in [
        "run -b /b id",
        "run -b=/b id",
        "run -b/b id",
        "run --bundle /b id",
        "run --bundle=/b id",
        "run -bundle /b id",
        "run -bundle=/b id",
        "run id --bundle /b",
        "run id -b /b",
    ] {
        let a = parse(line);
        assert_eq!((a.problem.as_deref(), a.text("bundle"), &*a.operands), (None, Some("/b"), &["id".to_string()][..]), "{line}");
    }
    for (line, on) in [
        ("run --detach id", true),
        ("run --detach=false id", false),
        ("run --detach=true id", true),
        ("run -detach=0 id", false),
        ("run -d id", true),
        ("run -d=false id", false),
        ("run --detach --detach=F id", false),
        ("run id", false),
    ] {
        let a = parse(line);
        assert_eq!((a.problem.as_deref(), a.on("detach")), (None, on), "{line}");
    }
    assert_eq!(parse("run --detach=x id").problem.as_deref(), Some("invalid value \"x\" for flag -detach: neither true nor false"));
    assert_eq!(parse("exec id sh").choice("no-new-privs"), None);
    assert_eq!(parse("exec --no-new-privs=false id sh").choice("no-new-privs"), Some(false));
}

#[test]
fn clusters() {
    let a = parse("exec -td -u 1000:1000 -e A=B -eC=D --env=E=F,G id ls");
    assert_eq!(a.problem, None);
    assert!(a.on("tty") && a.on("detach"));
    assert_eq!((a.text("user"), a.each("env")), (Some("1000:1000"), vec!["A=B".into(), "C=D".into(), "E=F,G".into()]));
    // a name of the table wins over a cluster
    assert_eq!(parse("exec -user 5 id ls").text("user"), Some("5"));
    assert!(parse("exec -tty id ls").on("tty"));
    assert_eq!(parse("exec -tdu 7 id ls").text("user"), Some("7"));
}

#[test]
fn a_terminal_may_be_refused_in_the_same_word() {
    for (line, on) in [
        ("exec -t id sh", true),
        ("exec --tty id sh", true),
        ("exec --tty=true id sh", true),
        ("exec --tty=/dev/pts/0 id sh", true),
        ("exec -ttrue id sh", false),
        ("exec --tty=false id sh", false),
        ("exec --tty=no id sh", false),
        ("exec -tno id sh", false),
        ("exec -tfalse id sh", false),
        ("exec -t=false id sh", false),
        ("exec -tty=no id sh", false),
        ("exec id -tno", false),
    ] {
        let a = parse(line);
        // the letters of a cluster are flags
        assert_eq!(a.problem.is_some(), line.contains("-ttrue"), "{line}: {:?}", a.problem);
        assert!(a.problem.is_some() || a.on("tty") == on, "{line}");
    }
}

#[test]
fn long_names_may_be_cut_short_where_that_names_one() {
    for (line, flag, value) in [
        ("run --bun /b id", "bundle", "/b"),
        ("run --bund=/b id", "bundle", "/b"),
        ("create --pid-f /p id", "pid-file", "/p"),
        ("exec --process /p id", "process", "/p"),
        ("update --memory 5 id", "memory", "5"),
        ("--log-f json list", "log-format", "json"),
        ("list --log-f json", "log-format", "json"),
        // the command's own flags come first: --rootless is also a global flag
        ("list --f json", "format", "json"),
    ] {
        let a = parse(line);
        assert_eq!((a.problem.as_deref(), a.text(flag)), (None, Some(value)), "{line}");
    }
    for (line, problem) in [
        ("run --pid /p id", "flag --pid is ambiguous: --pidfd-socket or --pid-file"),
        ("run --no id", "flag --no is ambiguous: --no-subreaper or --no-pivot"),
        ("--log- x list", "flag --log- is ambiguous: --log-format or --log-level"),
        ("run --bundler /b id", "flag provided but not defined: -bundler"),
    ] {
        assert_eq!(parse(line).problem.as_deref(), Some(problem), "{line}");
    }
    assert!(parse("spec --rootl").on("rootless") && parse("state --us").help);
}

#[test]
fn behind_the_id_of_exec_and_ps_nothing_is_ours() {
    let a = parse("exec -t id ls -la --help -d -- x");
    assert_eq!(a.operands, ["id", "ls", "-la", "--help", "-d", "--", "x"]);
    assert!(!a.on("detach") && !a.help);
    assert_eq!(parse("exec id -- ls -l").operands, ["id", "ls", "-l"]);
    assert_eq!(parse("exec -- id ls -l").operands, ["id", "ls", "-l"]);
    let a = parse("ps --format json id -aux");
    assert_eq!((a.text("format"), &*a.operands), (Some("json"), &["id".to_string(), "-aux".into()][..]));
}

#[test]
fn a_signal_follows_the_id_of_kill() {
    assert_eq!(parse("kill --all id 9").operands, ["id", "9"]);
    assert_eq!(parse("kill id -9").operands, ["id", "-9"]);
    let a = parse("kill id TERM -a");
    assert!(a.on("all") && a.operands == ["id", "TERM"]);
    assert_eq!(parse("kill id 9 x").problem.as_deref(), Some("\"kill\" requires a maximum of 2 argument(s)"));
}

#[test]
fn flags_of_the_program_are_taken_behind_the_command() {
    let a = parse("state --root /x id");
    assert_eq!((a.problem.as_deref(), a.text("root")), (None, Some("/x")));
    assert!(parse("--root= state id").given("root"));
    assert_eq!(parse("--root= state id").text("root"), None);
    assert!(!parse("--rootless=true spec").on("rootless"));
    assert!(parse("--rootless=auto spec --rootless").on("rootless"));
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_go() {
    for (line, problem) in [
        ("run --nope id", "flag provided but not defined: -nope"),
        ("run -x id", "flag provided but not defined: -x"),
        ("--nope run id", "flag provided but not defined: -nope"),
        ("restore --lsm-mount-context", "flag needs an argument: --lsm-mount-context"),
        ("run -bundle", "flag needs an argument: -bundle"),
        ("run -b", "flag needs an argument: --bundle"),
        ("--rootless maybe list", "invalid value \"maybe\" for flag -rootless: neither true, false nor auto"),
        ("run --preserve-fds x id", "invalid value \"x\" for flag -preserve-fds: not a number"),
        ("frobnicate", "No help topic for 'frobnicate'"),
        ("state", "\"state\" requires exactly 1 argument(s)"),
        ("state a b", "\"state\" requires exactly 1 argument(s)"),
        ("kill", "\"kill\" requires a minimum of 1 argument(s)"),
        ("list x", "\"list\" requires exactly 0 argument(s)"),
    ] {
        assert_eq!(parse(line).problem.as_deref(), Some(problem), "{line}");
    }
    // flags before the mistake are set, so the log is written
    let a = parse("--log /l --log-format json run --nope id");
    assert_eq!((a.text("log"), a.text("log-format")), (Some("/l"), Some("json")));
}

#[test]
fn words_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    for flag in [&b"a\xff"[..], b"-bundle=\xff"] {
        let a = Args::parse([OsString::from("run"), OsString::from_vec(flag.to_vec())].into_iter());
        assert!(a.problem.unwrap().ends_with("is not UTF-8"));
    }
}

#[test]
fn help_is_asked_for_in_many_ways() {
    for line in ["--help", "-h", "-help", "-?", "help", "h"] {
        let a = parse(line);
        assert!(a.help && a.command.is_none() && a.problem.is_none(), "{line}");
    }
    for line in ["checkpoint --help", "checkpoint -h", "help checkpoint", "checkpoint id --help"] {
        let a = parse(line);
        assert!(a.help && a.command.unwrap().name == "checkpoint" && a.problem.is_none(), "{line}");
    }
    for line in ["--version", "-v", "-V", "-version"] {
        assert!(parse(line).version, "{line}");
    }
}

#[test]
fn names_are_unique_and_help_shows_each() {
    for command in COMMANDS {
        let text = help("masu", Some(command));
        assert!(text.starts_with(&format!("NAME:\n   masu {} - {}\n", command.name, command.summary)));
        for (i, flag) in command.flags.iter().enumerate() {
            let same = |f: &&Flag| f.long == flag.long || (f.short.is_some() && f.short == flag.short);
            assert!(!command.flags[..i].iter().any(|f| same(&f)), "{} {}", command.name, flag.long);
            // the one name with two meanings, as in runc
            let known = command.name == "spec" && flag.long == "rootless";
            assert_eq!(GLOBAL.iter().any(|f| same(&f)), known, "{} {}", command.name, flag.long);
            assert_eq!(text.contains(&format!("\n   --{}", flag.long)), !flag.help.is_empty(), "{} {}", command.name, flag.long);
        }
        assert!(help("masu", None).contains(&format!("\n   {} ", command.name)));
    }
    assert!(COMMANDS.is_sorted_by_key(|c| c.name));
    assert!(help("runc", None).contains("\n   --root value  "));
}

/// Every flag of runc v1.5.1 and of crun 1.29.1, as their sources define them. `*` marks a flag with a value, a letter is the
/// short form.
const PEERS: [(&str, &str); 38] = [
    // runc
    ("", "debug log* log-format* root* systemd-cgroup rootless* help,h version,v"),
    ("checkpoint", "image-path* work-path* parent-path* leave-running tcp-established tcp-skip-in-flight link-remap ext-unix-sk"),
    ("checkpoint", "shell-job lazy-pages status-fd* page-server* file-locks pre-dump manage-cgroups-mode* empty-ns* auto-dedup"),
    ("create", "bundle,b* console-socket* pidfd-socket* pid-file* no-pivot no-new-keyring preserve-fds*"),
    ("delete", "force,f"),
    ("events", "interval* stats"),
    ("exec", "console-socket* pidfd-socket* cwd* env,e* tty,t user,u* additional-gids,g* process,p* detach,d pid-file* process-label*"),
    ("exec", "apparmor* no-new-privs cap,c* preserve-fds* cgroup* ignore-paused"),
    ("features", ""),
    ("kill", "all,a"),
    ("list", "format,f* quiet,q"),
    ("pause", ""),
    ("ps", "format,f*"),
    ("restore", "console-socket* image-path* work-path* tcp-established ext-unix-sk shell-job file-locks manage-cgroups-mode* bundle,b*"),
    ("restore", "detach,d pid-file* no-subreaper no-pivot empty-ns* auto-dedup lazy-pages lsm-profile* lsm-mount-context*"),
    ("resume", ""),
    ("run", "bundle,b* console-socket* pidfd-socket* detach,d keep pid-file* no-subreaper no-pivot no-new-keyring preserve-fds*"),
    ("spec", "bundle,b* rootless"),
    ("start", ""),
    ("state", ""),
    ("update", "resources,r* blkio-weight* cpu-period* cpu-quota* cpu-burst* cpu-share* cpu-rt-period* cpu-rt-runtime* cpuset-cpus*"),
    ("update", "cpuset-mems* kernel-memory* kernel-memory-tcp* memory* cpu-idle* memory-reservation* memory-swap* pids-limit*"),
    ("update", "l3-cache-schema* mem-bw-schema*"),
    // crun
    ("", "debug cgroup-manager* systemd-cgroup log* log-format* log-level* root* rootless* version,v usage help,h"),
    ("checkpoint", "image-path* work-path* leave-running tcp-established ext-unix-sk shell-job file-locks network-lock* parent-path*"),
    ("checkpoint", "pre-dump manage-cgroups-mode*"),
    ("create", "bundle,b* config,f* console-socket* preserve-fds* no-pivot pid-file* no-subreaper no-new-keyring"),
    ("delete", "force,f regex,r"),
    ("exec", "console-socket* tty,t process,p* cwd* cgroup* detach,d user,u* env,e* cap,c* pid-file* preserve-fds* no-new-privs"),
    ("exec", "process-label* apparmor*"),
    ("kill", "all,a regex,r"),
    ("list", "quiet,q format,f*"),
    ("mounts", ""),
    ("ps", "format,f*"),
    ("restore", "bundle,b* image-path* work-path* tcp-established tcp-close ext-unix-sk shell-job detach,d pid-file* console-socket*"),
    ("restore", "file-locks manage-cgroups-mode* network-lock* lsm-profile* lsm-mount-context*"),
    ("run", "bundle,b* config,f* detach,d console-socket* preserve-fds* pid-file* keep no-subreaper no-new-keyring no-pivot"),
    ("spec", "bundle,b* file,f* rootless"),
];

#[test]
fn every_command_and_flag_of_the_peers_is_there() {
    for (name, flags) in PEERS {
        let command = COMMANDS.iter().find(|c| c.name == name);
        assert!(name.is_empty() || command.is_some(), "no command {name}");
        for flag in flags.split_whitespace() {
            let takes_value = flag.ends_with('*');
            let (long, short) = match flag.trim_end_matches('*').split_once(',') {
                Some((long, short)) => (long, short.chars().next()),
                None => (flag.trim_end_matches('*'), None),
            };
            let ours = command.map_or(GLOBAL, |c| c.flags).iter().find(|f| f.long == long);
            let ours = ours.unwrap_or_else(|| panic!("no --{long} of {name}"));
            assert!(short.is_none() || ours.short == short, "--{long} of {name} has no -{short:?}");
            assert_eq!(matches!(ours.takes, Takes::Text | Takes::Number | Takes::Each), takes_value, "--{long} of {name}");
        }
    }
}
