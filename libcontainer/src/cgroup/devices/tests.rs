//! Compares the lists and the program with a plain copy of the kernel's algorithm, for random rules and accesses.

use proptest::prelude::*;

use super::program::{EXIT, JUMP, JUMP_ANY_BIT, JUMP_EQUAL, JUMP_NOT_EQUAL, LOAD_WORD, MOVE};
use super::*;

fn rules(json: &str) -> Vec<DeviceRule> {
    serde_json::from_str(json).unwrap()
}

fn devices(rules: &[DeviceRule]) -> Result<Devices> {
    let mut found = Findings::new();
    let devices = Devices::plan(rules, &mut found);
    found.unless_wrong(devices)
}

fn lines(json: &str) -> Vec<String> {
    devices(&rules(json)).unwrap().v1_lines().map(|(allow, line)| format!("{} {line}", if allow { '+' } else { '-' })).collect()
}

const DOCKER: &str = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"},
    {"allow":true,"type":"c","major":5,"minor":1,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]"#;

#[test]
fn the_defaults_are_always_there() {
    let default = [
        "- a",
        "+ c *:* m",
        "+ b *:* m",
        "+ c 1:3 rwm",
        "+ c 1:8 rwm",
        "+ c 1:7 rwm",
        "+ c 5:0 rwm",
        "+ c 1:5 rwm",
        "+ c 1:9 rwm",
        "+ c 136:* rwm",
        "+ c 5:2 rwm",
        "+ c 10:200 rwm",
    ];
    for json in ["[]", r#"[{"allow":false,"access":"rwm"}]"#, r#"[{"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#] {
        assert_eq!(lines(json), default, "{json}");
    }
    // the config's own rules come first, in its order
    assert_eq!(lines(DOCKER)[..4], ["- a", "+ c 1:5 rwm", "+ c 5:1 rwm", "+ c *:* m"]);
}

