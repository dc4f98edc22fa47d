//! From the types of the crate oci-spec, for programs that have those (feature `oci-spec`): by way of JSON, which both take
//! from the same specification.

use oci_spec::runtime::Spec as Theirs;

use super::Spec;
use crate::error::{Error, Result};

impl TryFrom<&Theirs> for Spec {
    type Error = Error;

    /// # Errors
    /// A value that this library has no place for.
    fn try_from(theirs: &Theirs) -> Result<Spec> {
        Spec::from_slice(&serde_json::to_vec(theirs).map_err(|e| Error::invalid(e.to_string()))?)
    }
}
