//! Plans a container's cgroup: its directories, the values to write there, and their order.
//!
//! Pure; runs in the runtime. config-linux.md, "Control groups" (cgroupsPath).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::devices::Devices;
use super::layout::{Layout, Mount};
use super::resources::{self, Missing, Setting};
use super::systemd::{self, Instance, Scope, Unit};
use super::v2;
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::outline::Outline;
use crate::spec::Resources;

/// The longest file name on Linux, in bytes; the name of a cgroup is a file name.
const NAME_MAX: usize = 255;

/// A container's cgroup directories, as absolute paths. The container's record keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// The directory in the v2 hierarchy, with or without v1 beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v2: Option<String>,
    /// The v1 hierarchies: the controllers, separated by commas, and the directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub v1: Vec<(String, String)>,
}

impl Paths {
    /// Whether the container has no cgroup.
    pub fn is_empty(&self) -> bool {
        self.v2.is_none() && self.v1.is_empty()
    }
}

/// The program that makes the directory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Driver<'a> {
    /// This process does, through the cgroup file system.
    Files,
    /// systemd does, as a scope. The config's annotations may set properties of it.
    Systemd(&'a Instance, &'a BTreeMap<String, String>),
}

/// The directories to make and the values to write.
#[derive(Debug, Clone, Default)]
pub struct CgroupPlan {
    pub(super) places: Vec<Place>,
    pub(super) settings: Vec<Setting>,
    pub(super) devices: Devices,
    /// Whether a limit is planned that a threaded cgroup cannot have.
    pub(super) needs_domain: bool,
    /// The controllers of v2, if known; see [`Layout::with_controllers`].
    pub(super) available: Option<String>,
    /// The scope that systemd makes; without it this process makes the directories.
    pub(super) scope: Option<Scope>,
    paths: Paths,
}

/// One directory to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// As in [`Paths::v1`]; empty for v2.
    pub(super) controllers: String,
    pub(super) mount: String,
    /// The path below the mount, without a leading slash; never empty.
    pub(super) inner: String,
}

impl Place {
    pub(super) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    pub(super) fn dir(&self) -> String {
        join(&self.mount, &self.inner)
    }
}

impl CgroupPlan {
    /// Plans the cgroup of container `id` without systemd; `cgroups_path` is `linux.cgroupsPath`.
    ///
    /// # Errors
    /// The first problem found: a bad path or limit, or a limit that this host cannot have.
    pub fn new(layout: &Layout, id: &str, cgroups_path: &str, resources: Option<&Resources>) -> Result<CgroupPlan> {
        let mut found = Findings::new();
        let plan = CgroupPlan::plan(layout, id, cgroups_path, resources, Driver::Files, &mut found);
        found.unless_wrong(plan)
    }

    /// Plans the cgroup of container `id`.
    ///
    /// `cgroups_path` is `linux.cgroupsPath`, read as runc reads it:
    /// - An absolute path is below the mount point of each hierarchy.
    /// - A relative path is below our own cgroup in v1, and below the root of a v2 hierarchy beside v1. On a host with v2
    ///   alone it is beside our own cgroup, because a cgroup with processes cannot have limited children.
    /// - An empty path stands for the container's id, relative.
    /// - `..` is resolved as text and cannot leave the mount.
    /// - Without systemd, its form `slice:prefix:name` is a plain name.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind): a path with a NUL byte or a name that is too long; the root cgroup, our own
    /// or one above it; limits that contradict each other or are out of range. [`Kind::Unsupported`](crate::error::Kind): a
    /// limit whose v1 hierarchy is not mounted; no devices hierarchy; systemd's driver with v1.
    pub(crate) fn plan(
        layout: &Layout,
        id: &str,
        cgroups_path: &str,
        resources: Option<&Resources>,
        driver: Driver<'_>,
        found: &mut Findings,
    ) -> CgroupPlan {
        if !layout.is_v2() && !layout.v1.iter().any(|m| m.has("devices")) {
            // runc's text; without this hierarchy a container could use every device of the host
            found.wrong("linux.resources.devices", Error::unsupported("mountpoint for devices not found"));
        }
        let none = Resources::default();
        let resources = resources.unwrap_or(&none);
        let devices = Devices::plan(&resources.devices, found);
        let (resources, scope) = match driver {
            Driver::Files => (Cow::Borrowed(resources), None),
            Driver::Systemd(systemd, annotations) => {
                if !layout.is_v2() || layout.v2.is_none() {
                    let text = "the systemd cgroup driver is only supported on a host with cgroup v2 alone";
                    found.wrong("", Error::unsupported(text));
                }
                let scope = Scope::plan(id, systemd, cgroups_path, resources, &devices, annotations, found);
                (Cow::Owned(systemd::countable(resources)), scope)
            }
        };
        let places = match (&scope, driver) {
            (Some(scope), _) => found.at("linux.cgroupsPath", place_of(layout, scope)).map_or(Vec::new(), |place| vec![place]),
            (None, Driver::Systemd(..)) => Vec::new(),
            (None, Driver::Files) => found.at("linux.cgroupsPath", places(layout, id, cgroups_path)).unwrap_or_default(),
        };
        let resources = resources.as_ref();
        let settings = if layout.is_v2() { resources::v2(resources, found) } else { resources::v1(resources, found) };
        if layout.mounts().next().is_none() && !resources.devices.is_empty() {
            found.warn("linux.resources.devices", "the rules are not in force in a container without a cgroup");
        }
        let mut told: Vec<&str> = Vec::new();
        for setting in &settings {
            // one error for each controller
            if let Some(text) = missing(layout, setting).filter(|_| !told.contains(&setting.controller.as_str())) {
                found.wrong(&setting.asked, Error::unsupported(format!("{}: {text}", setting.asked)));
                told.push(&setting.controller);
            }
        }
        let paths = paths(&places);
        let needs_domain = layout.is_v2() && settings.iter().any(v2::needs_domain);
        CgroupPlan { places, settings, devices, needs_domain, available: layout.available.clone(), scope, paths }
    }

