//! Lets the kernel begin a static program in `libcontainer/host/src/sys/overlay_exe.rs`, not in the C library's `_start`. Only where it
//! is optimised: else what is written there as one function is many, called through addresses that nobody has relocated yet.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|value| values.contains(&value.as_str()));
    let is_static = is("CARGO_CFG_TARGET_ENV", &["musl"]) && is("CARGO_CFG_TARGET_ARCH", &["x86_64", "aarch64"]);
    let is_optimised = !is("OPT_LEVEL", &["0"]) && std::env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_none();
    if is_static && is_optimised {
        println!("cargo:rustc-link-arg-bins=-e");
        println!("cargo:rustc-link-arg-bins=masu_entry");
    }
}
