//! The architectures that a filter can name: their tokens and widths, and which of them one kernel can run together.
//!
//! The token is the value of `seccomp_data.arch` (include/uapi/linux/audit.h, `AUDIT_ARCH_*`). x32 has no token of its own:
//! its calls have the token of x86_64, and bit 30 of the number set (arch/x86/include/uapi/asm/unistd.h).

/// Bit 30 of a number marks an x32 call.
pub(super) const X32_BIT: u32 = 0x4000_0000;

macro_rules! architectures {
    ($($name:ident $text:literal $token:literal $family:ident;)*) => {
        /// An architecture of `linux.seccomp.architectures`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Arch { $($name,)* }

        /// The names of `linux.seccomp.architectures` that masu knows, sorted: all names of the specification.
        pub const ARCHITECTURES: &[&str] = &[$($text,)*];

        impl Arch {
            pub(super) const ALL: &[Arch] = &[$(Arch::$name,)*];

            /// The architecture with a name such as `SCMP_ARCH_X86_64`.
            pub(super) fn from_name(name: &str) -> Option<Arch> {
                match name { $($text => Some(Arch::$name),)* _ => None }
            }

            /// The value of `seccomp_data.arch` for its calls.
            pub(super) fn token(self) -> u32 {
                match self { $(Arch::$name => $token,)* }
            }

            fn family(self) -> Family {
                match self { $(Arch::$name => Family::$family,)* }
            }
        }
    };
}

architectures! {
    Aarch64 "SCMP_ARCH_AARCH64" 0xc000_00b7 Arm;
    Arm "SCMP_ARCH_ARM" 0x4000_0028 Arm;
    Loongarch64 "SCMP_ARCH_LOONGARCH64" 0xc000_0102 Loongarch;
    M68k "SCMP_ARCH_M68K" 0x0000_0004 Foreign;
    Mips "SCMP_ARCH_MIPS" 0x0000_0008 Mips;
    Mips64 "SCMP_ARCH_MIPS64" 0x8000_0008 Mips;
    Mips64N32 "SCMP_ARCH_MIPS64N32" 0xa000_0008 Mips;
    Mipsel "SCMP_ARCH_MIPSEL" 0x4000_0008 Mipsel;
    Mipsel64 "SCMP_ARCH_MIPSEL64" 0xc000_0008 Mipsel;
    Mipsel64N32 "SCMP_ARCH_MIPSEL64N32" 0xe000_0008 Mipsel;
    Parisc "SCMP_ARCH_PARISC" 0x0000_000f Foreign;
    Parisc64 "SCMP_ARCH_PARISC64" 0x8000_000f Foreign;
    Ppc "SCMP_ARCH_PPC" 0x0000_0014 Power;
    Ppc64 "SCMP_ARCH_PPC64" 0x8000_0015 Power;
    Ppc64le "SCMP_ARCH_PPC64LE" 0xc000_0015 Powerle;
    Riscv64 "SCMP_ARCH_RISCV64" 0xc000_00f3 Riscv;
    S390 "SCMP_ARCH_S390" 0x0000_0016 S390;
    S390x "SCMP_ARCH_S390X" 0x8000_0016 S390;
    Sh "SCMP_ARCH_SH" 0x4000_002a Foreign;
    Sheb "SCMP_ARCH_SHEB" 0x0000_002a Foreign;
    X32 "SCMP_ARCH_X32" 0xc000_003e X86;
    X86 "SCMP_ARCH_X86" 0x4000_0003 X86;
    X86_64 "SCMP_ARCH_X86_64" 0xc000_003e X86;
}

/// Architectures that one kernel can run together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Arm,
    /// Architectures that this program is not built for.
    Foreign,
    Loongarch,
    Mips,
    Mipsel,
    Power,
    Powerle,
    Riscv,
    S390,
    X86,
}

impl Arch {
    /// The architecture that this program is built for.
    #[cfg(target_arch = "x86_64")]
    pub(super) const NATIVE: Arch = Arch::X86_64;
    #[cfg(target_arch = "x86")]
    pub(super) const NATIVE: Arch = Arch::X86;
    #[cfg(target_arch = "aarch64")]
    pub(super) const NATIVE: Arch = Arch::Aarch64;
    #[cfg(target_arch = "arm")]
    pub(super) const NATIVE: Arch = Arch::Arm;
    #[cfg(target_arch = "riscv64")]
    pub(super) const NATIVE: Arch = Arch::Riscv64;
    #[cfg(target_arch = "s390x")]
    pub(super) const NATIVE: Arch = Arch::S390x;
    #[cfg(all(target_arch = "powerpc64", target_endian = "little"))]
    pub(super) const NATIVE: Arch = Arch::Ppc64le;
    #[cfg(all(target_arch = "powerpc64", target_endian = "big"))]
    pub(super) const NATIVE: Arch = Arch::Ppc64;
    #[cfg(target_arch = "powerpc")]
    pub(super) const NATIVE: Arch = Arch::Ppc;
    #[cfg(target_arch = "loongarch64")]
    pub(super) const NATIVE: Arch = Arch::Loongarch64;
    #[cfg(all(target_arch = "mips64", target_endian = "little"))]
    pub(super) const NATIVE: Arch = Arch::Mipsel64;
    #[cfg(all(target_arch = "mips64", target_endian = "big"))]
    pub(super) const NATIVE: Arch = Arch::Mips64;
    #[cfg(all(target_arch = "mips", target_endian = "little"))]
    pub(super) const NATIVE: Arch = Arch::Mipsel;
    #[cfg(all(target_arch = "mips", target_endian = "big"))]
    pub(super) const NATIVE: Arch = Arch::Mips;

    /// Whether a kernel that runs `native` programs can run this architecture. If it cannot, the filter needs no code for it,
    /// because no call has its token.
    pub(super) fn runs_on(self, native: Arch) -> bool {
        self.family() == native.family()
    }

    /// Whether this program is never built for it.
    pub(super) fn is_foreign(self) -> bool {
        self.family() == Family::Foreign
    }

    /// Whether the high word of a 64-bit argument comes first.
    pub(super) fn big_endian(self) -> bool {
        matches!(self.family(), Family::Mips | Family::Power | Family::S390)
    }

    /// Whether conditions compare only the low 32 bits of arguments. This includes x32, as in libseccomp.
    pub(super) fn narrow(self) -> bool {
        use Arch::*;
        matches!(self, X86 | X32 | Arm | Mips | Mipsel | Mips64N32 | Mipsel64N32 | Ppc | S390)
    }

    /// Whether socketcall(2) and ipc(2) stand for the calls that their first argument selects.
    pub(super) fn multiplexes(self) -> bool {
        use Arch::*;
        matches!(self, X86 | Mips | Mipsel | Ppc | Ppc64 | Ppc64le | S390 | S390x)
    }
}
