//! Black-box tests of OCI runtimes.
