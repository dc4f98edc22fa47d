# Sourced by the scripts beside it: finds cargo, installs packages, chooses the target.
#
# need_programs PROGRAM:PACKAGE...  installs the packages of those programs that are missing; what cannot be installed is
#                                   said, and is for the caller to notice
# choose_target                     sets TARGET: static musl, or static glibc where the toolchain cannot have musl
# cargo_static ARGS...              cargo for TARGET
# package_of FOLDER                 prints the name of the package in FOLDER
# certificates                      prints where the certificates of authorities are, by which cargo knows its registry
# as_root COMMAND...                the command as root, through sudo if need be

[ ! -d "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin" ] || PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH
# administrators' programs, which a plain user's path leaves out
export PATH=$PATH:/usr/sbin:/sbin CARGO_TERM_PROGRESS_WHEN=never
ARCH=$(uname -m)
TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")

fail() {
    echo "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

have() {
    case $1 in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# apt PACKAGE...: daemons in the packages are not started
apt() {
    local policy=/usr/sbin/policy-rc.d made='' code=0
    if ! [ -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null && as_root chmod 755 $policy && made=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@" >>"${APT_LOG:-/dev/null}" 2>&1 || code=$?
    [ -z "$made" ] || as_root rm -f $policy
    return $code
}

need_programs() {
    local pair missing=()
    for pair in "$@"; do
        have "${pair%%:*}" || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! have apt-get || { [ "$(id -u)" != 0 ] && ! have sudo; }; then
        echo "not installed, without apt or root: ${missing[*]}"
        return 0
    fi
    echo "installing ${missing[*]}"
    apt "${missing[@]}" && return 0
    as_root apt-get update -q >>"${APT_LOG:-/dev/null}" 2>&1 || true
    apt "${missing[@]}" && return 0
    # one at a time: what one release of Debian lacks must not keep the others out
    for pair in "${missing[@]}"; do
        apt "$pair" || echo "apt cannot install $pair: $(tail -n 1 "${APT_LOG:-/dev/null}")"
    done
}

package_of() { sed -n 's/^name = "\(.*\)"/\1/p' "$1/Cargo.toml" | head -n 1; }

certificates() {
    local file
    for file in "${CARGO_HTTP_CAINFO:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        if [ -n "$file" ] && [ -s "$file" ]; then echo "$file" && return; fi
    done
    return 1
}

# has_target TRIPLE: the toolchain has its standard library, or gets it now
has_target() {
    local library
    library=$(rustc --print sysroot)/lib/rustlib/$1/lib
    [ -d "$library" ] || { have rustup && rustup target add "$1" >/dev/null 2>&1 && [ -d "$library" ]; }
}

choose_target() {
    have cargo || fail "no cargo: install Rust from https://rustup.rs"
    TARGET=$ARCH-unknown-linux-musl
    has_target "$TARGET" && return
    TARGET=$ARCH-unknown-linux-gnu
    echo "the toolchain has no $ARCH-unknown-linux-musl: static glibc instead"
}

cargo_static() { cargo_for "$TARGET" "$@"; }

# cargo_for TRIPLE ARGS...: the program is static whichever libc it is
cargo_for() {
    local triple=$1
    shift
    case $triple in
    *-gnu) RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" limit cargo "$@" --target "$triple" ;;
    *) limit cargo "$@" --target "$triple" ;;
    esac
}

# limit COMMAND...: the script that sources this may give commands that compile a limit of time
limit() { "$@"; }
