//! The observer of one layer: rows go to the accumulators of their inputs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tessera_runtime::decoder::{Decoder, Observer};
use tessera_runtime::linear::Activations;
use tessera_runtime::model::{ModelError, names};

use crate::statistics::{Accumulator, InputStatistics, ObservationOptions, StatisticsError};

/// An input of a layer, before anything is observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InputShape {
    /// Names of the linears that read it.
    pub(super) linears: Vec<String>,
    /// Channels.
    pub(super) k: usize,
    /// Number of experts; `None` for plain linears.
    pub(super) experts: Option<usize>,
}

/// The inputs of a layer, in order.
pub(super) fn inputs_of(
    decoder: &Decoder<'_>,
    layer: usize,
) -> Result<Vec<InputShape>, ModelError> {
    let shape = |linears: Vec<String>| {
        let tensor = linears.first().cloned().unwrap_or_default();
        let dims = decoder.linear_dims(&tensor).unwrap_or_default();
        let dims = dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
        match dims.as_deref() {
            Ok(&[k, _]) => Ok(InputShape { linears, k, experts: None }),
            Ok(&[k, _, experts]) => Ok(InputShape { linears, k, experts: Some(experts) }),
            _ => Err(ModelError::MissingTensor { tensor }),
        }
    };
    decoder.layer_inputs(layer).into_iter().map(shape).collect()
}

/// The head's input. A head that shares the embedding is a linear of its own all the same.
pub(super) fn head_input(decoder: &Decoder<'_>) -> InputShape {
    InputShape { linears: vec![names::HEAD.to_owned()], k: decoder.model().width, experts: None }
}

/// Takes the statistics of a layer's inputs.
pub(super) struct LayerObserver(Mutex<Inputs>);

struct Inputs {
    /// Each with the name of its first linear.
    accumulators: Vec<(String, Accumulator)>,
    /// Rows that came to an expert.
    gathered: Vec<f32>,
    /// The float model's rows of the same tokens, by linear.
    reference: Reference,
    /// Whether inputs without an accumulator are passed over.
    partial: bool,
    /// Whether the batch that is in the layer has shown the one input that is to be seen.
    satisfied: bool,
    failure: Option<StatisticsError>,
}

/// Rows of plain linears' inputs, by the name of the first linear.
pub(super) type Reference = HashMap<String, Vec<f32>>;

/// Keeps what plain linears of one input read.
pub(super) struct Recorder {
    linear: String,
    /// Whether rows go on through the layer after it.
    whole: bool,
    rows: Mutex<Reference>,
}

impl Recorder {
    /// Of one input; rows go through the whole layer, or no further than it.
    pub(super) fn of(input: &InputShape, whole: bool) -> Self {
        let linear = input.linears.first().cloned().unwrap_or_default();
        Recorder { linear, whole, rows: Mutex::default() }
    }

    /// What was read.
    pub(super) fn into_rows(self) -> Reference {
        self.rows.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Recorder {
    fn observe(
        &self,
        linears: &[&str],
        expert: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) {
        let wanted = linears.first().is_some_and(|linear| *linear == self.linear);
        if wanted && expert.is_none() && rows.is_none() {
            let mut kept = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(self.linear.clone(), x.values().to_vec());
        }
    }

    fn is_satisfied(&self) -> bool {
        !self.whole && !self.rows.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl LayerObserver {
    /// Of one of a layer's inputs.
    pub(super) fn of_one(
        input: InputShape,
        options: &ObservationOptions,
    ) -> Result<Self, StatisticsError> {
        let observer = Self::new(vec![input], options)?;
        observer.inputs().partial = true;
        Ok(observer)
    }

    /// Begins a batch, whose rows in the float model these are.
    pub(super) fn begin(&self, reference: Reference) {
        let mut inputs = self.inputs();
        inputs.reference = reference;
        inputs.satisfied = false;
    }

    pub(super) fn new(
        inputs: Vec<InputShape>,
        options: &ObservationOptions,
    ) -> Result<Self, StatisticsError> {
        let accumulators = inputs.into_iter().map(|InputShape { linears, k, experts }| {
            let name = linears.first().cloned().unwrap_or_default();
            Ok((name, Accumulator::new(linears, k, experts, options)?))
        });
        let accumulators = accumulators.collect::<Result<_, StatisticsError>>()?;
        let (gathered, reference) = (Vec::new(), Reference::new());
        Ok(LayerObserver(Mutex::new(Inputs {
            accumulators,
            gathered,
            reference,
            partial: false,
            satisfied: false,
            failure: None,
        })))
    }

    /// Adds rows of the input of `linear`; the first failure is kept.
    pub(super) fn add(&self, linear: &str, expert: Option<usize>, rows: &[f32]) {
        self.inputs().add(linear, expert, rows);
    }

    /// The first failure, if there was one.
    pub(super) fn check(&self) -> Result<(), StatisticsError> {
        self.inputs().failure.take().map_or(Ok(()), Err)
    }

    /// The statistics, in the order of the inputs.
    pub(super) fn finish(self) -> Vec<InputStatistics> {
        let inputs = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        inputs.accumulators.into_iter().map(|(_, accumulator)| accumulator.finish()).collect()
    }

    fn inputs(&self) -> std::sync::MutexGuard<'_, Inputs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inputs {
    fn add(&mut self, linear: &str, expert: Option<usize>, rows: &[f32]) {
        if self.failure.is_some() {
            return;
        }
        let mut accumulators = self.accumulators.iter_mut();
        let added = match accumulators.find(|(name, _)| name == linear) {
            Some((_, accumulator)) => {
                // Experts' rows come in several parts.
                self.satisfied = self.partial && expert.is_none();
                match self.reference.get(linear) {
                    Some(reference) if expert.is_none() => accumulator.add_pair(rows, reference),
                    _ => accumulator.add(expert, rows),
                }
            }
            None if self.partial => Ok(()),
            None => Err(StatisticsError::Input {
                input: linear.to_owned(),
                what: "no place among the layer's inputs",
            }),
        };
        self.failure = added.err();
    }
}

impl Observer for LayerObserver {
    fn observe(
        &self,
        linears: &[&str],
        expert: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) {
        let linear = linears.first().copied().unwrap_or_default();
        let mut inputs = self.inputs();
        let Some(rows) = rows else { return inputs.add(linear, expert, x.values()) };
        let mut gathered = std::mem::take(&mut inputs.gathered);
        gathered.clear();
        gathered.extend(rows.iter().flat_map(|&row| x.row(row)));
        inputs.add(linear, expert, &gathered);
        inputs.gathered = gathered;
    }

    fn is_satisfied(&self) -> bool {
        self.inputs().satisfied
    }
}
