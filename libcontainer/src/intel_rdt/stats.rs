//! The statistics of a class of service that `events --stats` prints, in the JSON of runc.

use serde::Serialize;

use super::resctrl::Resctrl;
use crate::error::{Doing, Error, Kind, Result};

/// The settings and statistics of the class. What the machine lacks is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The limits of the cache, from `info/L3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<L3CacheInfo>,
    /// The line `L3` of the root class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// The line `L3` of the class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// The limits of memory bandwidth, from `info/MB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemBwInfo>,
    /// The line `MB` of the root class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// The line `MB` of the class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// All lines of the class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// Memory bandwidth, one entry for each domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<Bandwidth>>,
    /// Cache occupancy, one entry for each domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<Occupancy>>,
}

/// The limits of the L3 cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct L3CacheInfo {
    /// The bits of the cache that a class may have, in hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cbm_mask: String,
    /// The fewest bits that a class must have.
    pub min_cbm_bits: u64,
    /// The largest number of classes.
    pub num_closids: u64,
}

/// The limits of memory bandwidth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemBwInfo {
    /// The step of the percentages.
    pub bandwidth_gran: u64,
    /// 1 if the delay grows in proportion to the percentage.
    pub delay_linear: u64,
    /// The smallest percentage.
    pub min_bandwidth: u64,
    /// The largest number of classes.
    pub num_closids: u64,
}

/// Memory bandwidth: bytes since the group was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Bandwidth {
    /// Bytes from all memory.
    pub mbm_total_bytes: u64,
    /// Bytes from the domain's own memory.
    pub mbm_local_bytes: u64,
}

/// Cache occupancy now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Bytes in the last level cache.
    pub llc_occupancy: u64,
}

/// Reads the statistics of the class whose file `schemata` is given; the counters are those of `group`.
pub(super) fn read(resctrl: &Resctrl, schemata: &str, group: &str) -> Result<Stats> {
    let lines = |file: &str| -> Result<Vec<String>> { Ok(resctrl.read(file)?.trim().lines().map(str::to_owned).collect()) };
    let (root, own) = (lines("schemata")?, lines(schemata)?);
    let line = |lines: &[String], word: &str| lines.iter().rfind(|line| line.contains(word)).map(|line| line.trim().to_owned());
    let number = |file: String| -> Result<u64> {
        let text = resctrl.read(&file)?;
        // the kernel writes "Unavailable" for a counter that cannot be read, or has no value yet
        text.trim()
            .parse()
            .map_err(|_| Error::new(Kind::Internal, format!("{:?} is not a number", text.trim())))
            .doing(|| format!("read {file}"))
    };
    let mut stats = Stats::default();
    if resctrl.has("info/L3")? {
        let info = |name: &str| format!("info/L3/{name}");
        stats.l3_cache_info = Some(L3CacheInfo {
            cbm_mask: resctrl.read(&info("cbm_mask"))?.trim().to_owned(),
            min_cbm_bits: number(info("min_cbm_bits"))?,
            num_closids: number(info("num_closids"))?,
        });
        stats.l3_cache_schema_root = line(&root, "L3").unwrap_or_default();
        stats.l3_cache_schema = line(&own, "L3").unwrap_or_default();
    }
    if resctrl.has("info/MB")? {
        let info = |name: &str| number(format!("info/MB/{name}"));
        stats.mem_bw_info = Some(MemBwInfo {
            bandwidth_gran: info("bandwidth_gran")?,
            delay_linear: info("delay_linear")?,
            min_bandwidth: info("min_bandwidth")?,
            num_closids: info("num_closids")?,
        });
        stats.mem_bw_schema_root = line(&root, "MB").unwrap_or_default();
        stats.mem_bw_schema = line(&own, "MB").unwrap_or_default();
    }
    stats.schemata = own;
    if resctrl.has("info/L3_MON")? {
        let features = resctrl.read("info/L3_MON/mon_features")?;
        let has = |feature: &str| features.lines().any(|line| line == feature);
        let data = if group.is_empty() { "mon_data".to_owned() } else { format!("{group}/mon_data") };
        let domains = resctrl.list(&data)?;
        if has("mbm_total_bytes") || has("mbm_local_bytes") {
            let one = |file: &str, domain: &str| if has(file) { number(format!("{data}/{domain}/{file}")) } else { Ok(0) };
            let counted = domains.iter().map(|domain| {
                Ok(Bandwidth { mbm_total_bytes: one("mbm_total_bytes", domain)?, mbm_local_bytes: one("mbm_local_bytes", domain)? })
            });
            stats.mbm_stats = Some(counted.collect::<Result<_>>()?);
        }
        if has("llc_occupancy") {
            let counted = domains.iter().map(|domain| Ok(Occupancy { llc_occupancy: number(format!("{data}/{domain}/llc_occupancy"))? }));
            stats.cmt_stats = Some(counted.collect::<Result<_>>()?);
        }
    }
    Ok(stats)
}
