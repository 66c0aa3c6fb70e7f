//! The files of a system, below a root folder that no link leads out of.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Bytes of a file that are read at most: files of the kernel have no size before they are read.
const LONGEST_FILE: u64 = 1 << 20;

/// Characters of a line that are kept.
const LONGEST_LINE: usize = 200;

/// Entries of a folder that are read at most.
const MOST_ENTRIES: usize = 1 << 16;

/// Links on the way to a file, as many as Linux follows.
const MOST_LINKS: u32 = 40;

/// Why there is nothing to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It does not exist.
    Missing,
    /// It is for others.
    Denied,
    /// Links lead round and round.
    Loop,
    /// It is a folder, a device or a pipe.
    NoFile,
    /// It is longer than what it should be can be.
    TooLong,
    /// It holds something else.
    Strange(String),
    /// The kernel says no.
    Io(ErrorKind),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Missing => f.write_str("is not there"),
            Unread::Denied => f.write_str("permission denied"),
            Unread::Loop => f.write_str("links lead round and round"),
            Unread::NoFile => f.write_str("is no regular file"),
            Unread::TooLong => f.write_str("is too long"),
            Unread::Strange(text) => write!(f, "holds `{text}`"),
            Unread::Io(kind) => write!(f, "{kind}"),
        }
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Unread::Missing,
            ErrorKind::PermissionDenied => Unread::Denied,
            kind => Unread::Io(kind),
        }
    }
}

/// Owner and mode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode, the lowest twelve bits.
    pub mode: u32,
}

/// A system. Paths are absolute ones of it; a link of it is followed as if its root were `/`.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The system whose root is the folder `root`.
    pub fn below(root: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(root)?;
        if !fs::metadata(&root)?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(System { root })
    }

    /// Whether it is the system that this process runs on.
    pub fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Path of its root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is something at the end of `path`'s links.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path).is_ok()
    }

    /// What the last part of `path` says if it is a link, which need not lead anywhere.
    pub fn link(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>, Unread> {
        let path = path.as_ref();
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let place = self.place(&self.resolve(folder)?.join(name));
        match fs::symlink_metadata(&place)?.is_symlink() {
            true => Ok(Some(fs::read_link(&place)?)),
            false => Ok(None),
        }
    }

    /// Last name of the path at the end of `path`'s links.
    pub fn end(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.resolve(path).ok()?.file_name()?.to_string_lossy().into_owned())
    }

    /// The path without links that `path` leads to.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf, Unread> {
        let mut pending = reversed(path.as_ref());
        let mut reached = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                reached.pop();
                continue;
            }
            let next = reached.join(name);
            let place = self.place(&next);
            if !fs::symlink_metadata(&place)?.is_symlink() {
                reached = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Unread::Loop);
            }
            let target = fs::read_link(&place)?;
            if target.is_absolute() {
                reached = PathBuf::from("/");
            }
            pending.extend(reversed(&target));
        }
        Ok(reached)
    }

    /// Opens a regular file; the path that its links lead to goes with it.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<(File, PathBuf), Unread> {
        let path = self.resolve(path)?;
        let place = self.place(&path);
        if !fs::symlink_metadata(&place)?.is_file() {
            return Err(Unread::NoFile);
        }
        Ok((File::open(place)?, path))
    }

    /// A whole file.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Unread> {
        let (file, _) = self.open(path)?;
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
        match u64::try_from(bytes.len()) {
            Ok(length) if length <= LONGEST_FILE => Ok(bytes),
            _ => Err(Unread::TooLong),
        }
    }

    /// A whole file as text.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<String, Unread> {
        Ok(String::from_utf8_lossy(&self.read(path)?).into_owned())
    }

    /// The first line of a file, or its first string where they end with NUL.
    pub fn line(&self, path: impl AsRef<Path>) -> Result<String, Unread> {
        let text = self.text(path)?;
        let line = text.split(['\n', '\0']).next().unwrap_or_default().trim();
        Ok(line.chars().take(LONGEST_LINE).collect())
    }

    /// The number that a file holds.
    pub fn number<N: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Result<N, Unread> {
        let line = self.line(path)?;
        line.parse().map_err(|_| Unread::Strange(line))
    }

    /// The strings of a property of the device tree.
    pub fn strings(&self, path: impl AsRef<Path>) -> Result<Vec<String>, Unread> {
        let text = self.text(path)?;
        let strings = text.split('\0').map(str::trim).filter(|string| !string.is_empty());
        Ok(strings.map(|string| string.chars().take(LONGEST_LINE).collect()).collect())
    }

    /// Names in a folder, sorted, numbers by their value. Names with characters that the kernel does not
    /// use are left out, so names can be put into commands.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, Unread> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.place(&self.resolve(path)?))?.take(MOST_ENTRIES) {
            if let Ok(name) = entry?.file_name().into_string()
                && is_plain(&name)
            {
                names.push(name);
            }
        }
        names.sort_by_key(|name| {
            let (letters, digits) = name.split_at(name.trim_end_matches(is_digit).len());
            (letters.to_owned(), digits.parse::<u64>().unwrap_or(0), name.clone())
        });
        Ok(names)
    }

    /// Names in a folder that have nothing but digits behind `prefix`; none if there is no such folder.
    pub fn numbered(&self, path: impl AsRef<Path>, prefix: &str) -> Vec<String> {
        let mut names = self.list(path).unwrap_or_default();
        names.retain(|name| {
            name.strip_prefix(prefix)
                .is_some_and(|number| !number.is_empty() && number.chars().all(is_digit))
        });
        names
    }

    /// Owner and mode of what `path` leads to.
    pub fn access(&self, path: impl AsRef<Path>) -> Result<Access, Unread> {
        let metadata: Metadata = fs::symlink_metadata(self.place(&self.resolve(path)?))?;
        Ok(Access { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() & 0o7777 })
    }

    /// Whether the running system lets this process open `path` for reading and writing.
    pub fn opens(&self, path: impl AsRef<Path>) -> bool {
        self.is_running() && File::options().read(true).write(true).open(path).is_ok()
    }

    /// Where a path without links is on the machine.
    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// Whether a name has only characters that stand for themselves in a shell.
