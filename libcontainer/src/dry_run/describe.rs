//! Describes a plan as a tree of words. Each struct is destructured completely, so that the compiler reports a new field that
//! is missing here.

use super::{Outline, Page};
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
    /// Describes a plan.
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
        // the plan of the process shows the groups and the filter
        let Extensions { keep_groups: _, pidfd_receiver, hook_output, delegate_cgroup, seccomp: _ } = extensions;
        Page(Outline::Map(vec![
            ("container", text(id)),
            ("bundle", text(bundle)),
            ("process", of_process(process)),
            ("namespaces", of_namespaces(namespaces)),
            ("ids", maybe(user_namespace.as_ref(), of_user_namespace)),
            ("hostname", text(hostname)),
            ("domainname", text(domainname)),
            ("clocks", lines(time_offsets.text().lines())),
            ("network devices", Outline::List(net_devices.list().map(|(name, inside)| pair("device", name, "as", inside)).collect())),
            ("cgroup", cgroup.describe()),
            ("cgroup is delegated", Outline::Switch(*delegates_cgroup)),
            ("resctrl", maybe(intel_rdt.as_ref(), of_rdt)),
            ("rootfs", of_rootfs(rootfs)),
            ("sysctls", Outline::List(sysctls.list().iter().map(|(file, value)| text(&format!("{file} = {value}"))).collect())),
            ("session keyring", maybe(keyring.as_ref(), |name| text(&name.to_string_lossy()))),
            ("hooks", of_hooks(hooks)),
            ("output of hooks", lines([&hook_output.stdout, &hook_output.stderr].into_iter().flatten())),
            ("pidfd goes to", text(pidfd_receiver.as_deref().unwrap_or_default())),
            ("cgroup for the program", text(delegate_cgroup.as_deref().unwrap_or_default())),
            ("annotations", Outline::List(annotations.iter().map(|(key, value)| text(&format!("{key} = {value}"))).collect())),
        ]))
    }
}

fn text(text: &str) -> Outline {
    Outline::Text(text.to_owned())
}

fn words<T: ToString>(words: impl IntoIterator<Item = T>) -> Outline {
    Outline::Words(words.into_iter().map(|word| word.to_string()).collect())
}

fn lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Outline {
    Outline::List(lines.into_iter().map(|line| text(line.as_ref())).collect())
}

fn pair(a: &'static str, one: &str, b: &'static str, other: &str) -> Outline {
    Outline::Map(vec![(a, text(one)), (b, text(other))])
}

fn maybe<T>(value: Option<T>, describe: impl FnOnce(T) -> Outline) -> Outline {
    value.map_or(Outline::Nothing, describe)
}

fn of_process(plan: &ProcessPlan) -> Outline {
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
    let mut variables: Vec<Outline> = env.iter().map(|entry| text(&entry.to_string_lossy())).collect();
    if env.home_is_missing {
        variables.push(text("HOME= as the container's /etc/passwd says"));
    }
    Outline::Map(vec![
        ("arguments", words(args.iter().map(quoted))),
        ("looked up in", text(env.search_path.as_deref().unwrap_or_default())),
        ("directory", text(cwd)),
        ("uid", Outline::Number((*uid).into())),
        ("gid", Outline::Number((*gid).into())),
        ("groups", words(groups)),
        ("groups of the caller too", Outline::Switch(*keep_groups)),
        ("umask", maybe(*umask, |mask| text(&format!("{mask:04o}")))),
        ("no new privileges", Outline::Switch(*no_new_privileges)),
        ("capabilities", maybe(capabilities.as_ref(), of_capabilities)),
        ("limits", Outline::List(rlimits.describe())),
        ("oom score", maybe(*oom_score_adj, |score| Outline::Negative(score.into()))),
        ("apparmor profile", text(labels.apparmor.as_deref().unwrap_or_default())),
        ("selinux label", text(labels.selinux.as_deref().unwrap_or_default())),
        ("scheduler", maybe(*scheduler, of_scheduler)),
        ("io priority", maybe(*io_priority, |n| text(&format!("{n:#x}")))),
        ("cpus", of_affinity(cpu_affinity)),
        ("memory policy", maybe(memory_policy.as_ref(), of_memory_policy)),
        ("personality", maybe(*personality, Outline::Number)),
        ("seccomp", maybe(filter.as_ref(), |filter| of_filter(filter, plan.filter_early()))),
        ("terminal", maybe(*terminal, of_terminal)),
        ("descriptors kept", Outline::Number((*preserved_fds).into())),
        ("environment", Outline::List(variables)),
    ])
}

