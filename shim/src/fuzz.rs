//! What is read of bytes that others wrote, by its four ways in. The fuzz targets (shim/fuzz) and the tests below call these: a
//! panic is a finding, and so is a message that is not the same after it was written and read again.

use libcontainer::spec::{Process, Resources};

use crate::bootstrap::{answer, wanted};
use crate::bundle::group_in_config;
use crate::flags::Flags;
use crate::io::stdio::{Sink, fifo_path};
use crate::pod::Plan;
use crate::rootfs::plan;
use crate::rpc::frame::{self, Decoder, Frame};
use crate::rpc::messages::{
    Any, BootstrapParams, CloseIoRequest, CreateRequest, CreateSandboxRequest, ExecRequest, KillRequest, Options, ProcessRequest, Request,
    ResizePtyRequest, Response, SandboxRequest, UpdateRequest,
};
use crate::rpc::wire::Message;

/// What a connection says; the first byte tells how it is cut.
pub fn frame(bytes: &[u8]) {
    let (cut, bytes) = bytes.split_first().unwrap_or((&1, bytes));
    let mut whole = Decoder::default();
    whole.push(bytes);
    let all: Vec<Frame> = std::iter::from_fn(|| whole.next()).collect();
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        decoder.push(piece);
        seen.extend(std::iter::from_fn(|| decoder.next()));
    }
    assert_eq!(all, seen, "frames depend on how bytes arrive");
    for frame in all {
        let request = frame.message.as_deref().and_then(read_again::<Request>);
        let answered = frame::answer(frame.stream, request.map(|r| r.payload).ok_or_else(|| frame::status(3, "x")));
        decoder = Decoder::default();
        decoder.push(&answered);
        let answer = decoder.next();
        assert_eq!(answer.as_ref().map(|f| (f.stream, f.kind)), Some((frame.stream, frame::RESPONSE)));
        assert!(answer.and_then(|f| f.message).as_deref().and_then(read_again::<Response>).is_some());
    }
}

/// The message of one method, which the first byte chooses, and what it carries.
pub fn request(bytes: &[u8]) {
    if let Some((number, payload)) = bytes.split_first()
        && let Some((_, read)) = REQUESTS.get(usize::from(*number) % REQUESTS.len())
    {
        read(payload);
    }
}

/// What `start` and `delete` are given: standard input, and config.json in the bundle.
pub fn bootstrap(bytes: &[u8]) {
    let flags = Flags { namespace: "n".into(), id: "i".into(), ..Flags::default() };
    for max_version in [false, true] {
        let wanted = wanted(bytes, &flags, max_version, None);
        assert_eq!((&*wanted.params.namespace, &*wanted.params.instance_id), ("n", "i"), "a shim for somebody else");
        assert!(!answer(wanted.form, "unix:///s").is_empty());
    }
    read_again::<BootstrapParams>(bytes);
    read_again::<Any>(bytes).as_ref().and_then(Options::of).inspect(|options| drop(read_again::<Options>(&options.encode())));
    let _ = group_in_config(bytes);
}

/// The name of a stream.
pub fn log_uri(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes);
    let _ = fifo_path(&name);
    match Sink::parse(&name) {
        Ok(Sink::Program(logger)) => {
            assert!(logger.args.first().is_some_and(|path| path.as_bytes().starts_with(b"/")), "{name}: a program by a relative path");
            assert_eq!(logger.args.len() % 2, 1, "{name}: a key without a value");
        }
        Ok(Sink::File(path)) => assert!(path.is_absolute(), "{name}: a relative path"),
        Ok(Sink::Nowhere) => assert!(name.is_empty()),
        _ => {}
    }
}

type Read = fn(&[u8]);

/// Every method with a message, each with what becomes of it before anything is done.
const REQUESTS: &[(&str, Read)] = &[
    ("Create", create),
    ("Start", process),
    ("Delete", process),
    ("Exec", exec),
    ("State", process),
    ("Wait", process),
    ("Kill", kill),
    ("Pids", process),
    ("Pause", process),
    ("Resume", process),
    ("CloseIO", |bytes| drop(read_again::<CloseIoRequest>(bytes))),
    ("ResizePty", |bytes| drop(read_again::<ResizePtyRequest>(bytes))),
    ("Update", update),
    ("Stats", process),
    ("Connect", process),
    ("CreateSandbox", create_sandbox),
    ("StartSandbox", |bytes| drop(read_again::<SandboxRequest>(bytes))),
];

fn process(bytes: &[u8]) {
    read_again::<ProcessRequest>(bytes);
}

fn create(bytes: &[u8]) {
    let Some(request) = read_again::<CreateRequest>(bytes) else { return };
    request.options.as_ref().and_then(Options::of);
    let _ = plan::plan(&request.rootfs);
    for name in [&request.stdin, &request.stdout, &request.stderr] {
        log_uri(name.as_bytes());
    }
}

fn exec(bytes: &[u8]) {
    let spec = read_again::<ExecRequest>(bytes).and_then(|request| request.spec);
    // a document by itself is found sooner than one in a message
    let _ = Process::from_slice(spec.as_ref().map_or(bytes, |any| &any.value));
}

