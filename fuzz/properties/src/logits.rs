//! Files of a base model's log-probabilities.

use tessera_runtime::perplexity::LogitsFile;

use crate::input;
use crate::told::told;

/// Rows that are read of one file.
const ROWS: usize = 64;

/// Any bytes as a logits file: an error, or rows each of which can be read or gives an error.
pub fn base_logits(data: &[u8]) {
    let path = input::file("base.logits", data);
    let file = match LogitsFile::open(&path) {
        Ok(file) => file,
        Err(error) => {
            told(&error);
            return;
        }
    };
    assert!(file.tokens().len() * 4 < data.len());
    assert_eq!(file.chunks() * file.context(), file.tokens().len());
    let rows = file.context() - file.context() / 2 - 1;
    for chunk in (0..file.chunks()).take(ROWS) {
        for position in (0..rows).take(ROWS) {
            match file.row(chunk, position) {
                Ok(row) => {
                    let found = row.log_probabilities();
                    assert_eq!(found.len(), file.vocabulary());
                    assert!(found.iter().all(|ln| ln.is_finite() && *ln < 0.01));
                }
                Err(error) => {
                    told(&error);
                }
            }
        }
        assert!(file.row(chunk, rows).is_err());
    }
    assert!(file.row(file.chunks(), 0).is_err());
    assert!(file.row(usize::MAX, usize::MAX).is_err());
}
