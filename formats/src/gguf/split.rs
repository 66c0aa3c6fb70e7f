//! Models split over files named `NAME-00001-of-0000N.gguf`.

use std::path::{Path, PathBuf};

use crate::shard_name;

use super::error::{GgufError, SplitProblem};
use super::metadata::Metadata;
use super::value::Value;

/// Shards that a model may have. Each stays open, and systems commonly let a process have 1024
/// files open.
pub const MOST_SHARDS: u64 = 512;

/// Key of the number of a shard, from 0.
pub(super) const NUMBER: &str = "split.no";
/// Key of the number of shards.
pub(super) const COUNT: &str = "split.count";
/// Key of the number of tensors of all shards.
pub(super) const TENSORS: &str = "split.tensors.count";

/// What a file's metadata says of the split it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Number of the shard, from 0.
    pub(super) number: u64,
    /// Number of shards.
    pub(super) count: u64,
    /// Tensors of all shards, if declared.
    pub(super) tensors: Option<u64>,
}

impl Split {
    /// The split that a file belongs to; one of a single shard where it declares none.
    pub(super) fn of(path: &Path, metadata: &Metadata) -> Result<Self, GgufError> {
        let (number, count) = (integer(path, metadata, NUMBER)?, integer(path, metadata, COUNT)?);
        if let (Some(number @ 1..), None) = (number, count) {
            return Err(key_problem(path, COUNT, None, &format!("above {number}")));
        }
        let count = count.unwrap_or(1);
        let fail = |problem| Err(GgufError::Split { path: path.to_owned(), problem });
        if !(1..=MOST_SHARDS).contains(&count) {
            return fail(SplitProblem::ShardCount { found: count, limit: MOST_SHARDS });
        }
        let number = match number {
            Some(number) => number,
            None if count == 1 => 0,
            None => return Err(key_problem(path, NUMBER, None, &format!("below {count}"))),
        };
        if number >= count {
            return Err(key_problem(path, NUMBER, Some(number), &format!("below {count}")));
        }
        Ok(Self { number, count, tensors: integer(path, metadata, TENSORS)? })
    }

    /// Checks that a shard belongs to the split of the first one.
    pub(super) fn check_shard(
        &self,
        path: &Path,
        number: u64,
        first: &Self,
    ) -> Result<(), GgufError> {
        if self.count != first.count {
            let expected = first.count.to_string();
            return Err(key_problem(path, COUNT, Some(self.count), &expected));
        }
        if self.number != number {
            return Err(key_problem(path, NUMBER, Some(self.number), &number.to_string()));
        }
        match (self.tensors, first.tensors) {
            (Some(found), Some(expected)) if found != expected => {
                Err(key_problem(path, TENSORS, Some(found), &expected.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// A key of a split, which may have any integer type.
fn integer(path: &Path, metadata: &Metadata, key: &'static str) -> Result<Option<u64>, GgufError> {
    metadata.get(key).map_or(Ok(None), |value| {
        value.as_u64().map(Some).ok_or_else(|| match value.as_i64() {
            Some(found) => GgufError::Split {
                path: path.to_owned(),
                problem: SplitProblem::Key {
                    key,
                    found: found.to_string(),
                    expected: "0 or more".to_owned(),
                },
            },
            None => GgufError::KeyType {
                path: path.to_owned(),
                key: key.to_owned(),
                expected: "integer",
                found: Value::type_name(value),
            },
        })
    })
}

fn key_problem(path: &Path, key: &'static str, found: Option<u64>, expected: &str) -> GgufError {
    let found = found.map_or_else(|| "absent".to_owned(), |found| found.to_string());
    let problem = SplitProblem::Key { key, found, expected: expected.to_owned() };
    GgufError::Split { path: path.to_owned(), problem }
}

/// The paths of a split's shards. They come from the path that was given, never from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardPaths {
    /// Path whose last part is replaced.
    given: PathBuf,
    /// What stands before the numbers.
    prefix: String,
    /// Number of the shard given, from 1.
    number: u64,
    count: u64,
}

/// Ends the name of every shard.
const SUFFIX: &str = ".gguf";

impl ShardPaths {
    /// Takes a path apart; `None` if it is not that of a shard.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (prefix, number, count) = shard_name::parse(name, SUFFIX)?;
        let (number, count) = (u64::from(number), u64::from(count));
        (1..=count).contains(&number).then(|| Self {
            given: path.to_owned(),
            prefix: prefix.to_owned(),
            number,
            count,
        })
    }

    /// The paths, if the given one is that of the shard its file says it is.
    pub(super) fn matching(path: &Path, split: &Split) -> Result<Self, GgufError> {
        let number = split.number.saturating_add(1);
        Self::of(path)
            .filter(|paths| paths.number == number && paths.count == split.count)
            .ok_or_else(|| GgufError::Split {
                path: path.to_owned(),
                problem: SplitProblem::Name { number, count: split.count },
            })
    }

    /// The path of a shard, by its number from 0.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        let number = number.saturating_add(1);
        self.given.with_file_name(shard_name::format(&self.prefix, number, self.count, SUFFIX))
    }

    /// Checks that all shards are there, before any of them is read.
    pub(super) fn check_present(&self) -> Result<(), GgufError> {
        let mut missing = (0..self.count).filter(|number| !self.path(*number).exists());
        let Some(first) = missing.next() else { return Ok(()) };
        let others = missing.count() as u64;
        Err(GgufError::Split {
            path: self.path(first),
            problem: SplitProblem::Missing {
                number: first.saturating_add(1),
                count: self.count,
                others,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_are_taken_apart() {
        let paths = ShardPaths::of(Path::new("dir/a-b-00002-of-00003.gguf")).expect("a shard");
        assert_eq!((paths.number, paths.count, paths.prefix.as_str()), (2, 3, "a-b"));
        assert_eq!(paths.path(0), Path::new("dir/a-b-00001-of-00003.gguf"));
        assert_eq!(paths.path(2), Path::new("dir/a-b-00003-of-00003.gguf"));
        for other in [
            "a.gguf",
            "a-00002-of-00003",
            "a-2-of-3.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00003.gguf",
            "a-00001-of-+0003.gguf",
            "a-00001-of-000003.gguf",
            "00001-of-00003.gguf",
            "",
        ] {
            assert_eq!(ShardPaths::of(Path::new(other)), None, "{other}");
        }
    }
}