#[test]
fn everything_allowed_needs_no_program() {
    let d = devices(&rules(r#"[{"allow":true,"type":"a","major":3,"access":"m"}]"#)).unwrap();
    assert_eq!((d.allow, d.program().unwrap()), (true, None));
    assert_eq!(d.v1_lines().collect::<Vec<_>>(), [(true, "a".into())]);
}

#[test]
fn the_program_is_small() {
    let d = devices(&rules(DOCKER)).unwrap();
    assert!(d.program().unwrap().unwrap().len() <= 24, "{:#?}", d.program());
}

#[test]
fn bad_rules_have_their_texts() {
    for (json, text) in [
        (r#"[{"allow":true,"type":"z","access":"r"}]"#, r#"invalid cgroup device type "z""#),
        (r#"[{"allow":true,"type":"p","access":"r"}]"#, r#"invalid cgroup device type "p""#),
        (r#"[{"allow":true,"access":"r"},{"allow":true,"type":"c"}]"#, "device access at 1 field cannot be empty"),
        (r#"[{"allow":true,"type":"c","access":"rx"}]"#, r#"invalid cgroup device access "rx" at 0"#),
        (r#"[{"allow":true,"type":"c","major":4294967296,"access":"r"}]"#, "invalid major 4294967296 of cgroup device rule at 0"),
        (r#"[{"allow":true,"type":"c","minor":-2,"access":"r"}]"#, "invalid minor -2 of cgroup device rule at 0"),
    ] {
        let line = devices(&rules(json)).unwrap_err().to_string();
        assert!(line.starts_with("linux.resources.devices[") && line.ends_with(&format!("]: {text}")), "{line}");
    }
    let hole = r#"[{"allow":true,"type":"c","major":7,"access":"rw"},{"allow":false,"type":"c","major":7,"minor":1,"access":"wm"}]"#;
    let text = devices(&rules(hole)).unwrap_err().to_string();
    assert!(text.contains("cannot punch hole in existing wildcard rule [c 7:* rw]"), "{text}");
}

#[test]
fn too_many_rules_are_an_error() {
    let many: Vec<DeviceRule> =
        (0..40_000).map(|i| DeviceRule { allow: true, kind: "c".into(), major: Some(i), minor: Some(0), access: "r".into() }).collect();
    let d = Devices {
        allow: false,
        exceptions: many
            .iter()
            .map(|r| Exception { kind: Kind::Char, major: r.major.map(|m| m as u32), minor: Some(0), access: READ })
            .collect(),
    };
    assert_eq!(d.program().unwrap_err().to_string(), "40000 device rules are too many for one program");
}

/// One access to one device, as the kernel checks it.
#[derive(Debug, Clone)]
struct Access {
    kind: Kind,
    major: u32,
    minor: u32,
    access: u8,
}

/// The functions of security/device_cgroup.c in a plain form: devcgroup_update_access, dev_exception_add, dev_exception_rm,
/// match_exception, match_exception_partial.
fn kernel_allows(rules: &[DeviceRule], a: &Access) -> bool {
    let mut default = false;
    let mut list: Vec<(Kind, Option<u32>, Option<u32>, u8)> = Vec::new();
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let mut play = |allow: bool, kind: Option<Kind>, major, minor, access: u8| {
        let Some(kind) = kind else {
            (default, list) = (allow, Vec::new());
            return;
        };
        let position = list.iter().position(|e| (e.0, e.1, e.2) == (kind, major, minor));
        match (allow == default, position) {
            (false, Some(i)) => list[i].3 |= access,
            (false, None) => list.push((kind, major, minor, access)),
            (true, Some(i)) => list[i].3 &= !access,
            (true, None) => {}
        }
        list.retain(|e| e.3 != 0);
    };
    for r in rules {
        let bits = r.access.chars().fold(0, |b, c| {
            b | if c == 'r' {
                READ
            } else if c == 'w' {
                WRITE
            } else {
                MKNOD
            }
        });
        let kind = match r.kind.as_str() {
            "c" => Some(Kind::Char),
            "b" => Some(Kind::Block),
            _ => None,
        };
        play(r.allow, kind, number(r.major), number(r.minor), bits);
    }
    for e in DEFAULTS {
        play(true, Some(e.kind), e.major, e.minor, e.access);
    }
    let mut there = list.iter().filter(|e| e.0 == a.kind && e.1.is_none_or(|n| n == a.major) && e.2.is_none_or(|n| n == a.minor));
    if default { !there.any(|e| e.3 & a.access != 0) } else { there.any(|e| a.access & !e.3 == 0) }
}

/// Runs a program as the kernel does; every path must end.
fn run(program: &[Instruction], a: &Access) -> bool {
    let kind = if a.kind == Kind::Char { 2 } else { 1 };
    let context = [u32::from(a.access) << 16 | kind, a.major, a.minor];
    let mut registers: [Option<u32>; 5] = [None; 5];
    let mut at = 0;
    loop {
        let i = program[at];
        let (register, value) = (usize::from(i.destination()), i.immediate.cast_unsigned());
        at += 1;
        let jump = match i.code {
            LOAD_WORD => {
                assert_eq!(i.source(), 1);
                registers[register] = Some(context[i.offset as usize / 4]);
                false
            }
            MOVE => {
                registers[register] = Some(value);
                false
            }
            JUMP => true,
            JUMP_EQUAL => registers[register].unwrap() == value,
            JUMP_NOT_EQUAL => registers[register].unwrap() != value,
            JUMP_ANY_BIT => registers[register].unwrap() & value != 0,
            EXIT => return registers[0].unwrap() == 1,
            code => panic!("code {code:#x}"),
        };
        if jump {
            assert!(i.offset >= 0, "no loops");
            at += i.offset as usize;
        }
    }
}

fn any_number() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![3 => prop::sample::select(vec![Some(1), Some(5), Some(10), Some(136), Some(200), Some(3)]), 1 => Just(None), 1 => Just(Some(-1)), 1 => Just(Some(i64::from(u32::MAX)))]
}

fn any_rule() -> impl Strategy<Value = DeviceRule> {
    let kind = prop_oneof![5 => Just("c"), 4 => Just("b"), 1 => Just("a"), 1 => Just("")];
    (any::<bool>(), kind, any_number(), any_number(), prop::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm"]))
        .prop_map(|(allow, kind, major, minor, access)| DeviceRule { allow, kind: kind.into(), major, minor, access: access.into() })
}

fn any_access() -> impl Strategy<Value = Access> {
    let number = || prop::sample::select(vec![0, 1, 3, 5, 10, 136, 200, 77, u32::MAX]);
    (any::<bool>(), number(), number(), 0..=7_u8).prop_map(|(c, major, minor, access)| Access {
        kind: if c { Kind::Char } else { Kind::Block },
        major,
        minor,
        access,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn program_and_lists_decide_as_the_kernel(rules in prop::collection::vec(any_rule(), 0..8), accesses in prop::collection::vec(any_access(), 1..60)) {
        let Ok(devices) = devices(&rules) else { return Ok(()) };
        let program = devices.program().unwrap();
        // the v1 lines must have the same result as the rules
        let played: Vec<DeviceRule> = devices.v1_lines().map(|(allow, line)| {
            let mut f = line.split([' ', ':']);
            let kind = f.next().unwrap().to_owned();
            let mut number = || f.next().and_then(|n| n.parse().ok());
            let (major, minor) = (number(), number());
            DeviceRule { allow, kind, major, minor, access: f.next().unwrap_or("rwm").into() }
        }).collect();
        for a in &accesses {
            let expected = kernel_allows(&rules, a);
            prop_assert_eq!(program.as_ref().is_none_or(|p| run(p, a)), expected, "{:?} {:?}", a, devices);
            prop_assert_eq!(kernel_allows(&played, a), expected, "{:?} {:?}", a, played);
        }
    }
}

#[test]
fn a_change_of_v1_lists_allows_before_it_denies() {
    let devices = |json: &str| Devices::plan(&serde_json::from_str::<Vec<DeviceRule>>(json).unwrap(), &mut Findings::new());
    let changes = |from: &str, to: &str| devices(from).v1_changes(&devices(to));
    let fuse = r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"}]"#;
    let loop9 = r#"[{"allow":true,"type":"b","major":7,"minor":9,"access":"r"}]"#;
    assert_eq!(changes(fuse, fuse), []);
    assert_eq!(changes("[]", fuse), [(true, "c 10:229 rwm".into())]);
    assert_eq!(changes(fuse, loop9), [(true, "b 7:9 r".into()), (false, "c 10:229 rwm".into())]);
    assert_eq!(changes(fuse, r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}]"#), [(false, "c 10:229 wm".into())]);
    let all = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]"#;
    let other = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":230,"access":"w"}]"#;
    assert_eq!(changes(all, other), [(true, "c 10:229 w".into()), (false, "c 10:230 w".into())]);
    assert_eq!(changes(fuse, all)[0], (true, "a".into()), "what is not listed changes: all is written");
}
