//! Sets the ELF entry point of a static program to `masu_entry` in `libcontainer/host/src/sys/overlay_exe.rs`, not the C
//! library's `_start`. Optimised builds only: without inlining, that function would call others through addresses that are not
//! relocated yet.

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
