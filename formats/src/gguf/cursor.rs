//! Bounded reading of a header, front to back.

use super::error::{GgufError, Problem, Subject};
use super::source::Source;

/// Bytes that a file's header (magic, counts, key-values, tensor infos) may have. The largest
/// headers published, with vocabularies of 260,000 tokens and half a million merges, have 15 MB;
/// some carry the tokenizer a second time as JSON of 30 MB.
pub const LARGEST_HEADER: u64 = 128 << 20;

/// Bytes fetched beyond what is asked for, so that small fields do not cost a system call each.
const AHEAD: usize = 64 << 10;

/// A problem and the byte of the file where the field begins; it lacks the subject.
pub(super) struct Fault {
    offset: u64,
    problem: Problem,
}

impl Fault {
    pub(super) fn new(offset: u64, problem: Problem) -> Self {
        Self { offset, problem }
    }
}

/// Either a fault of the file's bytes or a failure to read them.
pub(super) enum Stop {
    Fault(Fault),
    Failed(GgufError),
}

impl Stop {
    /// The error, once it is known what was being read.
    pub(super) fn of(self, source: &Source, subject: impl FnOnce() -> Subject) -> GgufError {
        match self {
            Self::Fault(Fault { offset, problem }) => GgufError::Malformed {
                path: source.path().to_owned(),
                offset,
                subject: subject(),
                problem,
            },
            Self::Failed(error) => error,
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Reads a header, never past the end of the file nor past [`LARGEST_HEADER`].
///
/// Bytes read so far stay in memory until [`Cursor::cut`] takes them, and memory grows only as
/// bytes really arrive: a length in the file reserves nothing.
pub(super) struct Cursor<'a> {
    source: &'a Source,
    /// Byte of the file where `bytes` begins.
    base: u64,
    bytes: Vec<u8>,
    /// Position in `bytes`.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self::of_bytes(source, Vec::new())
    }

    /// A cursor that has the first bytes of the source already.
    pub(super) fn of_bytes(source: &'a Source, bytes: Vec<u8>) -> Self {
        Self { source, base: 0, bytes, at: 0 }
    }

    pub(super) fn source(&self) -> &'a Source {
        self.source
    }

    /// Byte of the file that is read next.
    pub(super) fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    /// Bytes of the file from here on.
    pub(super) fn remaining(&self) -> u64 {
        self.source.len().saturating_sub(self.offset())
    }

    /// Position of the next byte among those that [`Cursor::cut`] will take.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Takes the bytes that were read since the last cut.
    pub(super) fn cut(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.at);
        let mut taken = std::mem::replace(&mut self.bytes, rest);
        taken.shrink_to_fit();
        self.base = self.offset();
        self.at = 0;
        taken
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64) -> Result<&[u8], Stop> {
        let offset = self.offset();
        if length > self.remaining() {
            let problem = Problem::PastEnd { needed: length, remaining: self.remaining() };
            return Err(Fault::new(offset, problem).into());
        }
        let too_large = || Fault::new(offset, Problem::HeaderTooLarge { limit: LARGEST_HEADER });
        if length > LARGEST_HEADER.saturating_sub(offset) {
            return Err(too_large().into());
        }
        let length = usize::try_from(length).map_err(|_| too_large())?;
        let start = self.at;
        let end = start.checked_add(length).ok_or_else(too_large)?;
        self.fill(end)?;
        self.at = end;
        self.bytes.get(start..end).ok_or_else(|| too_large().into())
    }

    /// Reads on until `bytes` has at least `end` bytes, in pieces.
    fn fill(&mut self, end: usize) -> Result<(), Stop> {
        while self.bytes.len() < end {
            let held = self.bytes.len();
            let offset = self.base.saturating_add(held as u64);
            let in_file = usize::try_from(self.source.len().saturating_sub(offset));
            // As much again as is held, so that the number of reads stays logarithmic.
            let piece = held.clamp(AHEAD, 16 * AHEAD).min(in_file.unwrap_or(usize::MAX));
            self.bytes.resize(held.saturating_add(piece), 0);
            let Some(free) = self.bytes.get_mut(held..) else { return Ok(()) };
            self.source.read_exact_at(free, offset, None).map_err(Stop::Failed)?;
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length of 64 bits and as many bytes of UTF-8. Errors point at the length.
    pub(super) fn string(&mut self) -> Result<&str, Stop> {
        let offset = self.offset();
        let length = self.u64()?;
        if length > self.remaining() {
            let problem = Problem::PastEnd { needed: length, remaining: self.remaining() };
            return Err(Fault::new(offset, problem).into());
        }
        let bytes = self.take(length)?;
        str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to() as u64;
            Fault::new(offset, Problem::Utf8 { at }).into()
        })
    }

    /// A string that names something: 1 to `limit` bytes, no NUL.
    pub(super) fn name(&mut self, limit: u64) -> Result<&str, Stop> {
        let offset = self.offset();
        let length = u64::from_le_bytes(self.peek()?);
        // The end of the file is reported first: it is the nearer truth about a huge length.
        if length > limit && length <= self.remaining().saturating_sub(8) {
            return Err(Fault::new(offset, Problem::TooLong { found: length, limit }).into());
        }
        let name = self.string()?;
        if name.is_empty() {
            return Err(Fault::new(offset, Problem::Empty).into());
        }
        if let Some(at) = name.find('\0') {
            return Err(Fault::new(offset, Problem::Nul { at: at as u64 }).into());
        }
        Ok(name)
    }

    /// The next bytes, which stay unread.
    fn peek<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let at = self.at;
        let bytes = self.array()?;
        self.at = at;
        Ok(bytes)
    }

    /// Checks a declared count against the bytes that remain and against a limit.
    /// `offset` is where the count is in the file.
    pub(super) fn check_count(
        &self,
        found: u64,
        things: &'static str,
        least_bytes: u64,
        limit: u64,
        offset: u64,
    ) -> Result<(), Stop> {
        let remaining = self.remaining();
        let expected = remaining / least_bytes.max(1);
        if found > expected {
            let problem = Problem::Count { things, found, expected, remaining };
            return Err(Fault::new(offset, problem).into());
        }
        if found > limit {
            let problem = Problem::TooMany { things, found, limit };
            return Err(Fault::new(offset, problem).into());
        }
        Ok(())
    }
}
