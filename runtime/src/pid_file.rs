//! The file that tells a caller the number of a process.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, getpid};
use sys::{Doing, Result};

/// A pid file of which a reader sees all or nothing: begun before anything is made, so that one that cannot be written
/// costs no process its life. What is not finished is removed.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    draft: PathBuf,
    path: PathBuf,
}

impl PidFile {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// As open(2).
    pub fn begin(path: &Path) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", getpid()));
        let draft = path.with_file_name(name);
        // Never through a link or into a file that somebody has put there.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft);
        let file = file.doing(|| format!("write pid file {}", path.display()))?;
        Ok(Self { file, draft, path: path.to_owned() })
    }

    /// Puts the number of a process into it.
    ///
    /// # Errors
    /// As write(2) and rename(2).
    pub fn finish(mut self, pid: Pid) -> Result<()> {
        let step = || format!("write pid file {}", self.path.display());
        self.file.write_all(pid.to_string().as_bytes()).doing(step)?;
        std::fs::rename(&self.draft, &self.path).doing(step)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Gone where it was finished.
        let _ = std::fs::remove_file(&self.draft);
    }
}
