//! bpf(2), as far as device programs of a cgroup need it.
