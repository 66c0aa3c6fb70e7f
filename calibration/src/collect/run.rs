//! The loop over layers and chunks.

use std::ops::Range;
use std::path::PathBuf;

use tessera_runtime::decoder::{Layer, LayerCache, Observer, Sequence};
use tessera_runtime::model::ModelError;

use super::observer::{LayerObserver, Recorder, Reference, head_input, inputs_of};
use super::plan::Plan;
use super::states::States;
use super::work::WorkFolder;
use super::{CollectError, Collection, Prefix, Progress};
use crate::statistics::{InputStatistics, Statistics, StatisticsError};

/// What a run gives: the statistics of all inputs, in memory or in files of a work folder.
pub(super) struct Collected {
    pub(super) inputs: Vec<InputStatistics>,
    pub(super) parts: Vec<PathBuf>,
    pub(super) work: Option<WorkFolder>,
}

/// Runs all layers that are not finished, and the head's norm.
pub(super) fn run(
    collection: &Collection<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Collected, CollectError> {
    check(collection)?;
    run_as(collection, Plan::new(collection)?, progress)
}

/// The same by a plan.
pub(super) fn run_as(
    collection: &Collection<'_>,
    plan: Plan,
    progress: &mut dyn FnMut(Progress),
) -> Result<Collected, CollectError> {
    let work = collection.work.map(|path| WorkFolder::open(path, collection)).transpose()?;
    let layers = collection.decoder.model().layers;
    let first = work.as_ref().map_or(Ok(0), WorkFolder::finished)?;
    if first > layers {
        let path = collection.work.unwrap_or_else(|| std::path::Path::new("")).to_owned();
        let what = format!("has states of layer {first}, and the model {layers} layers");
        return Err(CollectError::Damaged { path, what });
    }
    let mut run = Run {
        collection,
        plan,
        states: States::embedded(collection, "states", plan.states_in_memory),
        reference: collection
            .prefix
            .map(|_| States::embedded(collection, "reference", plan.states_in_memory)),
        meter: Meter::new(collection, first, progress),
        inputs: Vec::new(),
        work,
    };
    if let Some(work) = &run.work {
        run.states.load(work, first)?;
        if let Some(reference) = &mut run.reference {
            reference.load(work, first)?;
        }
    }
    let ran = (first..layers).try_for_each(|index| run.layer(index)).and_then(|()| run.head());
    let Run { inputs, work, .. } = run;
    if let Err(error) = ran {
        // What is not finite now would not be later: there is nothing to go on with.
        if let (Some(work), CollectError::Observation { source, .. }) = (work, &error)
            && matches!(**source, StatisticsError::NotFinite { .. })
        {
            work.remove()?;
        }
        return Err(error);
    }
    let parts = work.iter().flat_map(|work| (0..=layers).map(|index| work.part(index)));
    Ok(Collected { inputs, parts: parts.collect(), work })
}

fn check(collection: &Collection<'_>) -> Result<(), CollectError> {
    let first = collection.chunks.first().filter(|chunk| !chunk.is_empty());
    let expected = first.ok_or(CollectError::NoChunks)?.len();
    match collection.chunks.iter().enumerate().find(|(_, chunk)| chunk.len() != expected) {
        Some((chunk, other)) => {
            Err(CollectError::ChunkLength { chunk, expected, found: other.len() })
        }
        None => Ok(()),
    }
}

struct Run<'a> {
    collection: &'a Collection<'a>,
    plan: Plan,
    states: States<'a>,
    /// Those of the float model, where the others pass quantized layers.
    reference: Option<States<'a>>,
    meter: Meter<'a>,
    inputs: Vec<InputStatistics>,
    work: Option<WorkFolder>,
}

