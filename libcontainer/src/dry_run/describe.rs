//! A plan as words. Each struct is taken apart whole, so that a new field cannot be left out unseen.

use super::{Node, Page};
use crate::extensions::Extensions;
use crate::hooks::Hooks;
use crate::intel_rdt::IntelRdt;
use crate::namespaces::{IdMaps, UserNamespace};
use crate::namespaces::{KINDS, Namespaces};
use crate::plan::Plan;
use crate::process::capabilities::{self, Sets};
use crate::process::cpu_affinity::{CpuAffinity, Final};
use crate::process::memory_policy::MemoryPolicy;
use crate::process::scheduler::Scheduler;
use crate::process::{ProcessPlan, Terminal};
use crate::rootfs::{DevicePlan, IdMapped, Link, Map, Masking, MountPlan, Operation, Remount, RootfsPlan, What};
use crate::seccomp::Filter;
use masu_host::mask::Mask;
use masu_host::sys::mount_attr::{self, Change};

impl Page {
    /// Prints a plan.
    pub(crate) fn of(plan: &Plan) -> Page {
        let Plan {
            id,
            bundle,
            annotations,
            namespaces,
            user_namespace,
            delegates_cgroup,
            time_offsets,
            net_devices,
            intel_rdt,
            cgroup,
            rootfs,
            hostname,
            domainname,
            sysctls,
            keyring,
            hooks,
            process,
            extensions,
        } = plan;
        // what it says of groups and filters is in the plan of the process
        let Extensions { keep_groups: _, pidfd_receiver, hook_output, delegate_cgroup, seccomp: _ } = extensions;
        Page(Node::Map(vec![
            ("container", text(id)),
            ("bundle", text(bundle)),
            ("process", of_process(process)),
            ("namespaces", of_namespaces(namespaces)),
            ("ids", maybe(user_namespace.as_ref(), of_user_namespace)),
            ("hostname", text(hostname)),
            ("domainname", text(domainname)),
            ("clocks", lines(time_offsets.text().lines())),
            ("network devices", Node::List(net_devices.list().map(|(name, inside)| pair("device", name, "as", inside)).collect())),
            ("cgroup", cgroup.describe()),
            ("cgroup is delegated", Node::Switch(*delegates_cgroup)),
            ("resctrl", maybe(intel_rdt.as_ref(), of_rdt)),
            ("rootfs", of_rootfs(rootfs)),
            ("sysctls", Node::List(sysctls.list().iter().map(|(file, value)| text(&format!("{file} = {value}"))).collect())),
            ("session keyring", maybe(keyring.as_ref(), |name| text(&name.to_string_lossy()))),
            ("hooks", of_hooks(hooks)),
            ("output of hooks", lines([&hook_output.stdout, &hook_output.stderr].into_iter().flatten())),
            ("pidfd goes to", text(pidfd_receiver.as_deref().unwrap_or_default())),
            ("cgroup for the program", text(delegate_cgroup.as_deref().unwrap_or_default())),
            ("annotations", Node::List(annotations.iter().map(|(key, value)| text(&format!("{key} = {value}"))).collect())),
        ]))
    }
}

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

fn words<T: ToString>(words: impl IntoIterator<Item = T>) -> Node {
    Node::Words(words.into_iter().map(|word| word.to_string()).collect())
}

fn lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Node {
    Node::List(lines.into_iter().map(|line| text(line.as_ref())).collect())
}

fn pair(a: &'static str, one: &str, b: &'static str, other: &str) -> Node {
    Node::Map(vec![(a, text(one)), (b, text(other))])
}

fn maybe<T>(value: Option<T>, describe: impl FnOnce(T) -> Node) -> Node {
    value.map_or(Node::Nothing, describe)
}