fn of_capabilities(sets: &Sets) -> Outline {
    let Sets { bounding, effective, inheritable, permitted, ambient } = sets;
    let names = |set: &u64| words((0..64).filter(|n| set & 1 << n != 0).map(capabilities::name));
    Outline::Map(vec![
        ("bounding", names(bounding)),
        ("effective", names(effective)),
        ("permitted", names(permitted)),
        ("inheritable", names(inheritable)),
        ("ambient", names(ambient)),
    ])
}

fn of_scheduler(scheduler: Scheduler) -> Outline {
    let Scheduler { attr, cpuset: _ } = scheduler;
    Outline::Map(vec![
        ("policy", Outline::Number(attr.policy.into())),
        ("flags", Outline::Number(attr.flags)),
        ("nice", Outline::Negative(attr.nice.into())),
        ("priority", Outline::Number(attr.priority.into())),
        ("runtime", Outline::Number(attr.runtime)),
        ("deadline", Outline::Number(attr.deadline)),
        ("period", Outline::Number(attr.period)),
    ])
}

fn of_mask(mask: &Mask) -> Outline {
    words(mask.words().iter().map(|word| format!("{word:#x}")))
}

fn of_affinity(affinity: &CpuAffinity) -> Outline {
    let CpuAffinity { initial, finally } = affinity;
    let last = match finally {
        Final::All => text("all of the cpuset"),
        Final::Left => text("as the kernel makes of it"),
        Final::Those(mask) => of_mask(mask),
    };
    match initial {
        None => last,
        Some(mask) => Outline::Map(vec![("before the cgroup", of_mask(mask)), ("after", last)]),
    }
}

fn of_memory_policy(policy: &MemoryPolicy) -> Outline {
    let MemoryPolicy { mode, nodes } = policy;
    Outline::Map(vec![("mode", text(&format!("{mode:#x}"))), ("nodes", maybe(nodes.as_ref(), of_mask))])
}

fn of_filter(filter: &Filter, early: bool) -> Outline {
    let Filter { program, flags, listener } = filter;
    let (path, metadata) = listener.as_ref().map_or(("", ""), |l| (&l.path, &l.metadata));
    Outline::Map(vec![
        ("instructions", Outline::Number(program.len() as u64)),
        ("answers", words(filter.answers())),
        ("flags", text(&format!("{flags:#x}"))),
        ("loaded", text(if early { "before the ids change" } else { "last, before execve" })),
        ("agent", text(path)),
        ("metadata", text(metadata)),
    ])
}

fn of_terminal(terminal: Terminal) -> Outline {
    let Terminal { size, relayed } = terminal;
    Outline::Map(vec![("size", maybe(size, |(rows, columns)| text(&format!("{rows}x{columns}")))), ("relayed", Outline::Switch(relayed))])
}

fn of_namespaces(namespaces: &Namespaces) -> Outline {
    let Namespaces { fresh, joined } = namespaces;
    let name = |flag: i32| KINDS.iter().find(|kind| kind.flag == flag).map_or("", |kind| kind.name);
    let rest = KINDS.iter().filter(|kind| !namespaces.has(kind.flag)).map(|kind| kind.name);
    Outline::Map(vec![
        ("made", words(KINDS.iter().filter(|kind| fresh & kind.flag != 0).map(|kind| kind.name))),
        ("joined", Outline::List(joined.iter().map(|(flag, path)| pair("kind", name(*flag), "by path", path)).collect())),
        ("shared with the host", words(rest)),
    ])
}

fn of_user_namespace(namespace: &UserNamespace) -> Outline {
    let UserNamespace { maps, fresh } = namespace;
    let IdMaps { uids, gids } = maps;
    Outline::Map(vec![
        ("maps are", text(if *fresh { "written" } else { "expected" })),
        ("uids inside outside number", lines(uids.text().lines())),
        ("gids inside outside number", lines(gids.text().lines())),
    ])
}