impl Run<'_> {
    /// Observes a layer and takes the states through it.
    fn layer(&mut self, index: usize) -> Result<(), CollectError> {
        self.states.begin(self.work.as_ref(), index + 1)?;
        let observed = match self.collection.prefix {
            None => self.observe(index)?,
            Some(prefix) => self.observe_behind(index, prefix)?,
        };
        let observed = self.keep(index, observed)?;
        if self.work.is_none() {
            self.inputs.extend(observed);
        }
        // The reference first: a layer is finished when the states of the next one are there.
        if let Some(reference) = &mut self.reference {
            reference.advance(self.work.as_ref(), index)?;
        }
        self.states.advance(self.work.as_ref(), index + 1)?;
        match (&self.reference, &self.work) {
            (Some(reference), Some(work)) => reference.remove_old(work, index + 1),
            _ => Ok(()),
        }
    }

    /// Observes the model's own layer, all inputs in one pass.
    fn observe(&mut self, index: usize) -> Result<Vec<InputStatistics>, CollectError> {
        let Collection { decoder, options, .. } = self.collection;
        let model = |source| CollectError::Model { layer: Some(index), source };
        let observation = CollectError::observation(Some(index));
        let inputs = inputs_of(decoder, index).map_err(model)?;
        let observer = LayerObserver::new(inputs, options).map_err(&observation)?;
        let layer = decoder.layer(index).map_err(model)?;
        for chunks in self.calls() {
            let mut hidden = self.states.of(chunks.clone())?;
            let passed = forward(&layer, &mut hidden, self.shape(&chunks), Some(&observer));
            // What is not finite in the layer's inputs comes before what came of it.
            observer.check().map_err(&observation)?;
            passed.map_err(model)?;
            self.states.put(chunks.start, &hidden)?;
            self.meter.add(&chunks, index, ONE);
        }
        Ok(observer.finish())
    }

    /// Observes a layer input by input, each behind all that is quantized before it: the layers
    /// before, and the linears of the layer that read the inputs before. The model's own rows are
    /// observed beside. Then the states pass the quantized layer.
    fn observe_behind(
        &mut self,
        index: usize,
        prefix: &dyn Prefix,
    ) -> Result<Vec<InputStatistics>, CollectError> {
        let Collection { decoder, options, .. } = self.collection;
        let model = |source| CollectError::Model { layer: Some(index), source };
        let observation = CollectError::observation(Some(index));
        let quantized = |observed: &[InputStatistics]| {
            prefix
                .layer(index, observed)
                .map_err(|source| CollectError::Prefix { layer: index, source })
        };
        let inputs = inputs_of(decoder, index).map_err(model)?;
        let own = decoder.layer(index).map_err(model)?;
        if let Some(reference) = &mut self.reference {
            reference.begin(self.work.as_ref(), index + 1)?;
        }
        let mut observed: Vec<InputStatistics> = Vec::new();
        for (position, input) in inputs.iter().enumerate() {
            let layer = if position == 0 { None } else { quantized(&observed)? };
            let layer = layer.as_ref().unwrap_or(&own);
            let observer = LayerObserver::of_one(input.clone(), options).map_err(&observation)?;
            let last = position + 1 == inputs.len();
            let part = part_before(position, inputs.len());
            for chunks in self.calls() {
                let shape = self.shape(&chunks);
                let mut rows = Reference::new();
                if let Some(reference) = &mut self.reference {
                    let recorder = Recorder::of(input, last);
                    let mut hidden = reference.of(chunks.clone())?;
                    forward(&own, &mut hidden, shape, Some(&recorder)).map_err(model)?;
                    rows = recorder.into_rows();
                    if last {
                        reference.put(chunks.start, &hidden)?;
                    }
                    self.meter.add(&chunks, index, if last { ONE } else { part });
                }
                observer.begin(rows);
                let mut hidden = self.states.of(chunks.clone())?;
                let passed = forward(layer, &mut hidden, shape, Some(&observer));
                observer.check().map_err(&observation)?;
                passed.map_err(model)?;
                self.meter.add(&chunks, index, part);
            }
            observed.extend(observer.finish());
        }
        let layer = quantized(&observed)?;
        let layer = layer.as_ref().unwrap_or(&own);
        for chunks in self.calls() {
            let mut hidden = self.states.of(chunks.clone())?;
            forward(layer, &mut hidden, self.shape(&chunks), None).map_err(model)?;
            self.states.put(chunks.start, &hidden)?;
            self.meter.add(&chunks, index, ONE);
        }
        Ok(observed)
    }

    /// Chunks and tokens of each.
    fn shape(&self, chunks: &Range<usize>) -> (usize, usize) {
        (chunks.len(), self.collection.chunks.first().map_or(0, Vec::len))
    }

    /// Observes what the head reads.
    fn head(&mut self) -> Result<(), CollectError> {
        let Collection { decoder, options, .. } = self.collection;
        let observation = CollectError::observation(None);
        let input = head_input(decoder);
        let name = input.linears.concat();
        let observer = LayerObserver::new(vec![input], options).map_err(&observation)?;
        for chunks in self.calls() {
            let input = |states: &States<'_>| {
                let rows = decoder.head_input(&states.of(chunks.clone())?);
                rows.map_err(|source| CollectError::Model { layer: None, source })
            };
            if let Some(reference) = &self.reference {
                observer.begin(Reference::from([(name.clone(), input(reference)?)]));
            }
            let rows = input(&self.states)?;
            observer.add(&name, None, &rows);
            observer.check().map_err(&observation)?;
        }
        let observed = self.keep(decoder.model().layers, observer.finish())?;
        if self.work.is_none() {
            self.inputs.extend(observed);
        }
        Ok(())
    }

    /// Chunks that pass through a layer together, call after call.
    fn calls(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (count, call) = (self.collection.chunks.len(), self.plan.call);
        (0..count).step_by(call).map(move |first| first..count.min(first + call))
    }

    /// Writes what was observed of a layer into the work folder, if there is one.
    fn keep(
        &self,
        index: usize,
        inputs: Vec<InputStatistics>,
    ) -> Result<Vec<InputStatistics>, CollectError> {
        let Some(work) = &self.work else { return Ok(inputs) };
        let statistics = Statistics { provenance: self.collection.provenance.clone(), inputs };
        statistics.write(&work.part(index))?;
        Ok(statistics.inputs)
    }
}