fn of_process(plan: &ProcessPlan) -> Node {
    let ProcessPlan {
        args,
        env,
        cwd,
        uid,
        gid,
        groups,
        umask,
        capabilities,
        no_new_privileges,
        rlimits,
        oom_score_adj,
        labels,
        scheduler,
        io_priority,
        cpu_affinity,
        personality,
        memory_policy,
        filter,
        terminal,
        preserved_fds,
        in_user_namespace: _,
        keep_groups,
    } = plan;
    let quoted = |arg: &std::ffi::CString| {
        let arg = arg.to_string_lossy();
        if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || c.is_control()) { format!("{arg:?}") } else { arg.into_owned() }
    };
    let mut variables: Vec<Node> = env.iter().map(|entry| text(&entry.to_string_lossy())).collect();
    if env.home_is_missing {
        variables.push(text("HOME= as the container's /etc/passwd says"));
    }
    Node::Map(vec![
        ("arguments", words(args.iter().map(quoted))),
        ("looked up in", text(env.search_path.as_deref().unwrap_or_default())),
        ("directory", text(cwd)),
        ("uid", Node::Number((*uid).into())),
        ("gid", Node::Number((*gid).into())),
        ("groups", words(groups)),
        ("groups of the caller too", Node::Switch(*keep_groups)),
        ("umask", maybe(*umask, |mask| text(&format!("{mask:04o}")))),
        ("no new privileges", Node::Switch(*no_new_privileges)),
        ("capabilities", maybe(capabilities.as_ref(), of_capabilities)),
        ("limits", Node::List(rlimits.describe())),
        ("oom score", maybe(*oom_score_adj, |score| Node::Negative(score.into()))),
        ("apparmor profile", text(labels.apparmor.as_deref().unwrap_or_default())),
        ("selinux label", text(labels.selinux.as_deref().unwrap_or_default())),
        ("scheduler", maybe(*scheduler, of_scheduler)),
        ("io priority", maybe(*io_priority, |n| text(&format!("{n:#x}")))),
        ("cpus", of_affinity(cpu_affinity)),
        ("memory policy", maybe(memory_policy.as_ref(), of_memory_policy)),
        ("personality", maybe(*personality, Node::Number)),
        ("seccomp", maybe(filter.as_ref(), |filter| of_filter(filter, plan.filter_early()))),
        ("terminal", maybe(*terminal, of_terminal)),
        ("descriptors kept", Node::Number((*preserved_fds).into())),
        ("environment", Node::List(variables)),
    ])
}

fn of_capabilities(sets: &Sets) -> Node {
    let Sets { bounding, effective, inheritable, permitted, ambient } = sets;
    let names = |set: &u64| words((0..64).filter(|n| set & 1 << n != 0).map(capabilities::name));
    Node::Map(vec![
        ("bounding", names(bounding)),
        ("effective", names(effective)),
        ("permitted", names(permitted)),
        ("inheritable", names(inheritable)),
        ("ambient", names(ambient)),
    ])
}

fn of_scheduler(scheduler: Scheduler) -> Node {
    let Scheduler { attr, cpuset: _ } = scheduler;
    Node::Map(vec![
        ("policy", Node::Number(attr.policy.into())),
        ("flags", Node::Number(attr.flags)),
        ("nice", Node::Negative(attr.nice.into())),
        ("priority", Node::Number(attr.priority.into())),
        ("runtime", Node::Number(attr.runtime)),
        ("deadline", Node::Number(attr.deadline)),
        ("period", Node::Number(attr.period)),
    ])
}

fn of_mask(mask: &Mask) -> Node {
    words(mask.words().iter().map(|word| format!("{word:#x}")))
}

fn of_affinity(affinity: &CpuAffinity) -> Node {
    let CpuAffinity { initial, finally } = affinity;
    let last = match finally {
        Final::All => text("all of the cpuset"),
        Final::Left => text("as the kernel makes of it"),
        Final::Those(mask) => of_mask(mask),
    };
    match initial {
        None => last,
        Some(mask) => Node::Map(vec![("before the cgroup", of_mask(mask)), ("after", last)]),
    }
}

fn of_memory_policy(policy: &MemoryPolicy) -> Node {
    let MemoryPolicy { mode, nodes } = policy;
    Node::Map(vec![("mode", text(&format!("{mode:#x}"))), ("nodes", maybe(nodes.as_ref(), of_mask))])
}

