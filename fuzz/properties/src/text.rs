//! Texts: recipes, `board.json`, files of sensitivities.

use crate::told::{message, told};
use tessera_formats::npu::{Board, Scheme, Work};

/// Names of tensors that recipes are asked for.
const NAMES: [&str; 6] = [
    "blk.0.attn_q.weight",
    "blk.11.ffn_down.weight",
    "blk.3.ffn_gate_exps.weight",
    "output.weight",
    "token_embd.weight",
    "a\u{1b}[2J\u{202e}",
];

/// Any text as a recipe: an error, or options or a contradiction for any name.
pub fn recipe(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = tessera::fuzzing::recipe(text, &NAMES).map_err(|error| message(&error));
    }
}

/// Any text as a file of sensitivities: an error, or a finite damage for every option.
pub fn sensitivity(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = tessera::fuzzing::sensitivities(text).map_err(|error| message(&error));
    }
}

/// Any text as `board.json`: an error, or rates that give times.
pub fn board(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let board = match Board::parse(text) {
        Ok(board) => board,
        Err(error) => {
            told(&error);
            return;
        }
    };
    for scheme in [Scheme::W4A4, Scheme::W4A8, Scheme::W8A8, Scheme::W16A16] {
        for size in [1, u64::MAX] {
            let work =
                Work { scheme, tile_bytes: size, segments: size, matrices: size, used: size };
            let seconds = board.rates.seconds(&work, size);
            assert!(seconds >= 0.0 && !seconds.is_nan());
        }
    }
    let _ = board.int4_wraps();
    let again = serde_json::to_string(&board).expect("a board is text");
    assert_eq!(Board::parse(&again).expect("what was written is read"), board);
}
