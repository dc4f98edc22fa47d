//! Loads that make one part of a container's life heavy. Each is the bundle docker-default with a large number of one thing.

use std::fs;

use anyhow::Result;
use integration::Bundle;
use serde_json::{Value, json};

use crate::options::Step;

/// The number of containers in a list.
pub(crate) const LISTED: usize = 1000;
/// The memory that each container of a list may take, in KiB. A thousand Go runtimes that wait take more than ten GiB.
pub(crate) const MEMORY: u64 = 4096;

/// A heavy load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// 10,000 environment variables, 278 kB.
    Environment,
    /// 1,000 read-only bind mounts below a tmpfs, whose mount points are made.
    Binds,
    /// 1,000 annotations, 1 MB.
    Annotations,
    /// A thousand created containers.
    List,
}

impl Load {
    pub(crate) const ALL: [Self; 4] = [Self::Environment, Self::Binds, Self::Annotations, Self::List];

    /// The name in tables and in the baseline.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Environment => "heavy-environment",
            Self::Binds => "heavy-binds",
            Self::Annotations => "heavy-annotations",
            Self::List => "heavy-list",
        }
    }

    /// The steps that the load makes slower.
    pub(crate) fn steps(self) -> &'static [Step] {
        match self {
            Self::Environment | Self::Binds => &[Step::Run],
            Self::Annotations => &[Step::Run, Step::State],
            Self::List => &[Step::List],
        }
    }

    /// Adds the load to `bundle`.
    pub(crate) fn put_on(self, bundle: &mut Bundle) -> Result<()> {
        match self {
            Self::Environment => {
                let variables = bundle.config["process"]["env"].as_array_mut();
                variables.into_iter().for_each(|list| list.extend((0..10_000).map(|i| json!(format!("VAR{i}=xxxxxxxxxxxxxxxx")))));
            }
            Self::Binds => {
                let source = bundle.path().join("source");
                fs::create_dir_all(&source)?;
                fs::create_dir_all(bundle.rootfs("mnt"))?;
                bundle.mount("/mnt", "tmpfs", "tmpfs", &[]);
                for i in 0..1000 {
                    bundle.mount(&format!("/mnt/{i}"), "bind", &source.to_string_lossy(), &["bind", "ro"]);
                }
            }
            Self::Annotations => {
                let entry = |i| (format!("org.example.annotation{i}"), Value::from("x".repeat(1000)));
                bundle.config["annotations"] = (0..1000).map(entry).collect::<serde_json::Map<_, _>>().into();
            }
            Self::List => {}
        }
        Ok(())
    }
}
