//! The loop over made-up models.

use super::plan::Plan;
use super::*;
use crate::perplexity::{Chunks, LogitsFile, TokenStatistics};

const VOCABULARY: usize = 11;

/// A model of arithmetic that depends on everything it should: token, position, past, layer.
struct Toy {
    width: usize,
    layers: usize,
    seed: f32,
    /// Where a logit becomes NaN: the token read there.
    poison: Option<u32>,
    loads: std::cell::Cell<usize>,
}

impl Toy {
    fn new(width: usize, layers: usize, seed: f32) -> Self {
        Toy { width, layers, seed, poison: None, loads: std::cell::Cell::default() }
    }
}

impl LayeredModel for Toy {
    fn layers(&self) -> usize {
        self.layers
    }

    fn width(&self) -> usize {
        self.width
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn layer_bytes(&self, index: usize) -> u64 {
        1000 + index as u64
    }

    fn head_bytes(&self) -> u64 {
        2000
    }

    fn scratch_bytes(&self, chunks: usize, context: usize) -> u64 {
        (chunks * context) as u64
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelFailure> {
        let poisoned = |token: u32| self.poison == Some(token);
        let value = |token: u32, channel: usize| {
            let token = f32::from(u16::try_from(token).unwrap());
            (token * 0.37 + channel as f32 + self.seed).sin()
        };
        Ok(tokens
            .iter()
            .flat_map(|&token| {
                (0..self.width).map(
                    move |channel| {
                        if poisoned(token) { f32::NAN } else { value(token, channel) }
                    },
                )
            })
            .collect())
    }

    fn layer(&self, index: usize) -> Result<LoadedLayer<'_>, ModelFailure> {
        self.loads.set(self.loads.get() + 1);
        Ok(Box::new(move |hidden, chunks| {
            let (rows, width) = (hidden.len() / chunks / self.width, self.width);
            for states in hidden.chunks_exact_mut(rows * width) {
                // A mean over the past of the channel to the left.
                for row in (0..rows).rev() {
                    for channel in 0..width {
                        let left = (channel + 1 + index) % width;
                        let past: f32 = (0..=row).map(|past| states[past * width + left]).sum();
                        let state = &mut states[row * width + channel];
                        *state = (*state + 1.3 * past / (row as f32 + 1.0)).tanh();
                    }
                }
            }
            Ok(())
        }))
    }

    fn head(&self) -> Result<LoadedHead<'_>, ModelFailure> {
        Ok(Box::new(move |hidden| {
            let logits = hidden.chunks_exact(self.width).flat_map(|state| {
                (0..VOCABULARY).map(move |token| {
                    let weight = |channel: usize| ((token * 7 + channel * 3) as f32).cos();
                    state.iter().enumerate().map(|(channel, x)| 2.0 * x * weight(channel)).sum()
                })
            });
            Ok(logits.collect())
        }))
    }
}

fn chunks(context: usize, count: usize) -> Chunks {
    let tokens: Vec<u32> = (0u32..).take(context * count).map(|i| (i * i / 3 + i) % 10).collect();
    Chunks::new(&tokens, context, None, Some(10)).unwrap()
}

fn participant<'a>(name: &str, model: &'a Toy) -> Participant<'a> {
    Participant { name: name.to_owned(), model, save: None }
}

/// The same by the plainest loop: a chunk at a time, everything loaded.
fn plainly(chunks: &Chunks, model: &Toy, reference: Option<&Toy>) -> Vec<TokenStatistics> {
    use crate::perplexity::{LogSoftmax, ReferenceRow};
    let logits = |model: &Toy, chunk| {
        let mut hidden = model.embed(&chunks.input(chunk)).unwrap();
        for index in 0..model.layers {
            model.layer(index).unwrap()(&mut hidden, 1).unwrap();
        }
        model.head().unwrap()(&hidden).unwrap()
    };
    let mut tokens = Vec::new();
    for chunk in 0..chunks.len() {
        let (ours, theirs) = (logits(model, chunk), reference.map(|model| logits(model, chunk)));
        for (position, &label) in chunks.scored().zip(chunks.labels(chunk)) {
            let at = position * VOCABULARY..(position + 1) * VOCABULARY;
            let row = LogSoftmax::new(&ours[at.clone()]).unwrap();
            let reference =
                theirs.as_ref().map(|logits| LogSoftmax::new(&logits[at.clone()]).unwrap());
            let reference = reference.as_ref().map(ReferenceRow::Logits);
            tokens.push(TokenStatistics::new(&row, label as usize, reference));
        }
    }
    tokens
}