fn of_filter(filter: &Filter, early: bool) -> Node {
    let Filter { program, flags, listener } = filter;
    let (path, metadata) = listener.as_ref().map_or(("", ""), |l| (&l.path, &l.metadata));
    Node::Map(vec![
        ("instructions", Node::Number(program.len() as u64)),
        ("answers", words(filter.answers())),
        ("flags", text(&format!("{flags:#x}"))),
        ("loaded", text(if early { "before the ids change" } else { "last, before execve" })),
        ("agent", text(path)),
        ("metadata", text(metadata)),
    ])
}

fn of_terminal(terminal: Terminal) -> Node {
    let Terminal { size, relayed } = terminal;
    Node::Map(vec![("size", maybe(size, |(rows, columns)| text(&format!("{rows}x{columns}")))), ("relayed", Node::Switch(relayed))])
}

fn of_namespaces(namespaces: &Namespaces) -> Node {
    let Namespaces { fresh, joined } = namespaces;
    let name = |flag: i32| KINDS.iter().find(|kind| kind.flag == flag).map_or("", |kind| kind.name);
    let rest = KINDS.iter().filter(|kind| !namespaces.has(kind.flag)).map(|kind| kind.name);
    Node::Map(vec![
        ("made", words(KINDS.iter().filter(|kind| fresh & kind.flag != 0).map(|kind| kind.name))),
        ("joined", Node::List(joined.iter().map(|(flag, path)| pair("kind", name(*flag), "by path", path)).collect())),
        ("shared with the host", words(rest)),
    ])
}

fn of_user_namespace(namespace: &UserNamespace) -> Node {
    let UserNamespace { maps, fresh } = namespace;
    let IdMaps { uids, gids } = maps;
    Node::Map(vec![
        ("maps are", text(if *fresh { "written" } else { "expected" })),
        ("uids inside outside number", lines(uids.text().lines())),
        ("gids inside outside number", lines(gids.text().lines())),
    ])
}

fn of_rdt(rdt: &IntelRdt) -> Node {
    let IntelRdt { clos, named, schema, schemata, monitoring } = rdt;
    Node::Map(vec![
        ("class", text(clos)),
        ("stays", Node::Switch(*named)),
        ("lines that must be there", words(schema)),
        ("lines", words(schemata)),
        ("monitoring group", Node::Switch(*monitoring)),
    ])
}

fn of_rootfs(rootfs: &RootfsPlan) -> Node {
    let RootfsPlan { path, operations, id_maps, devices, core, masking, read_only, propagation, pivot } = rootfs;
    let Masking { masked, read_only: read_only_paths } = masking;
    let mounts = operations.iter().map(|operation| match operation {
        Operation::Mount(mount) => of_mount(mount, id_maps),
        Operation::EnterCgroup => text("(in the cgroup from here on)"),
        Operation::Cgroup(mount) => mount.describe(),
        Operation::Remount(remount) => of_remount(remount),
    });
    let device = |d: &DevicePlan| {
        let DevicePlan { path, kind, rdev, mode, uid, gid, bound } = d;
        let number = format!("{kind:?} {}:{}", rustix::fs::major(*rdev), rustix::fs::minor(*rdev));
        Node::Map(vec![
            ("path", text(path)),
            ("node", text(&number)),
            ("mode", text(&format!("{mode:04o} of {uid}:{gid}"))),
            ("bound from the host", Node::Switch(*bound)),
        ])
    };
    Node::Map(vec![
        ("path", text(path)),
        ("read-only", Node::Switch(*read_only)),
        ("propagation", maybe(*propagation, |flags| words([of_propagation(flags)]))),
        ("becomes / by", text(if *pivot { "pivot_root" } else { "moving the mount" })),
        ("mounts", Node::List(mounts.collect())),
        ("devices", maybe(devices.as_ref(), |list| Node::List(list.iter().map(device).collect()))),
        ("/dev/core", Node::Switch(*core)),
        ("read-only paths", words(read_only_paths)),
        ("masked paths", words(masked)),
    ])
}

