//! `containerd-shim-masu-v2`; all of it is in the library, where tests and fuzz targets reach it.
#![no_main]

libcontainer::program!(shim::main);