#[test]
fn no_budget_changes_a_number() {
    let chunks = chunks(9, 7);
    let (base, one, two) = (Toy::new(6, 3, 0.0), Toy::new(6, 3, 0.1), Toy::new(5, 2, 0.2));
    let expected = [
        plainly(&chunks, &base, None),
        plainly(&chunks, &one, Some(&base)),
        plainly(&chunks, &two, Some(&base)),
    ];
    let mut groups = std::collections::BTreeSet::new();
    for budget in [4980, 5200, 6000, 6700, 7500, 8000, 9000, 1 << 14, 1 << 20, u64::MAX] {
        let evaluation = Evaluation {
            chunks: &chunks,
            memory_budget_bytes: budget,
            reference: Some(Reference::Model(participant("base", &base))),
            models: vec![participant("one", &one), participant("two", &two)],
        };
        let plan = Plan::new(&chunks, Some(&base), &[&one, &two], budget).unwrap();
        groups.insert((plan.group, plan.heads.len()));
        base.loads.set(0);
        let mut told = Vec::new();
        let report = evaluation.run(&mut |progress| told.push(progress)).unwrap();
        assert_eq!(base.loads.get(), 3 * chunks.len().div_ceil(plan.group), "layers are streamed");
        let outcomes: Vec<_> = report.reference.iter().chain(&report.models).collect();
        assert_eq!(outcomes.len(), 3);
        for (outcome, expected) in outcomes.iter().zip(&expected) {
            assert_eq!(&outcome.tokens, expected, "{} within {budget}", outcome.name);
            assert_eq!(outcome.summary, Summary::new(expected).unwrap());
        }
        assert!(told.windows(2).all(|pair| pair[0].done <= pair[1].done));
        let last = told.last().unwrap();
        assert_eq!((told[0].done, last.done), (0, last.total));
    }
    // One chunk at a time to all, the heads together and one by one.
    assert!(groups.contains(&(1, 2)) && groups.contains(&(7, 1)), "{groups:?}");
    assert!(groups.len() > 3, "{groups:?}");
}

#[test]
fn a_plan_keeps_within_its_budget() {
    let chunks = chunks(9, 40);
    let (base, one) = (Toy::new(6, 3, 0.0), Toy::new(8, 3, 0.1));
    let models: [&dyn LayeredModel; 2] = [&one, &base];
    let least = match Plan::new(&chunks, Some(&base), &models, 0) {
        Err(EvaluationError::Budget { needed, budget: 0, context: 9 }) => needed,
        other => panic!("{other:?}"),
    };
    assert!(Plan::new(&chunks, Some(&base), &models, least - 1).is_err());
    for budget in (least..60_000).step_by(37) {
        let plan = Plan::new(&chunks, Some(&base), &models, budget).unwrap();
        let Plan { group, call, block, heads } = plan;
        // Bytes as the documentation counts them.
        let kept = group * 4 * 4 * (6 + 8 + 6);
        let in_layers = kept + group * 9 * 8 * 4 + 1002 + call * 9;
        let most = heads.iter().map(|heads| 2000 * heads.len()).max().unwrap();
        let in_heads = kept + 2000 + most + 2 * block * VOCABULARY * 4;
        assert!(in_layers.max(in_heads) as u64 <= budget, "{budget}");
        assert!(call <= group && group <= 40 && block >= 8);
        assert_eq!(heads.iter().flat_map(Clone::clone).collect::<Vec<_>>(), [0, 1]);
    }
    let error = EvaluationError::Budget { context: 9, needed: least, budget: 5 }.to_string();
    assert!(error.contains(&least.to_string()), "{error}");
}

