//! `process.ioPriority`: the class and level of ioprio_set(2).

use crate::error::{Doing, Error, Result};
use crate::spec;

/// The classes by number, from 1 (linux/ioprio.h).
const CLASSES: [&str; 3] = ["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];

/// The lowest bit of the class.
const CLASS_SHIFT: u32 = 13;

/// The class and level in one number.
pub(crate) fn plan(priority: &spec::IoPriority) -> Result<u32> {
    let level = match u32::try_from(priority.priority) {
        Ok(level) if level <= 7 => level,
        _ => return Err(Error::invalid(format!("process.ioPriority: invalid ioPriority.Priority: {}", priority.priority))),
    };
    match CLASSES.iter().position(|name| *name == priority.class) {
        Some(class) => Ok((class as u32 + 1) << CLASS_SHIFT | level),
        None => Err(Error::invalid(format!("process.ioPriority: invalid ioPriority.Class: {:?}", priority.class))),
    }
}

/// Sets the I/O priority. The real-time class needs a capability, so it runs before the ids change.
pub(crate) fn apply(priority: u32) -> Result<()> {
    masu_host::sys::scheduling::set_io_priority(priority).doing(|| "failed to set io priority")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_number_or_refused() {
        let planned = |class: &str, priority| {
            plan(&serde_json::from_value(serde_json::json!({"class": class, "priority": priority})).unwrap()).map_err(|e| e.to_string())
        };
        assert_eq!(planned("IOPRIO_CLASS_BE", 4), Ok(2 << 13 | 4));
        assert_eq!(planned("IOPRIO_CLASS_IDLE", 0), Ok(3 << 13));
        assert!(planned("IOPRIO_CLASS_RT", 8).unwrap_err().ends_with("invalid ioPriority.Priority: 8"));
        assert!(planned("IOPRIO_CLASS_RT", -1).unwrap_err().ends_with("invalid ioPriority.Priority: -1"));
        assert!(planned("IOPRIO_CLASS_NONE", 0).unwrap_err().ends_with("invalid ioPriority.Class: \"IOPRIO_CLASS_NONE\""));
    }
}