fn of_mount(mount: &MountPlan, id_maps: &[IdMaps]) -> Node {
    let MountPlan { target, target_nofollow, what, id_map, change_all, propagation } = mount;
    let mut entries = vec![("target", text(target))];
    match what {
        What::Bind { source, recursive, link, change, cleared } => {
            let link = match link {
                Link::Follow => "",
                Link::Bind => "bound itself",
                Link::Copy => "copied",
            };
            entries.extend([
                ("bind of", text(source)),
                ("with all below", Node::Switch(*recursive)),
                ("a link is", text(link)),
                ("set", of_attributes(change.set)),
                ("clear", of_attributes(change.clear | cleared)),
            ]);
        }
        What::Filesystem { fs_type, source, data, attributes, copy_up, label } => {
            entries.extend([
                ("new", text(fs_type)),
                ("source", text(source)),
                ("attributes", of_attributes(*attributes)),
                ("options", of_options(data)),
                ("with a copy of what is below", Node::Switch(*copy_up)),
                ("label", text(label.as_deref().unwrap_or_default())),
            ]);
        }
    }
    let Change { set, clear, propagation: _ } = change_all;
    entries.push(("set below too", of_attributes(*set)));
    entries.push(("clear below too", of_attributes(*clear)));
    entries.push(("link not followed", Node::Switch(*target_nofollow)));
    entries.push(("propagation", of_propagations(propagation)));
    if let Some(IdMapped { map, recursive }) = id_map {
        let range = |text: String| text.trim_end().replace('\n', ";").replace(' ', ":");
        let maps = match map {
            Map::Listed(i) => id_maps.get(*i).map(|m| format!("uids {} gids {}", range(m.uids.text()), range(m.gids.text()))),
            Map::Container => Some("the container's".into()),
        };
        let maps = maps.unwrap_or_default();
        entries.push(("id map", text(&maps)));
        entries.push(("mapped below too", Node::Switch(*recursive)));
    }
    Node::Map(entries)
}

fn of_remount(remount: &Remount) -> Node {
    let Remount { target, data, change, cleared, change_all, propagation, read_only_last } = remount;
    let set = change.set | if *read_only_last { mount_attr::RDONLY } else { 0 };
    Node::Map(vec![
        ("target", text(target)),
        ("remount of", text("what is there")),
        ("options", of_options(data)),
        ("set", of_attributes(set)),
        ("clear", of_attributes(change.clear | cleared)),
        ("set below too", of_attributes(change_all.set)),
        ("clear below too", of_attributes(change_all.clear)),
        ("propagation", of_propagations(propagation)),
    ])
}

fn of_options(data: &[(String, Option<String>)]) -> Node {
    words(data.iter().map(|(key, value)| value.as_ref().map_or(key.clone(), |value| format!("{key}={value}"))))
}

fn of_propagations(list: &[(u64, bool)]) -> Node {
    words(list.iter().map(|(flag, all)| format!("{}{}", if *all { "r" } else { "" }, of_propagation(*flag))))
}

fn of_attributes(bits: u64) -> Node {
    words(mount_attr::names(bits))
}

fn of_propagation(flags: u64) -> String {
    let recursive = if flags & libc::MS_REC != 0 { "r" } else { "" };
    let names =
        [(libc::MS_SHARED, "shared"), (libc::MS_SLAVE, "slave"), (libc::MS_PRIVATE, "private"), (libc::MS_UNBINDABLE, "unbindable")];
    names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| format!("{recursive}{name}")).collect()
}

fn of_hooks(hooks: &Hooks) -> Node {
    let Hooks { prestart, create_runtime, create_container, start_container, poststart, poststop } = hooks;
    let list = |hooks: &[crate::hooks::Hook]| Node::List(hooks.iter().map(crate::hooks::Hook::describe).collect());
    Node::Map(vec![
        ("prestart", list(prestart)),
        ("createRuntime", list(create_runtime)),
        ("createContainer", list(create_container)),
        ("startContainer", list(start_container)),
        ("poststart", list(poststart)),
        ("poststop", list(poststop)),
    ])
}
