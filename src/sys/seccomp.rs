//! Seccomp filters (seccomp(2)) from tables. The tables belong to those who are confined by them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// System call number → conditions under which it matches; no condition: always. Several rules are
/// joined by "or", the conditions within one by "and".
pub type Table = BTreeMap<i64, Vec<SeccompRule>>;

/// A filter could not be built or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The table is not a valid filter (a bug), or the architecture is not supported.
    #[error("seccomp table: {0}")]
    Build(#[from] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("seccomp: {0}; the kernel needs CONFIG_SECCOMP_FILTER")]
    Install(#[from] seccompiler::Error),
}

/// Default deny: lets through what the table matches, answers everything else with `otherwise`. A
/// call of a foreign architecture kills the process; the x32 numbers are not in any table.
pub fn allow_only(table: Table, otherwise: SeccompAction) -> Result<BpfProgram, SeccompError> {
    let filter = SeccompFilter::new(table, otherwise, SeccompAction::Allow, architecture()?)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// Default allow: answers what the table matches with `answer`. Installed after an [`allow_only`]
/// filter, its errno wins where both refuse (seccomp(2): the most recent filter's data is used).
pub fn refuse(table: Table, answer: SeccompAction) -> Result<BpfProgram, SeccompError> {
    let filter = SeccompFilter::new(table, SeccompAction::Allow, answer, architecture()?)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// Installs a filter on this thread and what it starts. Needs `no_new_privs`.
pub fn install(program: &BpfProgram) -> Result<(), SeccompError> {
    Ok(apply_filter(program)?)
}

fn architecture() -> Result<TargetArch, SeccompError> {
    Ok(TargetArch::try_from(std::env::consts::ARCH)?)
}

/// Answers ENOSYS to these numbers and to all from `unknown` on, as a kernel does that does not have
/// them: libraries then fall back to older calls. Everything else, foreign architectures and the x32
/// numbers included, is left to the other filters.
pub fn answer_enosys(numbers: &[u32], unknown: u32) -> Result<BpfProgram, SeccompError> {
    /// First of the x32 numbers (`__X32_SYSCALL_BIT`).
    const X32: u32 = 0x4000_0000;
    // classic BPF as in linux/bpf_common.h; offsets into struct seccomp_data: nr 0, arch 4.
    let load = |offset| statement(0x20, offset);
    let allow = || statement(0x06, nix::libc::SECCOMP_RET_ALLOW);
    let enosys = || {
        statement(
            0x06,
            nix::libc::SECCOMP_RET_ERRNO | nix::libc::ENOSYS.unsigned_abs(),
        )
    };
    let mut program = vec![load(4), jump(0x15, audit_arch()?, 1, 0), allow(), load(0)];
    program.extend([jump(0x35, X32, 0, 1), allow()]);
    program.extend([jump(0x35, unknown, 0, 1), enosys()]);
    for number in numbers {
        program.extend([jump(0x15, *number, 0, 1), enosys()]);
    }
    program.push(allow());
    Ok(program)
}

fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// `AUDIT_ARCH_*` of linux/audit.h.
fn audit_arch() -> Result<u32, SeccompError> {
    Ok(match architecture()? {
        TargetArch::x86_64 => 0xC000_003E,
        TargetArch::aarch64 => 0xC000_00B7,
        TargetArch::riscv64 => 0xC000_00F3,
    })
}
