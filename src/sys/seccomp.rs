//! Seccomp filters (seccomp(2)) from tables. The tables belong to those who are confined by them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter,
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