fn is_plain(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+' | ':'))
}

/// Names of a path, the last first; `..` is kept.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn planted() -> (tempfile::TempDir, System) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/a/b")).unwrap();
        fs::write(folder.path().join("root/a/file"), "inside\n").unwrap();
        fs::write(folder.path().join("file"), "outside\n").unwrap();
        let system = System::below(&folder.path().join("root")).unwrap();
        (folder, system)
    }

    #[test]
    fn links_stay_below_the_root() {
        let (folder, system) = planted();
        let place = |name: &str| folder.path().join("root").join(name);
        symlink("/a/file", place("absolute")).unwrap();
        symlink("../../../../a/file", place("upward")).unwrap();
        symlink(folder.path().join("file"), place("out")).unwrap();
        symlink("../a", place("a/b/folder")).unwrap();
        symlink("round", place("round")).unwrap();
        assert_eq!(system.line("/absolute"), Ok("inside".to_owned()));
        assert_eq!(system.line("/upward"), Ok("inside".to_owned()));
        assert_eq!(system.line("/../../file"), Err(Unread::Missing));
        assert_eq!(system.line("/out"), Err(Unread::Missing));
        assert_eq!(system.line("/a/b/folder/file"), Err(Unread::Missing));
        assert_eq!(system.line("/round"), Err(Unread::Loop));
        assert_eq!(system.link("/round"), Ok(Some("round".into())));
        assert_eq!(system.end("/absolute"), Some("file".to_owned()));
    }

    #[test]
    fn what_is_read_is_bounded() {
        let (folder, system) = planted();
        let place = |name: &str| folder.path().join("root").join(name);
        File::create(place("huge")).unwrap().set_len(1 << 40).unwrap();
        fs::write(place("long"), "x".repeat(5000)).unwrap();
        fs::write(place("10"), "-5").unwrap();
        fs::write(place("9"), "").unwrap();
        fs::write(place("a;reboot"), "").unwrap();
        assert_eq!(system.line("/huge"), Err(Unread::TooLong));
        assert_eq!(system.line("/a"), Err(Unread::NoFile));
        assert_eq!(system.line("/long").unwrap().len(), LONGEST_LINE);
        assert_eq!(system.number("/10"), Ok(-5));
        assert_eq!(system.number::<u64>("/10"), Err(Unread::Strange("-5".to_owned())));
        assert_eq!(system.list("/").unwrap(), ["9", "10", "a", "huge", "long"]);
        assert_eq!(system.numbered("/", ""), ["9", "10"]);
    }
}
