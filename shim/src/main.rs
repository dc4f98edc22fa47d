//! `containerd-shim-masu-v2`; all of it is in the library, where tests and fuzz targets reach it.
#![forbid(unsafe_code)]
#![no_main]

masu_host::program!(shim::main);