/// Takes hidden states of chunks through a layer, in place.
fn forward(
    layer: &Layer,
    hidden: &mut [f32],
    (chunks, tokens): (usize, usize),
    observer: Option<&dyn Observer>,
) -> Result<(), ModelError> {
    let mut caches = vec![LayerCache::new(); chunks];
    let mut sequences: Vec<_> = caches.iter_mut().map(|cache| Sequence { tokens, cache }).collect();
    layer.forward(hidden, &mut sequences, observer)
}

/// A whole layer, in the units of a [`Meter`].
const ONE: u64 = 8;

/// What of a layer comes before one of its inputs, roughly: rows go no further when it was seen.
fn part_before(position: usize, inputs: usize) -> u64 {
    ONE * position as u64 / inputs.max(1) as u64
}

/// Work done, told to the caller.
struct Meter<'a> {
    progress: Progress,
    /// Work of a chunk, by layer.
    layers: Vec<u64>,
    tell: &'a mut dyn FnMut(Progress),
}

impl<'a> Meter<'a> {
    /// Of the layers from `first` on.
    fn new(collection: &Collection<'_>, first: usize, tell: &'a mut dyn FnMut(Progress)) -> Self {
        let decoder = collection.decoder;
        let layers = (0..decoder.model().layers).map(|index| decoder.layer_bytes(index).max(1));
        let layers: Vec<u64> = layers.collect();
        let passes = |index: usize| match collection.prefix {
            // As far as each input, twice but for the last one; then two whole ones.
            Some(_) => {
                let inputs = decoder.layer_inputs(index).len();
                let parts = (0..inputs).map(|position| {
                    let last = position + 1 == inputs;
                    part_before(position, inputs) * if last { 1 } else { 2 }
                });
                parts.sum::<u64>() + 2 * ONE
            }
            None => ONE,
        };
        let chunk = layers.iter().enumerate().skip(first).fold(0, |sum: u64, (index, &bytes)| {
            sum.saturating_add(bytes.saturating_mul(passes(index)))
        });
        let chunks = u64::try_from(collection.chunks.len()).unwrap_or(u64::MAX);
        let total = chunk.saturating_mul(chunks);
        tell(Progress { done: 0, total });
        Meter { progress: Progress { done: 0, total }, layers, tell }
    }

    /// Adds `part` of a layer, where [`ONE`] is all of it.
    fn add(&mut self, chunks: &Range<usize>, layer: usize, part: u64) {
        let work = self.layers[layer].saturating_mul(chunks.len() as u64).saturating_mul(part);
        self.progress.done = self.progress.done.saturating_add(work).min(self.progress.total);
        (self.tell)(self.progress);
    }
}
