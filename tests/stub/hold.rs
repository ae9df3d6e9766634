//! Answers that wait until whoever runs the stub lets them go: a file `hold-STEP` in its folder holds the answers
//! to requests that come with so many tool outputs.

use std::path::PathBuf;
use std::time::Duration;

/// How often the file is looked for.
const EVERY: Duration = Duration::from_millis(10);

/// The folder with such files.
pub(crate) struct Hold {
    folder: PathBuf,
}

impl Hold {
    /// By files of this folder.
    pub(crate) fn by(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Waits until nothing holds the answer to this step.
    pub(crate) async fn lets_go(&self, step: usize) {
        let file = self.folder.join(format!("hold-{step}"));
        while file.exists() {
            tokio::time::sleep(EVERY).await;
        }
    }
}