fn of_rdt(rdt: &IntelRdt) -> Outline {
    let IntelRdt { clos, named, schema, schemata, monitoring } = rdt;
    Outline::Map(vec![
        ("class", text(clos)),
        ("stays", Outline::Switch(*named)),
        ("lines that must be there", words(schema)),
        ("lines", words(schemata)),
        ("monitoring group", Outline::Switch(*monitoring)),
    ])
}

fn of_rootfs(rootfs: &RootfsPlan) -> Outline {
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
        Outline::Map(vec![
            ("path", text(path)),
            ("node", text(&number)),
            ("mode", text(&format!("{mode:04o} of {uid}:{gid}"))),
            ("bound from the host", Outline::Switch(*bound)),
        ])
    };
    Outline::Map(vec![
        ("path", text(path)),
        ("read-only", Outline::Switch(*read_only)),
        ("propagation", maybe(*propagation, |flags| words([of_propagation(flags)]))),
        ("becomes / by", text(if *pivot { "pivot_root" } else { "moving the mount" })),
        ("mounts", Outline::List(mounts.collect())),
        ("devices", maybe(devices.as_ref(), |list| Outline::List(list.iter().map(device).collect()))),
        ("/dev/core", Outline::Switch(*core)),
        ("read-only paths", words(read_only_paths)),
        ("masked paths", words(masked)),
    ])
}

fn of_mount(mount: &MountPlan, id_maps: &[IdMaps]) -> Outline {
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
                ("with all below", Outline::Switch(*recursive)),
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
                ("with a copy of what is below", Outline::Switch(*copy_up)),
                ("label", text(label.as_deref().unwrap_or_default())),
            ]);
        }
    }
    let Change { set, clear, propagation: _ } = change_all;
    entries.push(("set below too", of_attributes(*set)));
    entries.push(("clear below too", of_attributes(*clear)));
    entries.push(("link not followed", Outline::Switch(*target_nofollow)));
    entries.push(("propagation", of_propagations(propagation)));
    if let Some(IdMapped { map, recursive }) = id_map {
        let range = |text: String| text.trim_end().replace('\n', ";").replace(' ', ":");
        let maps = match map {
            Map::Listed(i) => id_maps.get(*i).map(|m| format!("uids {} gids {}", range(m.uids.text()), range(m.gids.text()))),
            Map::Container => Some("the container's".into()),
        };
        let maps = maps.unwrap_or_default();
        entries.push(("id map", text(&maps)));
        entries.push(("mapped below too", Outline::Switch(*recursive)));
    }
    Outline::Map(entries)
}

fn of_remount(remount: &Remount) -> Outline {
    let Remount { target, data, change, cleared, change_all, propagation, read_only_last } = remount;
    let set = change.set | if *read_only_last { mount_attr::RDONLY } else { 0 };
    Outline::Map(vec![
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

fn of_options(data: &[(String, Option<String>)]) -> Outline {
    words(data.iter().map(|(key, value)| value.as_ref().map_or(key.clone(), |value| format!("{key}={value}"))))
}

fn of_propagations(list: &[(u64, bool)]) -> Outline {
    words(list.iter().map(|(flag, all)| format!("{}{}", if *all { "r" } else { "" }, of_propagation(*flag))))
}

fn of_attributes(bits: u64) -> Outline {
    words(mount_attr::names(bits))
}

fn of_propagation(flags: u64) -> String {
    let recursive = if flags & libc::MS_REC != 0 { "r" } else { "" };
    let names =
        [(libc::MS_SHARED, "shared"), (libc::MS_SLAVE, "slave"), (libc::MS_PRIVATE, "private"), (libc::MS_UNBINDABLE, "unbindable")];
    names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| format!("{recursive}{name}")).collect()
}

fn of_hooks(hooks: &Hooks) -> Outline {
    let Hooks { prestart, create_runtime, create_container, start_container, poststart, poststop } = hooks;
    let list = |hooks: &[crate::hooks::Hook]| Outline::List(hooks.iter().map(crate::hooks::Hook::describe).collect());
    Outline::Map(vec![
        ("prestart", list(prestart)),
        ("createRuntime", list(create_runtime)),
        ("createContainer", list(create_container)),
        ("startContainer", list(start_container)),
        ("poststart", list(poststart)),
        ("poststop", list(poststop)),
    ])
}