#[test]
fn a_saved_reference_is_compared_with_as_a_file() {
    let chunks = chunks(8, 5);
    let (base, one) = (Toy::new(6, 3, 0.0), Toy::new(6, 3, 0.1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.logits");
    let mut reference = participant("base", &base);
    reference.save = Some(path.clone());
    let mut evaluation = Evaluation {
        chunks: &chunks,
        memory_budget_bytes: 5_000,
        reference: Some(Reference::Model(reference)),
        models: vec![participant("one", &one), participant("base again", &base)],
    };
    let beside = evaluation.run(&mut |_| ()).unwrap();
    let alone = Evaluation { models: vec![], ..evaluation.clone() }.run(&mut |_| ()).unwrap();
    assert_eq!(alone.reference.unwrap().tokens, beside.reference.as_ref().unwrap().tokens);
    assert!(alone.models.is_empty());
    let itself = beside.models[1].summary.comparison.as_ref().unwrap();
    assert_eq!((itself.kld.maximum, itself.same_top.value), (0.0, 1.0));

    let file = LogitsFile::open(&path).unwrap();
    evaluation.reference = Some(Reference::File(&file));
    let report = evaluation.run(&mut |_| ()).unwrap();
    assert!(report.reference.is_none());
    for (from_file, beside) in report.models.iter().zip(&beside.models) {
        assert_eq!(from_file.summary.ppl, beside.summary.ppl);
        for (a, b) in from_file.tokens.iter().zip(&beside.tokens) {
            let (a, b) = (a.difference.unwrap(), b.difference.unwrap());
            assert!((a.kld - b.kld).abs() < 2e-4 && (a.nll_ref - b.nll_ref).abs() < 2e-4);
            assert_eq!(a.same_top, b.same_top);
        }
    }
    // Without a reference: the perplexity alone.
    evaluation.reference = None;
    let report = evaluation.run(&mut |_| ()).unwrap();
    assert_eq!(report.models[0].summary.ppl, beside.models[0].summary.ppl);
    assert_eq!(report.models[0].summary.comparison, None);
    // A file of another text.
    let other = self::chunks(8, 6);
    let evaluation =
        Evaluation { chunks: &other, reference: Some(Reference::File(&file)), ..evaluation };
    assert!(matches!(evaluation.run(&mut |_| ()), Err(EvaluationError::LogitsFile(_))));
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    let chunks = chunks(8, 3);
    let (base, mut broken) = (Toy::new(6, 3, 0.0), Toy::new(6, 3, 0.1));
    // The token 10 stands at the start of every chunk alone.
    broken.poison = Some(10);
    let folder = tempfile::tempdir().unwrap();
    let mut reference = participant("base", &base);
    reference.save = Some(folder.path().join("base.logits"));
    let evaluation = Evaluation {
        chunks: &chunks,
        memory_budget_bytes: u64::MAX,
        reference: Some(Reference::Model(reference)),
        models: vec![participant("broken", &broken)],
    };
    let error = evaluation.run(&mut |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`broken` gives a logit of NaN for token 0 at position 4 of chunk 0"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");

    let none = Evaluation { reference: None, models: vec![], ..evaluation };
    assert!(matches!(none.run(&mut |_| ()), Err(EvaluationError::NoModel)));
    let far = Chunks::new(&[11; 20], 8, None, None).unwrap();
    let models = vec![participant("base", &base)];
    let far = Evaluation { chunks: &far, models: models.clone(), ..none };
    let error = far.run(&mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the text has the token 11, and the vocabulary of `base` has 11");
    let tight = Evaluation { chunks: &chunks, memory_budget_bytes: 100, ..far };
    let error = tight.run(&mut |_| ()).unwrap_err();
    assert!(matches!(error, EvaluationError::Budget { budget: 100, .. }), "{error}");
}
