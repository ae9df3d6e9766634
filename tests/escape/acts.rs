//! Acts in few words.

use std::path::Path;

use crate::act::{Act, Answer};

impl Answer {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

impl Act {
    pub(crate) fn call(number: i64, args: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Self::Call(number, all)
    }

    pub(crate) fn read(path: impl AsRef<Path>) -> Self {
        Self::Read(path.as_ref().to_owned())
    }

    pub(crate) fn write(path: impl AsRef<Path>) -> Self {
        Self::Write(path.as_ref().to_owned())
    }

    pub(crate) fn create(path: impl AsRef<Path>) -> Self {
        Self::Create(path.as_ref().to_owned())
    }

    pub(crate) fn mkdir(path: impl AsRef<Path>) -> Self {
        Self::Mkdir(path.as_ref().to_owned())
    }

    pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Self {
        Self::Rename(from.as_ref().to_owned(), to.as_ref().to_owned())
    }

    pub(crate) fn list(path: impl AsRef<Path>) -> Self {
        Self::List(path.as_ref().to_owned())
    }
}
