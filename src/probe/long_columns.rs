//! Matmuls of more than 8192 columns: whether they are made, how their weights are laid out, and how parts of sums of
//! 4 bits are added.

use std::sync::Arc;

use tessera_formats::npu::Engine;
use tessera_formats::npu::probe::{LongColumns, LongWeights};
use tessera_runtime::rknn::check::{ENGINES, Operands, Trial, segmented, shape};
use tessera_runtime::rknn::{Core, Library, RknnError};

use super::questions::Questions;

/// Columns that are tried.
const COLUMNS: [u32; 2] = [8224, 10240];

/// Columns of a segment.
const SEGMENT: u32 = 8192;

/// Asks of every engine.
pub fn ask(library: &Arc<Library>, questions: &mut Questions) -> Vec<LongColumns> {
    let mut answers = Vec::new();
    for engine in ENGINES {
        for k in COLUMNS {
            let question = format!("{k} columns of {}", super::report::engine(engine));
            answers.extend(questions.ask(&question, || of_columns(library, engine, k)));
        }
    }
    answers
}

fn of_columns(library: &Arc<Library>, engine: Engine, k: u32) -> Result<LongColumns, RknnError> {
    let operands = Operands::random(shape(engine, 1, k, 2, 0), k);
    let mut trial = match Trial::new(library, operands.shape(), Core::Any) {
        Ok(trial) => trial,
        Err(RknnError::Call { call: "rknn_matmul_create", .. }) => {
            let parts_added_right = None;
            return Ok(LongColumns {
                engine,
                k,
                accepted: false,
                weights: None,
                parts_added_right,
            });
        }
        Err(error) => return Err(error),
    };
    let mut weights = LongWeights::Neither;
    for (tiles, layout) in [
        (segmented(&operands, SEGMENT)?, LongWeights::Segments),
        (operands.tiles()?, LongWeights::OneBlock),
    ] {
        if are_right(&mut trial, &operands, &tiles)? {
            weights = layout;
            break;
        }
    }
    let mut parts_added_right = None;
    if engine == Engine::I4 && weights != LongWeights::Neither && k >= SEGMENT + 1024 {
        // 1025 products of 49 in the first 8192 columns, and 1024 of −49 behind them.
        let behind = usize::try_from(SEGMENT).unwrap_or(usize::MAX);
        let weight = |_: usize, k: usize| match k {
            0..1024 | 2000 => 7,
            _ if (behind..behind + 1024).contains(&k) => -7,
            _ => 0,
        };
        let operands = Operands::of(operands.shape(), |_, _| 7, weight);
        let tiles = match weights {
            LongWeights::Segments => segmented(&operands, SEGMENT)?,
            _ => operands.tiles()?,
        };
        parts_added_right = Some(are_right(&mut trial, &operands, &tiles)?);
    }
    Ok(LongColumns { engine, k, accepted: true, weights: Some(weights), parts_added_right })
}

fn are_right(trial: &mut Trial, operands: &Operands, tiles: &[u8]) -> Result<bool, RknnError> {
    trial.set_weights(tiles)?;
    trial.set_rows(operands);
    trial.run()?;
    Ok(operands.agree_with(&trial.results()))
}
