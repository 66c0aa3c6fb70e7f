//! Byte counts as users write and read them: binary units.

use indicatif::BinaryBytes;

/// Parses `256M`, `1.5G`, `4096`: K, M, G, T are powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|error| format!("{error}; write a size as `4096`, `256M` or `1.5G`"))
}

/// Shows a byte count with a binary unit, such as `1.25 GiB`.
pub fn show(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in
            [("4096", 4096), ("256M", 256 << 20), ("1.5G", 3 << 29), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "many", "-1", "12Q"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
