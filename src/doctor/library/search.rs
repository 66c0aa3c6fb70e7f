//! Where the dynamic loader looks for a library, in its order.

use std::path::{Path, PathBuf};

use tessera_runtime::rknn::FOLDERS;

use crate::doctor::system::{System, Unread};

/// The loader's configuration.
const CONFIGURATION: &str = "/etc/ld.so.conf";

/// Folders of libraries that are looked into at most.
const MOST_FOLDERS: usize = 256;

/// A file of that name in a folder of libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its path, as the loader forms it.
    pub path: PathBuf,
    /// Where its links lead, or why nowhere.
    pub end: Result<PathBuf, Unread>,
}

impl Copy {
    /// Its path for people.
    pub fn shown(&self) -> String {
        match &self.end {
            Ok(end) if *end != self.path => format!("{} → {}", self.path.display(), end.display()),
            _ => self.path.display().to_string(),
        }
    }
}

/// Folders of libraries: of the environment, where the system is the running one, of the loader's
/// configuration, and the usual ones.
pub fn folders(system: &System) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if system.is_running()
        && let Some(paths) = std::env::var_os("LD_LIBRARY_PATH")
    {
        folders.extend(std::env::split_paths(&paths).filter(|path| path.is_absolute()));
    }
    let main = system.text(CONFIGURATION).unwrap_or_default();
    for line in main.lines().map(str::trim) {
        match line.strip_prefix("include") {
            Some(pattern) => folders.extend(included(system, pattern.trim())),
            None => folders.extend(folder(line)),
        }
    }
    folders.extend(FOLDERS.map(PathBuf::from));
    folders.truncate(MOST_FOLDERS);
    folders
}

/// Folders of the files that a pattern such as `/etc/ld.so.conf.d/*.conf` stands for; other patterns are
/// not used.
fn included(system: &System, pattern: &str) -> Vec<PathBuf> {
    let Some(parent) = pattern.strip_suffix("/*.conf") else {
        return Vec::new();
    };
    let parent = match Path::new(parent).is_absolute() {
        true => parent.to_owned(),
        false => format!("/etc/{parent}"),
    };
    let names = system.list(&parent).unwrap_or_default().into_iter();
    names
        .filter(|name| name.ends_with(".conf"))
        .filter_map(|name| system.text(format!("{parent}/{name}")).ok())
        .flat_map(|text| text.lines().filter_map(|line| folder(line.trim())).collect::<Vec<_>>())
        .collect()
}

/// The folder that a line of the configuration names.
fn folder(line: &str) -> Option<PathBuf> {
    let path = line.split('#').next().unwrap_or_default().trim();
    (path.starts_with('/') && path.len() <= 4096).then(|| PathBuf::from(path))
}

/// Every copy of the library `name`, the one that the loader takes first; a file with several paths is
/// one copy.
pub fn copies(system: &System, folders: &[PathBuf], name: &str) -> Vec<Copy> {
    let mut copies: Vec<Copy> = Vec::new();
    for folder in folders {
        let Ok(folder) = system.resolve(folder) else {
            continue;
        };
        let path = folder.join(name);
        if copies.iter().any(|copy| copy.path == path) {
            continue;
        }
        let end = system.resolve(&path);
        match &end {
            // Without a link there is nothing.
            Err(Unread::Missing) if !matches!(system.link(&path), Ok(Some(_))) => continue,
            Ok(end) if copies.iter().any(|copy| copy.end.as_ref() == Ok(end)) => continue,
            _ => copies.push(Copy { path, end }),
        }
    }
    copies
}