    /// The directories, values, device rules and properties of systemd, each in the order of use.
    pub(crate) fn describe(&self) -> Outline {
        let CgroupPlan { places, settings, devices, needs_domain: _, available: _, scope, paths: _ } = self;
        let text = |text: String| Outline::Text(text);
        let file = |s: &Setting| text(format!("{} = {}", s.file, s.value));
        let rules = devices.v1_lines().map(|(allow, rule)| text(format!("{} {rule}", if allow { "allow" } else { "deny" })));
        Outline::Map(vec![
            ("directories", Outline::List(places.iter().map(|place| text(place.dir())).collect())),
            ("values", Outline::List(settings.iter().map(file).collect())),
            ("devices", Outline::List(rules.collect())),
            ("systemd", scope.as_ref().map_or(Outline::Map(Vec::new()), Scope::describe)),
        ])
    }

    /// The unit that systemd makes. The caller records it before systemd makes it.
    pub(crate) fn unit(&self) -> Option<&Unit> {
        self.scope.as_ref().map(|scope| &scope.unit)
    }

    /// The directories. The caller records them before they are made.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

/// The reason why this host cannot have the limit; `None` if it can.
fn missing(layout: &Layout, s: &Setting) -> Option<String> {
    let Setting { controller, file, .. } = s;
    if layout.mounts().next().is_none() {
        return Some(format!("cannot set {controller} limit: the container is to have no cgroup"));
    }
    if !layout.is_v2() {
        let text = || format!("cannot set {controller} limit: container could not join or create cgroup");
        return (!layout.v1.iter().any(|m| m.has(controller))).then(text);
    }
    let available = layout.available.as_ref()?;
    if s.missing == Missing::Skip || controller == "cgroup" || available.split_whitespace().any(|c| c == controller) {
        return None;
    }
    // runc's text
    let start = if s.unified { format!("unified resource {file:?} can't be set: ") } else { format!("cannot set {file}: ") };
    Some(format!("{start}controller {controller:?} not available in the cgroup v2 of this host"))
}

fn places(layout: &Layout, id: &str, cgroups_path: &str) -> Result<Vec<Place>> {
    let path = if cgroups_path.is_empty() { id } else { cgroups_path };
    if path.contains('\0') {
        return Err(Error::invalid("linux.cgroupsPath: a NUL byte in it"));
    }
    let clean = clean(path);
    if let Some(name) = clean.split('/').find(|name| name.len() > NAME_MAX) {
        return Err(Error::invalid(format!("linux.cgroupsPath: the name {name} is longer than {NAME_MAX} bytes")));
    }
    let absolute = path.starts_with('/');
    let mut places = Vec::new();
    for mount in layout.mounts() {
        let inner = if absolute { clean.clone() } else { relative(mount, &clean, layout.is_v2()) };
        let dir = join(&mount.dir, &inner);
        if inner.is_empty() {
            return Err(Error::invalid(format!("linux.cgroupsPath: {dir} is the root of the hierarchy")));
        }
        if layout.is_ours_or_above(&dir) {
            return Err(Error::invalid(format!("linux.cgroupsPath: {dir} is the runtime's own cgroup, or above it")));
        }
        places.push(Place { controllers: mount.controllers.clone(), mount: mount.dir.clone(), inner });
    }
    Ok(places)
}

/// The directory of the container in `scope`.
fn place_of(layout: &Layout, scope: &Scope) -> Result<Place> {
    let mount = layout.v2.as_ref().map_or("/sys/fs/cgroup", |mount| mount.dir.as_str());
    let inner = join(&scope.dir, &scope.subgroup);
    if let Some(name) = inner.split('/').find(|name| name.len() > NAME_MAX) {
        return Err(Error::invalid(format!("linux.cgroupsPath: the name {name} is longer than {NAME_MAX} bytes")));
    }
    let dir = join(mount, &scope.dir);
    if layout.is_ours_or_above(&dir) {
        return Err(Error::invalid(format!("linux.cgroupsPath: {dir} is the runtime's own cgroup, or above it")));
    }
    Ok(Place { controllers: String::new(), mount: mount.to_owned(), inner })
}

fn paths(places: &[Place]) -> Paths {
    let mut paths = Paths::default();
    for place in places {
        if place.is_v2() {
            paths.v2 = Some(place.dir());
        } else {
            paths.v1.push((place.controllers.clone(), place.dir()));
        }
    }
    paths
}

fn relative(mount: &Mount, inner: &str, unified: bool) -> String {
    let own = mount.own.as_deref().unwrap_or("/").trim_matches('/');
    let base = match (unified, mount.controllers.is_empty()) {
        // beside our own cgroup
        (true, _) => own.rsplit_once('/').map_or("", |(parent, _)| parent),
        // a v2 hierarchy beside v1 limits nothing
        (false, true) => "",
        (false, false) => own,
    };
    clean(&join(base, inner))
}

/// Resolves `.`, `..` and repeated slashes as text, as if `path` were absolute. The result has no slash at either end.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

pub(super) fn join(base: &str, inner: &str) -> String {
    if inner.is_empty() { base.to_owned() } else { format!("{}/{inner}", base.trim_end_matches('/')) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn v2(own: &str) -> Layout {
        Layout::unified("/sys/fs/cgroup", format!("0::{own}\n").as_bytes())
    }

    fn v1(own: &str) -> Layout {
        let mounts = "1 2 0:1 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n1 2 0:2 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            1 2 0:3 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        Layout::parse(mounts.as_bytes(), format!("1:pids:{own}\n2:devices:/\n0::/u/v\n").as_bytes()).unwrap()
    }

    fn dir(layout: &Layout, path: &str) -> String {
        CgroupPlan::new(layout, "web", path, None).unwrap().paths().v2.clone().unwrap()
    }

    #[test]
    fn without_a_cgroup_there_are_no_limits() {
        let plan = |json: &str| CgroupPlan::new(&Layout::none(), "web", "/x", Some(&serde_json::from_str(json).unwrap()));
        assert!(plan(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap().paths().is_empty());
        let e = plan(r#"{"pids":{"limit":5}}"#).unwrap_err();
        assert_eq!(e.to_string(), "linux.resources.pids.limit: cannot set pids limit: the container is to have no cgroup");
    }

    #[test]
    fn cgroups_path_becomes_a_directory() {
        for (own, path, is) in [
            ("/", "", "/web"),
            ("/user.slice/session", "", "/user.slice/web"),
            ("/user.slice/session", "rel/x", "/user.slice/rel/x"),
            ("/user.slice/session", "../../../x", "/user.slice/x"),
            ("/init", "/docker/ID", "/docker/ID"),
            ("/init", "//docker/./x/../ID//", "/docker/ID"),
            ("/init", "/../../x", "/x"),
            ("/init", "system.slice:docker:x", "/system.slice:docker:x"),
        ] {
            assert_eq!(dir(&v2(own), path), format!("/sys/fs/cgroup{is}"), "{own} {path}");
        }
    }

    #[test]
    fn v1_is_below_our_own_cgroup_if_relative() {
        let p = CgroupPlan::new(&v1("/me"), "web", "", None).unwrap().paths().clone();
        assert_eq!(p.v1, [("devices".into(), "/sys/fs/cgroup/devices/web".into()), ("pids".into(), "/sys/fs/cgroup/pids/me/web".into())]);
        assert_eq!(p.v2.as_deref(), Some("/sys/fs/cgroup/unified/web"));
        let p = CgroupPlan::new(&v1("/me"), "web", "/a/b", None).unwrap().paths().clone();
        assert_eq!(p.v1[1].1, "/sys/fs/cgroup/pids/a/b");
        let text = serde_json::to_string(&p).unwrap();
        assert_eq!(serde_json::from_str::<Paths>(&text).unwrap(), p);
    }

    #[test]
    fn the_root_and_our_own_are_refused() {
        for path in ["/", "/..", "/a", "/a/b", "/a/b/../b", "//", "/."] {
            let e = CgroupPlan::new(&v2("/a/b"), "web", path, None).unwrap_err();
            assert_eq!(e.kind(), Kind::InvalidSpec, "{path}");
            assert!(e.to_string().starts_with("linux.cgroupsPath: /sys/fs/cgroup"), "{e}");
        }
        let e = CgroupPlan::new(&v1("/a/b"), "web", "/a", None).unwrap_err();
        assert_eq!(e.to_string(), "linux.cgroupsPath: /sys/fs/cgroup/pids/a is the runtime's own cgroup, or above it");
        for path in ["/x\0y", &"n".repeat(256)] {
            assert_eq!(CgroupPlan::new(&v2("/"), "web", path, None).unwrap_err().kind(), Kind::InvalidSpec);
        }
    }

    #[test]
    fn a_limit_without_its_v2_controller_is_an_error() {
        let layout = Layout { available: Some("cpu memory pids\n".into()), ..v2("/") };
        let plan = |json: &str| CgroupPlan::new(&layout, "web", "", Some(&serde_json::from_str(json).unwrap()));
        for json in
            [r#"{"memory":{"limit":5000}}"#, r#"{"unified":{"cgroup.max.depth":"1","cpu.weight":"2"}}"#, r#"{"memory":{"limit":-1}}"#]
        {
            plan(json).unwrap();
        }
        let e = plan(r#"{"cpu":{"cpus":"0"}}"#).unwrap_err();
        let text = "linux.resources.cpu.cpus: cannot set cpuset.cpus: controller \"cpuset\" not available in the cgroup v2 of this host";
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unsupported, text));
        let e = plan(r#"{"unified":{"bogus.max":"1"}}"#).unwrap_err().to_string();
        assert!(e.contains(r#"["bogus.max"]: unified resource "bogus.max" can't be set: controller "bogus" not available"#), "{e}");
    }

    #[test]
    fn a_limit_without_its_hierarchy_is_an_error() {
        let r: Resources = serde_json::from_str(r#"{"memory":{"limit":100000}}"#).unwrap();
        let e = CgroupPlan::new(&v1("/"), "web", "", Some(&r)).unwrap_err();
        assert_eq!(e.to_string(), "linux.resources.memory.limit: cannot set memory limit: container could not join or create cgroup");
        let text = "1 2 0:1 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let layout = Layout::parse(text.as_bytes(), b"1:pids:/\n").unwrap();
        assert_eq!(CgroupPlan::new(&layout, "web", "", None).unwrap_err().to_string(), "mountpoint for devices not found");
    }

    #[test]
    fn with_systemd_the_directory_is_a_scope() {
        let plan = |layout: &Layout, above: &str, path: &str| {
            let instance = Instance::below(above);
            let mut found = Findings::new();
            let plan = CgroupPlan::plan(layout, "web", path, None, Driver::Systemd(&instance, &BTreeMap::new()), &mut found);
            found.unless_wrong(plan).map(|plan| plan.paths().v2.clone().unwrap_or_default()).map_err(|e| e.to_string())
        };
        let own = v2("/system.slice/masu-me.scope");
        assert_eq!(plan(&own, "", "a-b.slice:p:n").unwrap(), "/sys/fs/cgroup/a.slice/a-b.slice/p-n.scope");
        let user = "user.slice/user-1000.slice/user@1000.service";
        assert_eq!(plan(&own, user, "").unwrap(), format!("/sys/fs/cgroup/{user}/user.slice/masu-web.scope"));
        let e = plan(&own, "", "system.slice:masu:me").unwrap_err();
        assert_eq!(e, "linux.cgroupsPath: /sys/fs/cgroup/system.slice/masu-me.scope is the runtime's own cgroup, or above it");
        let e = plan(&v1("/"), "", "").unwrap_err();
        assert_eq!(e, "the systemd cgroup driver is only supported on a host with cgroup v2 alone");
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_the_mount(path in ".{0,40}", own in "(/[a-z.]{1,3}){1,4}") {
            if let Ok(plan) = CgroupPlan::new(&v2(&own), "web", &path, None) {
                let dir = plan.paths().v2.clone().unwrap();
                let inner = dir.strip_prefix("/sys/fs/cgroup/").unwrap();
                proptest::prop_assert!(inner.split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
                proptest::prop_assert!(!v2(&own).is_ours_or_above(&dir));
            }
        }
    }
}