fn update(bytes: &[u8]) {
    let resources = read_again::<UpdateRequest>(bytes).and_then(|request| request.resources);
    let _ = Resources::from_slice(resources.as_ref().map_or(bytes, |any| &any.value));
}

fn kill(bytes: &[u8]) {
    if let Some(request) = read_again::<KillRequest>(bytes) {
        let _ = masu_host::sys::signal::from_number(request.signal as i32);
    }
}

fn create_sandbox(bytes: &[u8]) {
    if let Some(request) = read_again::<CreateSandboxRequest>(bytes) {
        let _ = Plan::new(request.options.as_ref(), &request.netns_path);
    }
}

/// A message; what it is written as is the same message.
fn read_again<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    assert_eq!(M::decode(&message.encode()).as_ref(), Ok(&message), "read, written and read again");
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::messages::{Extension, Mount};
    use proptest::prelude::*;

    const TARGETS: [(&str, Read); 4] = [("frame", frame), ("request", request), ("bootstrap", bootstrap), ("log_uri", log_uri)];

    fn all(bytes: &[u8]) {
        TARGETS.iter().for_each(|(_, target)| target(bytes));
        REQUESTS.iter().for_each(|(_, read)| read(bytes));
    }

    #[test]
    fn every_method_is_fuzzed() {
        let mut methods = 0;
        for line in include_str!("task.rs").lines().filter(|line| line.contains("decode(request)?") && line.contains("\" => ")) {
            methods += 1;
            assert!(REQUESTS.iter().any(|(name, _)| line.contains(&format!("\"{name}\""))), "{line}");
        }
        assert_eq!(methods, REQUESTS.len() - 2);
    }

    #[test]
    fn what_was_found_once_is_not_found_again() {
        for (name, target) in TARGETS {
            let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let dir = package.join("seeds").join(name);
            let mut seeds = 0;
            for entry in std::fs::read_dir(&dir).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                seeds += 1;
            }
            assert_ne!(seeds, 0, "{}", dir.display());
            // what only cargo fuzz builds
            let target = std::fs::read_to_string(package.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(target.contains(&format!("shim::fuzz::{name}(bytes)")), "{target}");
        }
    }

    /// Messages as containerd sends them, full to the brim.
    fn messages(texts: [String; 6]) -> Vec<Vec<u8>> {
        let [a, b, c, d, e, f] = texts;
        let options = Options { binary_name: a.clone(), root: b.clone(), systemd_cgroup: true, ..Options::default() };
        let any = |url: &str, value: Vec<u8>| Some(Any { type_url: url.into(), value });
        let process = serde_json::json!({"args": [a.clone()], "cwd": b.clone(), "env": [c.clone()], "user": {"uid": 1, "gid": 2}});
        let resources = serde_json::json!({"memory": {"limit": 1 << 30}, "cpu": {"cpus": d.clone()}, "unified": {a.clone(): b.clone()}});
        let rootfs = vec![Mount { kind: c.clone(), source: d.clone(), target: e.clone(), options: vec![f.clone(), "loop".into()] }];
        let options = any("containerd.runc.v1.Options", options.encode());
        let create = CreateRequest { id: a.clone(), bundle: b, rootfs, stdout: f, options: options.clone(), ..CreateRequest::default() };
        let exec = ExecRequest { id: a, exec_id: c, spec: any("x", process.to_string().into_bytes()), ..ExecRequest::default() };
        let annotations = [(d, e)].into();
        let update = UpdateRequest { id: "i".into(), resources: any("x", resources.to_string().into_bytes()), annotations };
        let params = BootstrapParams {
            instance_id: "i".into(),
            namespace: "n".into(),
            extensions: vec![Extension { value: options }],
            ..BootstrapParams::default()
        };
        let mut all = vec![create.encode(), exec.encode(), update.encode(), params.encode()];
        let frames = all.iter().map(|payload| {
            let request = Request { service: "s".into(), method: "m".into(), payload: payload.clone(), timeout_nano: -1 };
            // cut in sevens
            [vec![7], frame::encode(1, frame::REQUEST, &request.encode())].concat()
        });
        let frames: Vec<_> = frames.collect();
        all.extend(frames);
        all
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            all(&bytes);
        }

        #[test]
        fn short_frames_in_a_row_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            // lengths of one byte, so that there are frames
            for chunk in bytes.chunks_mut(30) {
                chunk.iter_mut().skip(1).take(3).for_each(|b| *b = 0);
            }
            frame(&bytes);
        }

        #[test]
        fn a_message_changed_in_one_place_is_read_or_refused(
            texts in proptest::array::uniform6(".{0,20}"), place in any::<proptest::sample::Index>(), byte in any::<u8>(),
        ) {
            for mut bytes in messages(texts) {
                all(&bytes);
                let place = place.index(bytes.len());
                bytes[place] = byte;
                all(&bytes);
            }
        }

        #[test]
        fn any_uri_is_read_or_refused(uri in "(binary|binary-v2|fifo|file|npipe|)(:///|:///x[?]|://|:/|)[/?&=%a-f0-9+]{0,30}%?[a-f0-9]?") {
            log_uri(uri.as_bytes());
        }
    }
}
